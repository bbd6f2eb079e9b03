"""The exact meta-gradient: the derivative of the matching loss by images, labels and step size, through N inner steps.

Shapes: B images of the problem, b images of one batch, C channels, H rows, W columns, m classes, N steps, P parameters.

The forward pass keeps the points w_i of the student's path. The backward pass is an adjoint recursion: it starts from
λ_N = ∂L/∂w_N, adds ∂L/∂w_i wherever the loss reads an inner point, and differentiates each step's gradient g_i once:

    s_i = g_i · λ_{i+1},   ∂L/∂a −= s_i,   ∂L/∂X −= a ∂s_i/∂X,   ∂L/∂Y −= a ∂s_i/∂Y,   λ_i = λ_{i+1} − a ∂s_i/∂w_i

A step whose autograd graph was held since the forward pass is not computed a second time. Holding no graphs takes the
least memory, holding all N takes as much as ordinary backpropagation through the steps; the result is the same.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.contracts.executor import MetaGradient
from ddfw.contracts.watch import broken
from ddfw.engine.inner import EagerSteps, Network, StepGraph, StepPullback
from ddfw.engine.interruption import stop_if_wanted

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.executor import Problem, Schedule
    from ddfw.contracts.matching import AbstractMatchingLoss
    from ddfw.contracts.trajectory import Segment
    from ddfw.engine.inner import Steps


class Path(Sequence[Tensor]):
    """The student's points w_0 … w_N as given to a matching loss: a row becomes a leaf of autograd when it is read."""

    def __init__(self, points: Sequence[Tensor]) -> None:
        self._points = points
        self._leaves: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._points)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"the path has rows 0 … {len(self) - 1}, got {position}")
        position %= len(self)
        if position not in self._leaves:
            self._leaves[position] = self._points[position].detach().requires_grad_()
        return self._leaves[position]

    def cotangents(self, loss: Tensor) -> dict[int, Tensor]:
        """The derivative ∂loss/∂w_i [P] for each row number i that was read."""
        positions = list(self._leaves)
        if not positions or not loss.requires_grad:
            return {}
        found = torch.autograd.grad(loss, [self._leaves[i] for i in positions], allow_unused=True)
        return {i: g for i, g in zip(positions, found, strict=True) if g is not None}


def meta_gradient(
    network: Network,
    augmentation: AbstractAugmentation,
    loss: AbstractMatchingLoss,
    problem: Problem,
    segments: Sequence[Segment],
    *,
    method: str = "exact",
    tesla_form: str = "datm",
    held_steps: int = 0,
    steps: Steps | None = None,
) -> MetaGradient:
    """The meta-gradient averaged over segments.

    Args:
        network: the student.
        augmentation: applied to every batch, with the schedule's draws.
        loss: the matching loss.
        problem: images, targets, step size and one schedule per segment.
        segments: the pieces of expert paths that the student shall follow; at least one.
        method: `exact`, or `tesla` for the recursion without Hessian-vector terms.
        tesla_form: for method `tesla`: `datm`, or `released` (half the image and label gradient).
        held_steps: how many of the last steps keep their graph between the passes; at most N are held.
        steps: how a step that holds no graph is computed; None: by PyTorch, operation by operation.

    Returns:
        Loss and gradients, in the problem's dtype and on its device.
    """
    held = min(held_steps, len(problem.schedules[0].batches))
    sums = MetaGradient(
        loss=torch.zeros_like(problem.step_size),
        images=torch.zeros_like(problem.images),
        targets=torch.zeros_like(problem.targets),
        step_size=torch.zeros_like(problem.step_size),
        held_steps=held,
    )
    steps = steps or EagerSteps(network)
    for schedule, segment in zip(problem.schedules, segments, strict=True):
        unroll = _Unroll(network, augmentation, problem, schedule, steps, through_theta=method == "exact")
        graphs, path = unroll.forward(segment.start, held)
        view = Path(path)
        versions = [point._version for point in path]
        value = loss.loss(view, segment)
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
            raise broken(loss, "loss", "it has to return a scalar tensor that depends on the path")
        if versions != [point._version for point in path]:
            raise broken(loss, "loss", "it changes the path in place; work on a copy, such as path[-1].clone()")
        unroll.backward(path, graphs, view.cotangents(value), sums)
        sums.loss.add_(value.detach())
    scale = 1 / len(segments)
    data_scale = scale / 2 if method == "tesla" and tesla_form == "released" else scale
    return evolve(
        sums,
        loss=sums.loss * scale,
        images=sums.images * data_scale,
        targets=sums.targets * data_scale,
        step_size=sums.step_size * scale,
    )


@frozen
class _Unroll:
    """The N inner steps of one student on one schedule of batches."""

    network: Network
    augmentation: AbstractAugmentation
    problem: Problem
    schedule: Schedule
    steps: Steps
    through_theta: bool

    def forward(self, start: Tensor, held: int) -> tuple[list[StepGraph], list[Tensor]]:
        """The graphs of the last `held` steps, and the path of N + 1 points."""
        path, graphs = [start], list[StepGraph]()
        steps = len(self.schedule.batches)
        if isinstance(self.steps, EagerSteps):
            held = max(held, 1)  # the last step is pulled back first, so holding its graph takes no extra memory
        for i in range(steps):
            stop_if_wanted()
            rows = self.schedule.batches[i]
            images, targets = self.problem.images[rows], self.problem.targets[rows]
            if i >= steps - held:
                graphs.append(
                    StepGraph(
                        self.network,
                        path[-1],
                        self._augmented(i, images.requires_grad_()),
                        targets,
                        learn_targets=self.problem.learn_targets,
                        leaf=images,
                    )
                )
                gradient = graphs[-1].gradient
            else:
                gradient = self.steps.gradient(path[-1], self._augmented(i, images), targets)
            path.append(path[-1] - self.problem.step_size * gradient)
        return graphs, path

    def backward(
        self, path: list[Tensor], graphs: list[StepGraph], read: dict[int, Tensor], sums: MetaGradient
    ) -> None:
        """Runs the adjoint recursion from the last step to the first; adds to `sums` and removes used `graphs`."""
        steps, a = len(self.schedule.batches), self.problem.step_size
        cotangent = read.get(steps, torch.zeros_like(path[-1]))
        for i in reversed(range(steps)):
            stop_if_wanted()
            rows = self.schedule.batches[i]
            if graphs:
                pulled = graphs.pop().pull(cotangent, through_theta=self.through_theta)
            else:
                pulled = self._recomputed(i, path[i], cotangent)
            sums.step_size.sub_(pulled.s)
            sums.images.index_add_(0, rows, a * pulled.images, alpha=-1)
            if pulled.targets is not None and self.problem.learn_targets:
                sums.targets.index_add_(0, rows, a * pulled.targets, alpha=-1)
            if pulled.theta is not None:
                cotangent = cotangent - a * pulled.theta
            if i in read:
                cotangent = cotangent + read[i]

    def _recomputed(self, i: int, theta: Tensor, cotangent: Tensor) -> StepPullback:
        """Step i's pullback, recomputed; then the augmentation's, which needs only a first derivative."""
        rows = self.schedule.batches[i]
        batch: Tensor = self.problem.images[rows].requires_grad_()
        augmented = self._augmented(i, batch)
        pulled = self.steps.pull(
            theta,
            augmented.detach(),
            self.problem.targets[rows],
            cotangent,
            through_theta=self.through_theta,
            learn_targets=self.problem.learn_targets,
        )
        return evolve(pulled, images=torch.autograd.grad(augmented, batch, pulled.images)[0])

    def _augmented(self, i: int, images: Tensor) -> Tensor:
        """The augmented batch [b, C, H, W] of step i; it has an autograd graph if `images` require a gradient."""
        with torch.enable_grad():
            return self.augmentation.apply(images, self.schedule.draws[i])
