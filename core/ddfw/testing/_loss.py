"""The conformance check of matching losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddfw.contracts.matching import AbstractMatchingLoss
from ddfw.contracts.trajectory import Segment
from ddfw.engine.metagradient import Path
from ddfw.testing._common import Checked, checking, generator, same
from ddfw.testing._devices import elsewhere, require_there
from ddfw.testing._tensors import require_scalar

STEPS = (1, 2, 5)


def check_loss(loss: AbstractMatchingLoss, *, parameters: int = 40, seed: int = 0) -> None:
    """Checks a matching loss on random paths of one, two and five steps.

    Args:
        loss: the matching loss, with the options to check.
        parameters: number P of parameters of a point of the path.
        seed: seed of the paths.

    Raises:
        ConformanceError: the loss breaks its contract; the text tells the first fault found.
    """
    subject = Checked("loss", loss)
    with checking(subject, AbstractMatchingLoss):
        for dtype in (torch.float32, torch.float64):
            for steps in STEPS:
                _check_value(subject, loss, *_problem(steps, parameters, dtype, seed))
        for steps in STEPS:
            _check_gradient(subject, loss, *_problem(steps, parameters, torch.float64, seed))

        def on_device(device: torch.device) -> None:
            points, segment = _problem(3, parameters, torch.float32, seed)
            path = Path([p.to(device) for p in points])
            value = loss.loss(path, _moved(segment, device))
            require_there(subject, "loss", value, device)
            path.cotangents(value)

        elsewhere(subject, "loss", on_device)


def _problem(steps: int, parameters: int, dtype: torch.dtype, seed: int) -> tuple[list[Tensor], Segment]:
    """A random path that goes about half of the way from the segment's start to its target."""
    rng = generator(seed)

    def normal() -> Tensor:
        return torch.randn(parameters, generator=rng, dtype=torch.float64).to(dtype)

    start, way = normal(), normal()
    points = [start]
    points += [start + way * (0.5 * i / steps) + 0.1 * normal() for i in range(1, steps + 1)]
    segment = Segment(start=start.clone(), target=start + way, expert=0, start_epoch=1.0, target_epoch=3.0)
    return points, segment


def _moved(segment: Segment, device: torch.device) -> Segment:
    return Segment(
        start=segment.start.to(device),
        target=segment.target.to(device),
        expert=segment.expert,
        start_epoch=segment.start_epoch,
        target_epoch=segment.target_epoch,
    )


def _check_value(subject: Checked, loss: AbstractMatchingLoss, points: list[Tensor], segment: Segment) -> None:
    """Checks that the loss is a finite scalar, is deterministic, and changes neither path nor segment."""
    before = [p.clone() for p in points], segment.start.clone(), segment.target.clone()
    dtype = points[0].dtype
    hint = "the path is a Sequence that is indexed, sliced or iterated, not a list or a tensor"

    def value(rows: Sequence[Tensor]) -> Tensor:
        return loss.loss(Path(rows), segment)

    found = subject.call("loss", lambda: value(points), hint=hint)
    require_scalar(subject, "loss", found, dtype)
    subject.require(
        found.requires_grad,
        "loss returns a detached number: it does not depend differentiably on the path, so nothing would be learned; "
        "compute with the path's rows, without detach, no_grad or float(…)",
    )
    subject.require(
        same((points, segment.start, segment.target), before), "loss changes the path or the segment; work on copies"
    )
    others = [p + 0.5 for p in points]
    subject.once("loss", lambda: value(others))
    subject.again("loss", found, lambda: value([p.clone() for p in points]))
    for share in (0.5, 1.0):
        nearer = [*points[:-1], torch.lerp(points[-1], segment.target, share)]
        require_scalar(subject, "loss of a path that ends nearer to the target", value(nearer), dtype)


def _check_gradient(subject: Checked, loss: AbstractMatchingLoss, points: list[Tensor], segment: Segment) -> None:
    """Checks the derivative with respect to each row that the loss reads against central differences."""
    path = Path(points)
    gradients = path.cotangents(loss.loss(path, segment))
    subject.require(
        any(bool(g.any()) for g in gradients.values()),
        "loss returns a detached number: its gradient is 0 on every row of the path, so nothing would be learned",
    )
    rng = generator(7)
    for row in range(len(points)):
        direction = torch.randn(points[row].shape, generator=rng, dtype=torch.float64)

        def value(step: float, row: int = row, direction: Tensor = direction) -> float:
            moved = [p + step * direction if i == row else p for i, p in enumerate(points)]
            return float(loss.loss(Path(moved), segment).detach())

        numeric = (value(1e-6) - value(-1e-6)) / 2e-6
        gradient = gradients.get(row, torch.zeros_like(points[row]))
        exact = float((gradient * direction).sum())
        if not abs(numeric - exact) <= 1e-4 * (abs(exact) + abs(numeric) + float(gradient.norm())) + 1e-8:
            subject.fail(
                f"the gradient of loss with respect to row {row} of {len(points)} is wrong: along a random direction "
                f"autograd says {exact:.6g} and finite differences {numeric:.6g}; look for detach (a detached "
                "denominator, say), in-place changes, or a cast to float32"
            )
