"""The exact meta-gradient of a student's unroll: an adjoint recursion with a budget for held step graphs.

Shapes: B images of the problem, b images of one batch, C channels, H rows, W columns, m classes, N steps, P parameters.

Forward, only the points w_i of the path are kept. Backward, from λ_N = ∂L/∂w_N (plus ∂L/∂w_i wherever the loss reads an
inner point), each step's gradient g_i is differentiated once more:

    s_i = g_i · λ_{i+1},   ∂L/∂a −= s_i,   ∂L/∂X −= a ∂s_i/∂X,   ∂L/∂Y −= a ∂s_i/∂Y,   λ_i = λ_{i+1} − a ∂s_i/∂w_i

A step whose graph is still held from the forward pass needs no recomputation: holding 0 of N is the pure adjoint,
holding all costs what an unroll costs, and the result is the same.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import torch
from attrs import frozen
from torch import Tensor

from ddfw.contracts.executor import MetaGradient
from ddfw.engine.inner import Network, StepGraph, inner_gradient
from ddfw.errors import PluginError

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.executor import GradientSettings, Problem, Schedule
    from ddfw.contracts.matching import AbstractMatchingLoss
    from ddfw.contracts.trajectory import Segment

#: What `gradient.memory = "auto"` means on a CPU, in bytes.
AUTO_MEMORY_CPU = 512 * 2**20


class Path(Sequence[Tensor]):
    """The student's points w_0 … w_N as a loss sees them: a row becomes a leaf of autograd when it is read."""

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
        """∂loss/∂w_i for the rows that were read."""
        positions = list(self._leaves)
        if not positions or not loss.requires_grad:
            return {}
        found = torch.autograd.grad(loss, [self._leaves[i] for i in positions], allow_unused=True)
        return {i: g for i, g in zip(positions, found, strict=True) if g is not None}


@frozen(kw_only=True)
class Accumulators:
    """Running sums of ∂L/∂X, ∂L/∂Y, ∂L/∂a."""

    images: Tensor
    targets: Tensor
    step_size: Tensor


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
) -> MetaGradient:
    """The meta-gradient averaged over segments.

    Args:
        network: the student.
        augmentation: applied to every batch, with the schedule's draws.
        loss: reads the path.
        problem: images, targets, step size and one schedule per segment.
        segments: at least one.
        method: `exact`, or `tesla` for the recursion without Hessian-vector terms.
        tesla_form: `datm` or `released` (half the image and label gradient).
        held_steps: how many of the last steps keep their graph between the passes; clipped to N.

    Returns:
        Loss and gradients, in the problem's dtype and on its device.
    """
    sums = Accumulators(
        images=torch.zeros_like(problem.images),
        targets=torch.zeros_like(problem.targets),
        step_size=torch.zeros_like(problem.step_size),
    )
    total = torch.zeros_like(problem.step_size)
    held = 0
    for schedule, segment in zip(problem.schedules, segments, strict=True):
        held = min(held_steps, len(schedule.batches))
        unroll = _Unroll(network, augmentation, problem, schedule, through_theta=method == "exact")
        graphs, path = unroll.forward(segment.start, held)
        view = Path(path)
        value = loss.loss(view, segment)
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
            raise PluginError(f"loss {loss.name} has to return a scalar tensor that depends on the path")
        unroll.backward(path, graphs, view.cotangents(value), sums)
        total += value.detach()
    scale = 1 / len(segments)
    data_scale = scale / 2 if method == "tesla" and tesla_form == "released" else scale
    return MetaGradient(
        loss=total * scale,
        images=sums.images * data_scale,
        targets=sums.targets * data_scale,
        step_size=sums.step_size * scale,
        held_steps=held,
    )


@frozen
class _Unroll:
    """One student on one schedule."""

    network: Network
    augmentation: AbstractAugmentation
    problem: Problem
    schedule: Schedule
    through_theta: bool

    def forward(self, start: Tensor, held: int) -> tuple[list[StepGraph], list[Tensor]]:
        """The graphs of the last `held` steps, and the path of N + 1 points."""
        path, graphs = [start], list[StepGraph]()
        steps = len(self.schedule.batches)
        for i in range(steps):
            images, targets = self._batch(i)
            if i >= steps - held:
                graphs.append(StepGraph(self.network, path[-1], images, targets))
                gradient = graphs[-1].gradient
            else:
                gradient = inner_gradient(self.network, path[-1], images, targets)
            path.append(path[-1] - self.problem.step_size * gradient)
        return graphs, path

    def backward(
        self, path: list[Tensor], graphs: list[StepGraph], read: dict[int, Tensor], sums: Accumulators
    ) -> None:
        """The reverse recursion; adds to `sums`, and empties `graphs` as it goes."""
        steps, a = len(self.schedule.batches), self.problem.step_size
        cotangent = read.get(steps, torch.zeros_like(path[-1]))
        for i in reversed(range(steps)):
            graph = graphs.pop() if graphs else StepGraph(self.network, path[i], *self._batch(i))
            pulled = graph.pull(cotangent, through_theta=self.through_theta)
            sums.step_size.sub_(pulled.s)
            batch = self.schedule.batches[i]
            sums.targets.index_add_(0, batch, -a * pulled.targets)
            sums.images.index_add_(0, batch, self._through_augmentation(i, -a * pulled.images))
            if pulled.theta is not None:
                cotangent = cotangent - a * pulled.theta
            if i in read:
                cotangent = cotangent + read[i]

    def _batch(self, i: int) -> tuple[Tensor, Tensor]:
        """Step i's augmented images [b, C, H, W] and targets [b, m]."""
        batch = self.schedule.batches[i]
        images = self.augmentation.apply(self.problem.images[batch], self.schedule.draws[i])
        return images, self.problem.targets[batch]

    def _through_augmentation(self, i: int, cotangent: Tensor) -> Tensor:
        """Pulls a cotangent of the augmented batch back to the batch: first order, outside the step."""
        batch: Tensor = self.problem.images[self.schedule.batches[i]].requires_grad_()
        with torch.enable_grad():
            augmented = self.augmentation.apply(batch, self.schedule.draws[i])
        return torch.autograd.grad(augmented, batch, cotangent)[0]


def graph_bytes(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> int:
    """Bytes that one held step graph keeps alive, θ excluded.

    These are the distinct storages saved for its backward pass, the step's own inputs and its gradient, and a quarter
    more for what autograd keeps besides (up to 17 % on small networks, so the estimate errs on the safe side).

    Args:
        network: the student.
        theta: [P].
        images: a batch [b, C, H, W].
        targets: its probabilities [b, m].
    """
    sizes: dict[int, int] = {}
    keep: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        keep.append(tensor)  # or its address could be used again before the count is over
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        graph = StepGraph(network, theta, images, targets)
    for tensor in (images, targets, graph.gradient):
        note(tensor)
    sizes.pop(theta.untyped_storage().data_ptr(), None)
    return sum(sizes.values()) * 5 // 4


def held_steps_within(settings: GradientSettings, problem: Problem, network: Network, theta: Tensor) -> int:
    """How many step graphs fit `gradient.memory`, measured on the problem's largest batch."""
    memory = AUTO_MEMORY_CPU if settings.memory == "auto" else settings.memory
    if memory == 0:
        return 0
    batch = max(problem.schedules[0].batches, key=len)
    one = graph_bytes(network, theta, problem.images[batch], problem.targets[batch])
    return memory // max(one, 1)
