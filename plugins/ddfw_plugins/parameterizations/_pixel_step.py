"""Steps of factors that move decoded images as `pixel` would.

Factors determine an image only together: U and B mean the same images as U·A and A⁻¹·B. A plain gradient step of both
moves the images otherwise for each A, and more or less far than a step of pixels. The step here is the least-squares
answer to the question which change of the factors moves the decoded images along ∂L/∂X:

    d = argmin ‖J·d − ∂L/∂X‖²,   J = ∂X/∂φ,   so that   JᵀJ·d = ∂L/∂φ

Images then move by the pixels' step, projected onto what the factors can express. That is the same for every A; where
the factors can express every image, it is the pixels' step.

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

#: A direction that carries less than about this part of the cores' mean energy turns more slowly than least squares
#: asks for: there a small step of the images is a large one of the mapper, and the linear picture ends.
DAMPING = 1e-3
#: Conjugate gradients end after so many steps at the latest. Few steps leave weak directions as they are, which is what
#: damping does in closed forms.
ITERATIONS = 30

#: What all learning rates of parameterisations mean.
PER_IMAGE = "per image: multiplied by the number of images, since each has only its share in the mean over a batch"

_APPLY = {"c": "nrhw,nsr->nshw", "h": "ncrw,nsr->ncsw", "w": "nchr,nsr->nchs"}
_GRAM = {"c": "nrhw,nshw->nrs", "h": "ncrw,ncsw->nrs", "w": "nchr,nchs->nrs"}

Tensors = Mapping[str, Tensor]
if TYPE_CHECKING:
    _Pulled = tuple[Tensor, Callable[[Any], Any]]


def apply(cores: Tensor, mode: str, matrices: Tensor) -> Tensor:
    """Each core [n, r_c, r_h, r_w] multiplied along one mode by its own matrix [n, s, r]."""
    return torch.einsum(_APPLY[mode], cores, matrices)


def damped(energy: Tensor, gram: Tensor) -> Tensor:
    """The energies of factors [S, r, r], each with `DAMPING` of its mean added in every direction.

    Args:
        energy: Σ_n b_n b_nᵀ of what multiplies a factor with r columns, float64.
        gram: UᵀU [S, r, r] of the factor; in an orthonormal basis, the identity, what is added is a multiple of it, and
            so it means the same in every basis.
    """
    mean = torch.einsum("srq,sqr->s", energy, gram) / energy.shape[1]
    added = DAMPING * mean + torch.finfo(energy.dtype).tiny
    found: Tensor = energy + added[:, None, None] * torch.linalg.inv(gram)
    return found


class TuckerBlocks:
    """The diagonal blocks of JᵀJ for cores and mappers, and their inverses.

    Args:
        cores: [n, r_c, r_h, r_w] in float64.
        maps: [S, size, r] of each stored mode, in float64.
        owner: the subspace [n] of each core; None where every core is decoded in all of them.
        kept: how many leading rows and columns the cores keep of each channel; None where they keep all.
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
        """The change of the cores [n, r_c, r_h, r_w] that moves images best while mappers stay."""
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
        """(UᵀU)⁻¹ [S, r, r] of a part of each mode; their mean over subspaces [1, r, r] where cores have them all."""
        found = {mode: torch.linalg.inv(gram[:, part[mode], part[mode]]) for mode, gram in grams.items()}
        return found if self._owner is not None else {m: v.mean(dim=0, keepdim=True) for m, v in found.items()}

    def solve_map(self, mode: str, gradient: Tensor) -> Tensor:
        """The change of a mode's mappers [S, size, r] that moves images best while all else stays."""
        solved: Tensor = torch.linalg.solve(self._blocks[mode], gradient, left=False)
        return solved

    def outside(self, mode: str, change: Tensor) -> Tensor:
        """The part of a change of mappers that leaves their span; what stays inside, cores can do."""
        u = self._maps[mode]
        outside: Tensor = change - u @ (self._inverse[mode] @ (u.transpose(1, 2) @ change))
        return outside

    def _energy(self, cores: Tensor, mode: str, grams: Tensors) -> Tensor:
        """Σ_n B_n (VᵀV ⊗ QᵀQ) B_nᵀ [S, r, r] over each subspace's cores, unfolded along a mode."""
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
    """The solution d of A·d = right of smallest norm in the preconditioner's metric.

    Args:
        multiply: A, symmetric and positive semi-definite; `right` lies in its range.
        right: named float64 tensors.
        precondition: an approximation of A⁻¹, symmetric and positive definite.
        dtype: in which `right` was computed; what is below its rounding is not solved for.
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
    # u ↦ Jᵀu is linear, so its own pullback is d ↦ J·d; forward mode would do the same and warns in some versions.
    _, push = cast("_Pulled", torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(images)))

    def multiply(change: Tensors) -> Tensors:
        (moved,) = push(dict(change))
        (pulled,) = pull(moved)
        return dict(pulled)

    return multiply


def _inner(some: Tensors, others: Tensors) -> Tensor:
    return torch.stack([(v * others[k]).sum() for k, v in some.items()]).sum()
