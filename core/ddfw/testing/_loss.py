"""The conformance check of matching losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import evolve
from torch import Tensor

from ddfw.contracts.matching import AbstractMatchingLoss
from ddfw.contracts.trajectory import Segment
from ddfw.engine.metagradient import Path
from ddfw.testing._common import Checked, generator
from ddfw.testing._component import checking
from ddfw.testing._devices import elsewhere, require_there
from ddfw.testing._tensors import check_derivative, normal, require_scalar

STEPS = (1, 2, 5)


def check_loss(loss: AbstractMatchingLoss, *, parameters: int = 40, seed: int = 0) -> None:
    """Checks a matching loss on random paths of one, two and five steps, and on students that have not moved.

    Args:
        loss: the matching loss, with the options to check.
        parameters: number P of parameters of a point of the path.
        seed: seed of the paths.

    Raises:
        ConformanceError: the loss breaks its contract; the text tells the first fault found.
    """
    with checking("loss", loss, AbstractMatchingLoss) as subject:
        for dtype in (torch.float32, torch.float64):
            for steps in STEPS:
                _check_value(subject, loss, *_problem(steps, parameters, dtype, seed))
        for steps in STEPS:
            _check_gradient(subject, loss, *_problem(steps, parameters, torch.float64, seed))
            _check_unmoved(subject, loss, *_problem(steps, parameters, torch.float64, seed))

        def on_device(device: torch.device) -> None:
            points, segment = _problem(3, parameters, torch.float32, seed)
            path = Path([p.to(device) for p in points])
            moved = evolve(segment, start=segment.start.to(device), target=segment.target.to(device))
            value = loss.loss(path, moved)
            require_there(subject, "loss", value, device)
            path.cotangents(value)

        elsewhere(subject, "loss", on_device)


def _problem(steps: int, parameters: int, dtype: torch.dtype, seed: int) -> tuple[list[Tensor], Segment]:
    """A random path that goes about half of the way from the segment's start to its target."""
    start, way, *noise = normal((steps + 2, parameters), generator(seed), dtype)
    points = [start, *(start + way * (0.5 * i / steps) + 0.1 * moved for i, moved in enumerate(noise, start=1))]
    segment = Segment(start=start.clone(), target=start + way, expert=0, start_epoch=1.0, target_epoch=3.0)
    return points, segment


def _check_value(subject: Checked, loss: AbstractMatchingLoss, points: list[Tensor], segment: Segment) -> None:
    """Checks that the loss is a finite scalar, is deterministic, and changes neither path nor segment."""
    dtype = points[0].dtype
    hint = "the path is a Sequence that is indexed, sliced or iterated, not a list or a tensor"

    def value(rows: Sequence[Tensor]) -> Tensor:
        return loss.loss(Path(rows), segment)

    with subject.unchanged("loss changes the path or the segment; work on a copy", lambda: (points, segment)):
        found = subject.call("loss", value, points, hint=hint)
    require_scalar(subject, "loss", found, dtype)
    subject.require(
        found.requires_grad,
        "loss returns a detached number: it does not depend differentiably on the path, so nothing would be learned; "
        "compute with the path's rows, without detach, no_grad or float(…)",
    )
    subject.once("loss", value, [p + 0.5 for p in points])
    subject.again("loss", found, value, [p.clone() for p in points])
    for share in (0.5, 1.0):
        nearer = [*points[:-1], torch.lerp(points[-1], segment.target, share)]
        require_scalar(subject, "loss of a path that ends nearer to the target", value(nearer), dtype)


def _check_gradient(subject: Checked, loss: AbstractMatchingLoss, points: list[Tensor], segment: Segment) -> None:
    """Checks the derivative with respect to each row that the loss reads against central differences."""
    path = Path(points)
    gradients = path.cotangents(loss.loss(path, segment))
    wrong = "loss returns a detached number: its gradient is 0 on every row of the path, so nothing would be learned"
    subject.require(any(g.any() for g in gradients.values()), wrong)
    for row, point in enumerate(points):

        def value(moved: Tensor, row: int = row) -> Tensor:
            return loss.loss(Path([*points[:row], moved, *points[row + 1 :]]), segment)

        gradient = gradients.get(row, torch.zeros_like(point))
        check_derivative(subject, "loss", f"row {row} of {len(points)}", value, point, gradient)


def _check_unmoved(subject: Checked, loss: AbstractMatchingLoss, points: list[Tensor], segment: Segment) -> None:
    """Checks that loss and gradient are finite for a student whose points all equal the segment's start."""
    path = Path([segment.start.clone() for _ in points])
    found = subject.once("loss of a student that has not moved", lambda: loss.loss(path, segment))
    cause = (
        "for a student that has not moved (path[-1] equals segment.start), which images of one colour or a tiny step "
        "size lead to; a run would end as diverged. Do not divide by the way that the student went, and take no root "
        "or norm of it without adding a small number first; the way from segment.start to segment.target is never 0"
    )
    subject.require(found.isfinite(), f"loss is {float(found.detach())} {cause}")
    for row, gradient in path.cotangents(found).items():
        subject.require(gradient.isfinite().all(), f"the gradient of loss in row {row} is not finite {cause}")
