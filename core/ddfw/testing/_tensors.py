"""Checks for both parameterisations and label strategies: their named tensors, index arguments and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from ddfw.contracts.parameterization import ParamGroup
from ddfw.testing._common import Checked, clones, generator, is_scalar, same, storages

Tensors = Mapping[str, Tensor]


def check_stored(subject: Checked, tensors: Tensors, dtype: torch.dtype, inputs: Tensor) -> None:
    """Checks that tensors are named, finite, of the right dtype, storable in a file, and share no memory."""
    subject.require(
        isinstance(tensors, Mapping) and all(isinstance(k, str) and k for k in tensors),
        "init has to return a mapping from names to tensors",
    )
    for key, tensor in tensors.items():
        subject.require(isinstance(tensor, Tensor), f"init's {key!r} is a {type(tensor).__name__}, not a tensor")
        subject.require(
            not tensor.is_complex(),
            f"init's {key!r} is complex and understates its floats: only floating tensors are counted; store real and "
            "imaginary part (torch.view_as_real)",
        )
        subject.require(not tensor.requires_grad, f"init's {key!r} requires a gradient; return plain tensors")
        if not tensor.is_floating_point():
            continue
        subject.require(
            tensor.dtype == dtype,
            f"init hard-codes a dtype: {key!r} is {tensor.dtype} for images in {dtype}; runs can be float32 or float64",
        )
        subject.require(bool(tensor.isfinite().all()), f"init's {key!r} is not finite")
    addresses = storages(list(tensors.values()))
    subject.require(
        len(set(addresses)) == len(addresses),
        "two of init's tensors share memory; they are updated and saved one by one, so clone them",
    )
    subject.require(
        not set(addresses) & set(storages([inputs])),
        "init's tensors share memory with the images that it was given; clone them, since they are updated in place",
    )
    saved = load(save({key: t.contiguous() for key, t in tensors.items()}))
    subject.require(
        set(saved) == set(tensors) and all(same(saved[key], t) for key, t in tensors.items()),
        "init's tensors change when they are saved and loaded",
    )


def floats_in(tensors: Tensors) -> int:
    """Number of elements of all floating-point tensors."""
    return sum(t.numel() for t in tensors.values() if t.is_floating_point())


def integers_in(tensors: Tensors) -> int:
    """Number of elements of all tensors that are not floating point."""
    return sum(t.numel() for t in tensors.values() if not t.is_floating_point())


def learned_keys(subject: Checked, groups: Sequence[ParamGroup], tensors: Tensors) -> tuple[str, ...]:
    """Checks the parameter groups and returns the names of the tensors in them."""
    keys: list[str] = []
    for group in groups:
        subject.require(isinstance(group, ParamGroup), "param_groups has to return a tuple of ParamGroup")
        subject.require(bool(group.keys), "param_groups has a group without tensors; leave it out")
        for key in group.keys:
            subject.require(
                key in tensors, f"param_groups names {key!r}, but there are only {', '.join(map(repr, tensors))}"
            )
            subject.require(
                tensors[key].is_floating_point(), f"param_groups names {key!r}, which is not floating; tables are fixed"
            )
            subject.require(key not in keys, f"param_groups names {key!r} twice; a tensor has one optimiser")
            keys.append(key)
        subject.require(
            math.isfinite(group.lr) and group.lr >= 0, f"param_groups has the learning rate {group.lr}; it is >= 0"
        )
        top = 1.0 if group.optimiser == "sgd" else math.nextafter(1.0, 0.0)
        subject.require(
            0 <= group.momentum <= top, f"param_groups has the momentum {group.momentum} for {group.optimiser}"
        )
        subject.require(
            group.optimiser in ("sgd", "adam"), f"param_groups asks for {group.optimiser!r}; known are sgd and adam"
        )
    return tuple(keys)


def check_index(subject: Checked, what: str, read: Callable[[Tensor], Tensor], everything: Tensor) -> None:
    """Checks that a method returns the rows whose numbers it is given.

    Args:
        subject: the component.
        what: name of the method, for the error text.
        read: calls the method with an index [B].
        everything: the method's result for all n rows in order.
    """
    n = len(everything)
    order = torch.randperm(n, generator=generator(3))
    for index in (order, order[: max(1, n // 2)], order[:1], torch.tensor([n - 1, 0, n - 1]), torch.arange(n).flip(0)):
        found = subject.once(what, lambda index=index: read(index))  # type: ignore[misc]
        shown = index.tolist() if len(index) <= 6 else f"of {len(index)} rows in another order"
        if found.shape != (len(index), *everything.shape[1:]) or (
            n > 1 and close(found, everything[: len(index)]) and not close(everything[index], everything[: len(index)])
        ):
            subject.fail(
                f"{what} ignores the index: for the index {shown} it gives {tuple(found.shape)}, the rows that come "
                "first; an outer step asks for some rows only, in any order"
            )
        if not close(found, everything[index]):
            subject.fail(
                f"{what} scrambles rows: row j of {what}(index) has to be row index[j] of all, and is not for the "
                f"index {shown}; the gradients of a step would go to other images"
            )


def close(a: Tensor, b: Tensor) -> bool:
    """Whether tensors are equal up to rounding, which may depend on the number of rows in a batched product."""
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-4
    return a.shape == b.shape and bool(torch.allclose(a, b.to(a.dtype), rtol=tolerance, atol=tolerance))


def leaves_of(tensors: Tensors) -> dict[str, Tensor]:
    """Copies of the floating-point tensors as leaves of autograd; integer tensors are returned unchanged."""
    return {k: t.requires_grad_() if t.is_floating_point() else t for k, t in clones(tensors).items()}


def perturbed(tensors: Tensors, seed: int, size: float = 0.1) -> dict[str, Tensor]:
    """The tensors with random noise of `size` times their scale added, so that no value is 0 by design."""
    rng = generator(seed)

    def moved(tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=rng, dtype=torch.float64).to(tensor)
        return tensor + size * (tensor.abs().mean() + 0.1) * noise

    return {k: moved(t) if t.is_floating_point() else t.clone() for k, t in tensors.items()}


def check_gradients(
    subject: Checked,
    what: str,
    function: Callable[[Tensors], Tensor],
    tensors: Tensors,
    learned: Sequence[str],
) -> None:
    """Checks that a result depends on all learned tensors and that autograd's derivatives are correct.

    Args:
        subject: the component.
        what: name of the method, for the error text.
        function: calls the method, from float64 tensors to a float64 tensor.
        tensors: the float64 tensors at which to check.
        learned: names of the tensors that must have a gradient.
    """
    leaves = leaves_of(tensors)
    floating = [k for k, t in leaves.items() if t.is_floating_point()]
    found = subject.once(what, lambda: function(leaves))
    weights = torch.randn(found.shape, generator=generator(5), dtype=torch.float64)
    gradients: dict[str, Tensor | None] = dict.fromkeys(floating)
    if found.requires_grad and floating:
        value = (found * weights).sum()
        got = torch.autograd.grad(value, [leaves[k] for k in floating], allow_unused=True)
        gradients = dict(zip(floating, got, strict=True))
    for key in learned:
        gradient = gradients[key]
        if gradient is None or not bool(gradient.any()):
            subject.fail(
                f"{what} returns a detached result: it does not depend differentiably on {key!r}, which is to be "
                f"learned and would never change; compute with {key!r} itself, without detach, no_grad or numpy"
            )
    for key, gradient in gradients.items():
        if gradient is not None:
            _check_derivative(subject, what, function, tensors, key, gradient, weights)


def _check_derivative(
    subject: Checked,
    what: str,
    function: Callable[[Tensors], Tensor],
    tensors: Tensors,
    key: str,
    gradient: Tensor,
    weights: Tensor,
) -> None:
    """Checks a gradient against central differences along one random direction."""
    subject.require(bool(gradient.isfinite().all()), f"the gradient of {what} with respect to {key!r} is not finite")
    direction = torch.randn(gradient.shape, generator=generator(6), dtype=torch.float64)
    step = 1e-6 * (1 + float(tensors[key].abs().mean()))

    def value(side: int) -> float:
        moved = {**clones(tensors), key: tensors[key] + side * step * direction}
        with torch.no_grad():
            return float((function(moved) * weights).sum())

    numeric = (value(1) - value(-1)) / (2 * step)
    exact = float((gradient * direction).sum())
    rounding = 1e-14 * float(weights.abs().sum()) / step
    if abs(numeric - exact) > rounding + 1e-4 * (abs(exact) + abs(numeric) + float(gradient.norm())):
        subject.fail(
            f"the gradient of {what} with respect to {key!r} is wrong: along a random direction autograd says "
            f"{exact:.6g} and finite differences {numeric:.6g}; look for detach, rounding, in-place changes, or a cast "
            "to float32 on the way"
        )


def require_scalar(subject: Checked, what: str, value: object, dtype: torch.dtype) -> None:
    """Checks that a value is a finite scalar tensor of the right dtype."""
    if not is_scalar(value):
        subject.fail(f"{what} has to return a scalar floating tensor, got {_shown(value)}")
    assert isinstance(value, Tensor)
    subject.require(value.dtype == dtype, f"{what} hard-codes a dtype: it gives {value.dtype} for tensors in {dtype}")
    subject.require(bool(value.isfinite()), f"{what} gives {float(value.detach())} for finite tensors")


def _shown(value: object) -> str:
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
