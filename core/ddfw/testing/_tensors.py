"""Checks of tensors that components return, and of their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ddfw.testing._common import Checked, clones, generator

Tensors = Mapping[str, Tensor]


def normal(shape: Sequence[int], rng: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normally distributed numbers, which are the same in every dtype up to rounding."""
    return torch.randn(tuple(shape), generator=rng, dtype=torch.float64).to(dtype)


def require_tensor(
    subject: Checked,
    what: str,
    value: object,
    shape: tuple[int, ...],
    dtype: torch.dtype | None,
    *,
    part: str = "",
    given: str = "tensors",
    hint: str = "",
) -> Tensor:
    """Checks that a result is a plain finite tensor of the right shape and dtype, and returns it.

    Args:
        subject: the component.
        what: name of the called method, for the error text.
        value: the result.
        shape: the right shape.
        dtype: the right dtype, which is that of the call's arguments; None: every dtype is right.
        part: name of the result among several results of the call.
        given: what the arguments are, in words.
        hint: what the elements of the result are, in words.

    Raises:
        ConformanceError: the result breaks one of these rules.
    """
    name = part and f"as {part} "
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        expected = f"{'[P] = ' if len(shape) == 1 else ''}{shape}"
        subject.fail(f"{what} gives {name}{_shown(value)}, expected {expected}{hint}")
    wrong = f"{what} hard-codes a dtype: {part or 'it'} is {value.dtype} for {given} in {dtype}"
    subject.require(dtype in (None, value.dtype), wrong)
    subject.require(value.isfinite().all(), f"{what} gives {name}numbers that are not finite for finite {given}")
    subject.require(not value.requires_grad, f"{what} gives {name}a tensor that requires a gradient; make it plain")
    return value


def require_scalar(subject: Checked, what: str, value: object, dtype: torch.dtype) -> None:
    """Checks that a value is a finite scalar tensor of the right dtype."""
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        subject.fail(f"{what} has to return a scalar floating tensor, got {_shown(value)}")
    subject.require(value.dtype == dtype, f"{what} hard-codes a dtype: it gives {value.dtype} for tensors in {dtype}")
    subject.require(value.isfinite(), f"{what} gives {float(value.detach())} for finite tensors")


def _shown(value: object) -> str:
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def close(a: Tensor, b: Tensor) -> bool:
    """Whether tensors are equal up to rounding, which may depend on the number of rows in a batched product."""
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-4
    return a.shape == b.shape and bool(torch.allclose(a, b.to(a.dtype), rtol=tolerance, atol=tolerance))


def floating(tensors: Tensors) -> dict[str, Tensor]:
    """The floating-point tensors among the given ones."""
    return {key: t for key, t in tensors.items() if t.is_floating_point()}


def leaves_of(tensors: Tensors) -> dict[str, Tensor]:
    """Copies of the tensors, of which the floating-point ones are leaves of autograd."""
    return {key: t.requires_grad_(t.is_floating_point()) for key, t in clones(tensors).items()}


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
    found = subject.once(what, function, leaves)
    weights = normal(found.shape, generator(5))
    gradients = gradients_of(found, floating(leaves), weights)
    for key in learned:
        subject.require(
            key in gradients and gradients[key].any(),
            f"{what} returns a detached result: it does not depend differentiably on {key!r}, which is to be learned "
            f"and would never change; compute with {key!r} itself, without detach, no_grad or numpy",
        )
    for key, gradient in gradients.items():

        def value(moved: Tensor, key: str = key) -> Tensor:
            return (function({**clones(tensors), key: moved}) * weights).sum()

        check_derivative(subject, what, repr(key), value, tensors[key], gradient, float(weights.abs().sum()))


def gradients_of(result: Tensor, leaves: Tensors, cotangent: Tensor) -> dict[str, Tensor]:
    """The gradients of a result with respect to those leaves of autograd on which it depends."""
    if not leaves or not result.requires_grad:
        return {}
    found = torch.autograd.grad(result, list(leaves.values()), cotangent, allow_unused=True)
    return {key: gradient for key, gradient in zip(leaves, found, strict=True) if gradient is not None}


def check_derivative(
    subject: Checked,
    what: str,
    by: str,
    value: Callable[[Tensor], Tensor],
    point: Tensor,
    gradient: Tensor,
    size: float = 1.0,
) -> None:
    """Checks a gradient against central differences along one random direction.

    Args:
        subject: the component.
        what: name of the method, for the error text.
        by: name of the differentiated argument, for the error text.
        value: calls the method, from the argument to a scalar.
        point: the argument, in float64.
        gradient: the gradient of `value` at `point`, by autograd.
        size: size of the numbers that `value` sums up, on which its rounding errors depend.
    """
    subject.require(gradient.isfinite().all(), f"the gradient of {what} with respect to {by} is not finite")
    step = 1e-6 * (1 + float(point.abs().mean()))
    with torch.no_grad():
        exact, numeric = slopes(value, [point], [gradient], step, generator(6))
    tolerance = 1e-14 * size / step + 1e-4 * (abs(exact) + abs(numeric) + float(gradient.norm()))
    subject.require(
        math.isnan(step) or abs(numeric - exact) <= tolerance,  # nan: the mean of a tensor without elements
        f"the gradient of {what} with respect to {by} is wrong: along a random direction autograd says {exact:.6g} and "
        f"finite differences {numeric:.6g}; look for detach (a detached denominator, say), rounding, in-place changes, "
        "or a cast to float32 on the way",
    )


def slopes(
    value: Callable[..., Tensor],
    points: Sequence[Tensor],
    gradients: Sequence[Tensor],
    step: float,
    rng: torch.Generator,
) -> tuple[float, float]:
    """A function's derivative along one random direction, by the gradients given and by central differences."""
    ways = [normal(p.shape, rng) for p in points]
    ahead, behind = (
        float(value(*(p.detach() + side * step * way for p, way in zip(points, ways, strict=True))).detach())
        for side in (1, -1)
    )
    exact = sum(float((g * way).sum()) for g, way in zip(gradients, ways, strict=True))
    return exact, (ahead - behind) / (2 * step)
