"""Update directions for images stored as products of factors, which move decoded images as steps of pixels would.

Factors are not unique: U and B decode to the same images as U·A and A⁻¹·B. A plain gradient step of the factors moves
the images differently for each A, and not as far as a step of pixels. The direction computed here is instead the
least-squares solution for the change of the factors that moves the decoded images along ∂L/∂X:

    d = argmin ‖J·d − ∂L/∂X‖²,   J = ∂X/∂φ,   so that   JᵀJ·d = ∂L/∂φ

The images then move by the step of pixels projected onto the images that the factors can express. This is the same for
every A, and is the step of pixels itself if the factors can express every image.

Shapes: n cores, S subspaces, r_c/r_h/r_w ranks; a mode is one of c, h, w, and `size` its number of channels, rows or
columns.
Source: gradients in the tangent space of low-rank tensors, Kressner, Steinlechner and Vandereycken, "Low-rank tensor
completion by Riemannian optimization" (BIT 2014); preconditioned factors, Tong, Ma and Chi, "Accelerating
ill-conditioned low-rank matrix estimation via scaled gradient descent" (JMLR 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

#: Damping of the least-squares solution, as a part of the cores' mean energy. It slows mappers down in directions with
#: less energy than that, in which a small step of the images needs a large step of the mapper, so that the linear
#: approximation would not hold.
DAMPING = 1e-3
#: Largest number of steps of conjugate gradients. Few steps hardly change weak directions, so they act like damping.
ITERATIONS = 30

#: End of the help texts of all parameterisations' learning rates.
PER_IMAGE = "per image: it is multiplied by the number of images, because the loss is a mean over images"

_APPLY = {"c": "nrhw,nsr->nshw", "h": "ncrw,nsr->ncsw", "w": "nchr,nsr->nchs"}
_GRAM = {"c": "nrhw,nshw->nrs", "h": "ncrw,ncsw->nrs", "w": "nchr,nchs->nrs"}

Tensors = Mapping[str, Tensor]
if TYPE_CHECKING:
    _Pulled = tuple[Tensor, Callable[[Any], Any]]


def apply(cores: Tensor, mode: str, matrices: Tensor) -> Tensor:
    """Multiplies each core of [n, r_c, r_h, r_w] along one mode by its own matrix of [n, s, r]."""
    return torch.einsum(_APPLY[mode], cores, matrices)


def damped(energy: Tensor, gram: Tensor) -> Tensor:
    """Adds `DAMPING` times the mean energy to a factor's energy matrix, in every direction.

    Args:
        energy: [S, r, r] float64, Σ_n b_n b_nᵀ over the rows b_n that multiply a factor with r columns.
        gram: [S, r, r] float64, UᵀU of the factor U. A multiple of it is added, so that the result does not depend on
            the basis in which the factor is stored.

    Returns:
        [S, r, r] the damped energies.
    """
    mean = torch.einsum("srq,sqr->s", energy, gram) / energy.shape[1]
    added = DAMPING * mean + torch.finfo(energy.dtype).tiny
    found: Tensor = energy + added[:, None, None] * torch.linalg.inv(gram)
    return found


class TuckerBlocks:
    """The blocks of JᵀJ for cores and for each mode's mappers, and their inverses.

    Args:
        cores: [n, r_c, r_h, r_w] float64.
        maps: the mappers [S, size, r] float64 of each stored mode.
        owner: [n] the subspace of each core; None if every core is decoded in all subspaces.
        kept: for each channel how many leading rows and columns the cores keep; None if they keep all.
    """

    def __init__(
        self, cores: Tensor, maps: Tensors, owner: Tensor | None, kept: Sequence[tuple[int, int]] | None = None
    ) -> None:
        self._maps, self._owner = maps, owner
        grams = {mode: u.transpose(1, 2) @ u for mode, u in maps.items()}
        self._inverse = {mode: torch.linalg.inv(gram) for mode, gram in grams.items()}
        energy = {mode: self._energy(cores, mode, grams) for mode in maps}
        self._blocks = {mode: damped(energy[mode], grams[mode]) for mode in maps}
        everything = {"c": slice(None), "h": slice(None), "w": slice(None)}
        channels = [{"c": slice(j, j + 1), "h": slice(h), "w": slice(w)} for j, (h, w) in enumerate(kept or ())]
        self._of_cores = [(part, self._inverses(grams, part)) for part in channels or [everything]]

    def solve_cores(self, gradient: Tensor) -> Tensor:
        """The least-squares change of the cores [n, r_c, r_h, r_w] for fixed mappers, from the cores' gradient."""
        solved = torch.zeros_like(gradient)
        for part, inverses in self._of_cores:
            where = (slice(None), part["c"], part["h"], part["w"])
            change = gradient[where]
            for mode, inverse in inverses.items():
                each = inverse.expand(len(change), -1, -1) if self._owner is None else inverse[self._owner]
                change = apply(change, mode, each)
            solved[where] = change
        return solved if self._owner is not None else solved / len(next(iter(self._maps.values())))

    def _inverses(self, grams: Tensors, part: Mapping[str, slice]) -> dict[str, Tensor]:
        """(UᵀU)⁻¹ [S, r, r] of a part of each mode's mappers; its mean over subspaces if each core is in all."""
        found = {mode: torch.linalg.inv(gram[:, part[mode], part[mode]]) for mode, gram in grams.items()}
        return found if self._owner is not None else {m: v.mean(dim=0, keepdim=True) for m, v in found.items()}

    def solve_map(self, mode: str, gradient: Tensor) -> Tensor:
        """The least-squares change of a mode's mappers [S, size, r] while everything else is fixed."""
        solved: Tensor = torch.linalg.solve(self._blocks[mode], gradient, left=False)
        return solved

    def outside(self, mode: str, change: Tensor) -> Tensor:
        """The part of a change of mappers that leaves their span; a change within the span is left to the cores."""
        u = self._maps[mode]
        outside: Tensor = change - u @ (self._inverse[mode] @ (u.transpose(1, 2) @ change))
        return outside

    def _energy(self, cores: Tensor, mode: str, grams: Tensors) -> Tensor:
        """The energy Σ_n B_n (VᵀV ⊗ QᵀQ) B_nᵀ [S, r, r] of each subspace's cores B_n, unfolded along a mode."""
        found = []
        for k in range(len(grams[mode])):
            rows = cores if self._owner is None else cores[self._owner == k]
            seen = rows
            for other, gram in grams.items():
                if other != mode:
                    seen = apply(seen, other, gram[k].expand(len(rows), -1, -1))
            found.append(torch.einsum(_GRAM[mode], rows, seen).sum(dim=0))
        return torch.stack(found)


def conjugate_gradients(
    multiply: Callable[[Tensors], Tensors],
    right: Tensors,
    precondition: Callable[[Tensors], Tensors],
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Solves A·d = right by preconditioned conjugate gradients.

    Args:
        multiply: multiplies by A, which is symmetric and positive semi-definite and has `right` in its range.
        right: the right-hand side, named float64 tensors.
        precondition: multiplies by an approximation of A⁻¹ that is symmetric and positive definite.
        dtype: the dtype in which `right` was computed; iterations end when the residual is below its rounding.

    Returns:
        d, the solution of smallest norm in the preconditioner's metric, with the names and shapes of `right`.
    """
    precision = torch.finfo(dtype).eps ** 0.75
    solution = {k: torch.zeros_like(v) for k, v in right.items()}
    residual = dict(right)
    ready = precondition(residual)
    step, size = dict(ready), _inner(residual, ready)
    first = size
    for _ in range(ITERATIONS):
        if not size > precision**2 * first:
            break
        image = multiply(step)
        length = size / _inner(step, image)
        solution = {k: v + length * step[k] for k, v in solution.items()}
        residual = {k: v - length * image[k] for k, v in residual.items()}
        ready = precondition(residual)
        size, before = _inner(residual, ready), size
        step = {k: v + (size / before) * step[k] for k, v in ready.items()}
    return solution


def normal_matrix(decode: Callable[[Tensors], Tensor], at: Tensors) -> Callable[[Tensors], Tensors]:
    """The map d ↦ JᵀJ·d for J = ∂decode/∂φ at the named float64 tensors `at`."""
    images, pull = cast("_Pulled", torch.func.vjp(decode, dict(at)))
    # u ↦ Jᵀu is linear, so its pullback is d ↦ J·d. Forward mode gives the same, but warns in some versions of PyTorch.
    _, push = cast("_Pulled", torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(images)))

    def multiply(change: Tensors) -> Tensors:
        (moved,) = push(dict(change))
        (pulled,) = pull(moved)
        return dict(pulled)

    return multiply


def _inner(some: Tensors, others: Tensors) -> Tensor:
    return torch.stack([(v * others[k]).sum() for k, v in some.items()]).sum()
