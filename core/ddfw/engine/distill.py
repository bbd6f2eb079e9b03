"""The outer loop: it changes images, labels and inner step size so that a student trained on them follows the experts.

Learned are φ (parameters that decode to images), ψ (parameters of the labels) and a (the student's step size):

    student:  w_0 = start,   w_{i+1} = w_i − a · g_i,   g_i = ∇_w ℓ(f(A_i(X[b_i]); w_i), Y[b_i]),   i = 0 … N−1
    outer:    L = loss(w_0 … w_N, segment) + penalty(φ),   X = decode(φ),  Y = targets(ψ)

Shapes: n decoded images, B of them used by one step, m classes, N inner steps, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.contracts.executor import MetaGradient, Problem, Schedule
from ddfw.contracts.labels import ask_targets
from ddfw.contracts.observer import StepReport
from ddfw.contracts.parameterization import ParamGroup
from ddfw.contracts.settings import OuterSettings, WindowSettings
from ddfw.contracts.watch import broken
from ddfw.engine.finite import rates, require_finite_gradients, require_finite_images, require_length, require_usable
from ddfw.errors import DivergedError
from ddfw.randomness import Stream, generator

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.contracts.labels import AbstractLabels
    from ddfw.contracts.parameterization import AbstractParameterization, Layout, Params
    from ddfw.contracts.trajectory import AbstractTrajectory, Segment

PreparedT = TypeVar("PreparedT")


@frozen(kw_only=True)
class Learned:
    """The learned tensors: image parameters φ, label parameters ψ, step size a. Outer steps change them in place."""

    params: Params
    label_params: Params
    step_size: Tensor

    def snapshot(self) -> Learned:
        """A copy that later outer steps do not change."""
        params, label_params = (
            {key: tensor.detach().clone() for key, tensor in tensors.items()}
            for tensors in (self.params, self.label_params)
        )
        return Learned(params=params, label_params=label_params, step_size=self.step_size.detach().clone())

    def restore(self, other: Learned) -> None:
        """Copies the values of another `Learned` into these tensors."""
        for mine, theirs in ((self.params, other.params), (self.label_params, other.label_params)):
            for key, tensor in mine.items():
                tensor.copy_(theirs[key])
        self.step_size.copy_(other.step_size)

    def finite(self) -> bool:
        """Whether all values of all floating-point tensors are finite."""
        tensors = (*self.params.values(), *self.label_params.values(), self.step_size)
        return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())


@frozen(kw_only=True)
class OuterState:
    """The state of the outer loop between two steps.

    Args:
        step: number of outer steps that are done.
        skipped: number of outer steps that changed nothing because of `outer.skip_above`.
        learned: image parameters φ, label parameters ψ and step size a.
        optimisers: the optimisers of φ, ψ and a, with their momentum buffers.
        mean: running mean of φ; None if `outer.ema` is 0.
    """

    step: int
    learned: Learned
    optimisers: tuple[torch.optim.Optimizer, ...]
    mean: Params | None = None
    skipped: int = 0

    @property
    def result(self) -> Learned:
        """The tensors that are evaluated and saved: φ (or its running mean, if there is one), ψ and a."""
        return self.learned if self.mean is None else evolve(self.learned, params=self.mean)


@frozen(kw_only=True)
class Distillation(Generic[PreparedT]):
    """Everything an outer step needs that does not change between steps.

    With several `ranks` (processes), every process draws the schedules of all ranks, identically, and its executor
    session computes only the part of its own rank. Where the network's `num_parameters` and the images' `dtype` are
    given, segments and images have to agree with them.
    """

    param: AbstractParameterization
    labels: AbstractLabels
    traj: AbstractTrajectory[PreparedT]
    augmentation: AbstractAugmentation
    session: ExecutorSession
    trajectories: PreparedT
    layout: Layout
    outer: OuterSettings
    window: WindowSettings
    seed: int
    ranks: int = 1
    num_parameters: int | None = None
    dtype: torch.dtype | None = None

    def start(
        self, params: Params, label_params: Params, dtype: torch.dtype, step_size: float | None = None
    ) -> OuterState:
        """The state before the first outer step.

        Args:
            params: initial tensors of the parameterisation.
            label_params: initial tensors of the labels.
            dtype: dtype of the step size.
            step_size: initial step size; None: `outer.step_size`.
        """
        value = self.outer.step_size if step_size is None else max(step_size, self.outer.step_size_floor)
        first = torch.tensor(value, dtype=dtype, device=self.session.device)
        learned = Learned(params=params, label_params=label_params, step_size=first).snapshot()
        mean = learned.snapshot().params if self.outer.ema else None
        return OuterState(step=0, learned=learned, optimisers=tuple(self._optimisers(learned)), mean=mean)

    def step(self, state: OuterState) -> tuple[OuterState, StepReport]:
        """One outer step; it changes the tensors of `state` in place, so only the returned state is valid afterwards.

        Raises:
            DivergedError: the loss or a gradient is not finite; `state` is unchanged.
        """
        learned = state.learned
        count = self.outer.segments_per_step * self.ranks
        high = self.window.high(state.step)
        segments, schedules = [], []
        for draw in range(state.step * count, (state.step + 1) * count):
            rng = generator(self.seed, Stream.SEGMENT, draw)
            segments.append(self._segment(high, rng))
            schedules.append(self.schedule(draw))
        used, schedules = self._rows_used(schedules)

        leaves, label_leaves = with_grad(learned.params), with_grad(learned.label_params)
        images, targets = self._set(leaves, label_leaves, used)
        if not images.requires_grad:
            raise broken(self.param, "decode", "the images do not depend on the parameters (detached?)")
        found = self.session.meta_gradient(
            Problem(
                images=images.detach(),
                targets=targets.detach(),
                step_size=learned.step_size,
                schedules=tuple(schedules),
                learn_targets=targets.requires_grad,
            ),
            segments,
        )
        if not bool(found.loss.isfinite()):
            require_finite_images(images, rates("param", self.param), state.step)
            require_length(segments, state.step)
        skipped = self.outer.skip_above is not None and not float(found.loss) <= self.outer.skip_above
        if not skipped:
            require_finite_gradients(found, state.step, self.what_to_lower(learned))
            penalty = self.param.penalty(leaves)
            if penalty is not None and (not isinstance(penalty, Tensor) or penalty.ndim != 0):
                raise broken(self.param, "penalty", "has to return a scalar tensor, or None")
            _pull_back(found, images, targets, penalty, (leaves, label_leaves))
            self._update(state, leaves, label_leaves, found.step_size)
            self._average(state)
        report = StepReport(
            step=state.step + 1,
            steps=self.outer.steps,
            loss=float(found.loss),
            step_size=float(learned.step_size),
            start_epoch=segments[0].start_epoch,
            window_high=high,
            grad_norm_images=float(found.images.norm()),
            skipped=skipped,
        )
        return evolve(state, step=state.step + 1, skipped=state.skipped + skipped), report

    def decoded(self, learned: Learned, step: int | None = None) -> tuple[Tensor, Tensor]:
        """All n images [n, C, H, W] and their label probabilities [n, m] of a learned set, without gradients.

        Args:
            learned: the set.
            step: the outer step after which it is decoded, for the error.

        Raises:
            DivergedError: an image or a target is not finite, although what it is decoded from may be.
        """
        index = torch.arange(self.layout.num_images, device=self.session.device)
        with torch.no_grad():
            images, targets = self._set(learned.params, learned.label_params, index)
        require_finite_images(images, rates("param", self.param), step)
        require_finite_images(targets, rates("labels", self.labels), step, "target")
        return images, targets

    def _set(self, params: Params, label_params: Params, index: Tensor) -> tuple[Tensor, Tensor]:
        """The images [B, C, H, W] of these numbers and their targets [B, m], in the shapes that the layout says."""
        images, dtype = self.param.decode(params, index), self.dtype
        expected = (len(index), *self.layout.spec.shape)
        if tuple(images.shape) != expected or (dtype is not None and images.dtype != dtype):
            words = f"decodes to {list(images.shape)} {images.dtype}, its layout says {list(expected)} {dtype or ''}"
            raise broken(self.param, "decode", words.rstrip())
        targets = ask_targets(self.labels, label_params, index, images.dtype)
        if tuple(targets.shape) != (len(index), self.layout.spec.num_classes):
            words = f"gives targets {list(targets.shape)}, expected {[len(index), self.layout.spec.num_classes]}"
            raise broken(self.labels, "targets", words)
        return images, targets.to(images.dtype)

    def what_to_lower(self, learned: Learned) -> str:
        """The options that make a student trained on the set diverge, in words."""
        if (size := float(learned.step_size)) > 10 * self.outer.step_size:
            return f"outer.step_size_lr (the step size has grown from {self.outer.step_size:g} to {size:g})"
        return f"outer.step_size or {rates('param', self.param)}"

    def _what_is_not_finite(self, learned: Learned) -> str:
        """The first of the learned tensors that is not finite, and the options to lower, in words."""
        for what, tensors, options in (
            ("parameter of the images", learned.params, rates("param", self.param)),
            ("parameter of the labels", learned.label_params, rates("labels", self.labels)),
        ):
            for key, tensor in tensors.items():
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    return f"the {what} {key!r} is not finite; lower {options}"
        return "the step size is not finite; lower outer.step_size_lr"

    def _optimisers(self, learned: Learned) -> Iterable[torch.optim.Optimizer]:
        settings: dict[str, list[dict[str, Any]]] = {"sgd": [], "adam": []}
        step_size = ParamGroup(keys=("",), lr=self.outer.step_size_lr, momentum=self.outer.step_size_momentum)
        for table, component, tensors, groups in (
            ("param", self.param, learned.params, self.param.param_groups(learned.params)),
            ("labels", self.labels, learned.label_params, self.labels.param_groups(learned.label_params)),
            ("outer", self.outer, {"": learned.step_size}, (step_size,)),
        ):
            for group in groups:
                require_usable(group, rates(table, component))
                settings[group.optimiser].append(_torch_group(tensors, group))
        yield torch.optim.SGD(settings["sgd"])
        if settings["adam"]:
            yield torch.optim.Adam(settings["adam"])

    def _segment(self, high: int, rng: torch.Generator) -> Segment:
        """Draws a segment and checks that it starts in the window and that its start and target have the same shape."""
        low = self.window.min_start
        segment = self.traj.segment(self.trajectories, low, high, rng)
        if not low <= segment.start_epoch < high or segment.start.shape != segment.target.shape:
            words = f"gave a segment from epoch {segment.start_epoch:g} with start {tuple(segment.start.shape)}"
            words = f"{words} and target {tuple(segment.target.shape)}; the window is [{low}, {high})"
            raise broken(self.traj, "segment", words)
        if self.num_parameters not in (None, segment.start.numel()):
            words = f"gave a segment of {segment.start.numel()} parameters, the network has {self.num_parameters}"
            raise broken(self.traj, "segment", words)
        return segment

    def schedule(self, draw: int) -> Schedule:
        """The batches (numbers of decoded images) and augmentation draws of one student's N steps.

        A random permutation of the images is cut into batches, which are used from the last one backwards, so that a
        short remainder comes first. When they are used up, a new permutation is drawn.

        Args:
            draw: number of the draw, which names the random stream.
        """
        order = generator(self.seed, Stream.SYN_BATCHES, draw)
        augment = generator(self.seed, Stream.SYN_AUGMENT, draw)
        n, spec = self.layout.num_images, self.layout.spec
        size = self.outer.batch_syn or n
        pieces: list[Tensor] = []
        batches, draws = [], []
        for _ in range(self.outer.syn_steps):
            if not pieces:
                pieces = list(torch.randperm(n, generator=order).split(size))
            batches.append(pieces.pop().to(self.session.device))
            drawn = self.augmentation.draw((len(batches[-1]), *spec.shape), augment)
            draws.append(drawn.to(self.session.device))
        return Schedule(batches=tuple(batches), draws=tuple(draws))

    def _rows_used(self, schedules: list[Schedule]) -> tuple[Tensor, list[Schedule]]:
        """The numbers [B] of the images that any batch uses, and the schedules rewritten to positions in that list."""
        used = torch.cat([batch for s in schedules for batch in s.batches]).unique(sorted=True)
        row = torch.zeros(self.layout.num_images, dtype=torch.int64, device=used.device)
        row[used] = torch.arange(len(used), device=used.device)
        return used, [evolve(s, batches=tuple(row[batch] for batch in s.batches)) for s in schedules]

    def _average(self, state: OuterState) -> None:
        """Updates the running mean; its decay starts low, so that the first images do not weigh in for long."""
        if state.mean is None:
            return
        updates = state.step - state.skipped
        decay = min(self.outer.ema, (updates + 1) / (updates + 10))
        for key, mean in state.mean.items():
            if mean.is_floating_point():
                mean.lerp_(state.learned.params[key].detach(), 1 - decay)

    def _update(self, state: OuterState, leaves: Params, label_leaves: Params, step_size_grad: Tensor) -> None:
        learned, before = state.learned, state.learned.snapshot()
        self._redirect(learned.params, leaves)
        for tensors, gradients in ((learned.params, leaves), (learned.label_params, label_leaves)):
            for key, tensor in tensors.items():
                tensor.grad = gradients[key].grad
        learned.step_size.grad = step_size_grad
        for optimiser in state.optimisers:
            optimiser.step()
        with torch.no_grad():
            learned.step_size.clamp_(min=self.outer.step_size_floor)
            if not learned.finite():
                words = self._what_is_not_finite(learned)
                learned.restore(before)
                raise DivergedError(f"after outer step {state.step + 1} {words}", step=state.step)

    def _redirect(self, params: Params, leaves: Params) -> None:
        """Replaces gradients by the parameterisation's own update direction, for parameterisations that have one."""
        gradients = {key: leaf.grad for key, leaf in leaves.items() if leaf.grad is not None}
        with torch.no_grad():
            directions = self.param.direction(params, gradients)
        for key, direction in directions.items():
            if key not in gradients or direction.shape != gradients[key].shape:
                raise broken(self.param, "direction", f"gave a direction for {key!r} that fits no gradient")
            leaves[key].grad = direction


def batch_sizes(num_images: int, batch_syn: int, steps: int) -> list[int]:
    """Number of images that each of a student's N steps sees; the short batch of a permutation comes first.

    Args:
        num_images: number n of decoded images.
        batch_syn: images per step; 0: all of them.
        steps: number N of steps.

    Returns:
        N batch sizes.
    """
    size = batch_syn or num_images
    pieces = [min(size, num_images - first) for first in range(0, num_images, size)][::-1]
    return [pieces[i % len(pieces)] for i in range(steps)]


def run_steps(
    distillation: Distillation[Any], state: OuterState, after_step: Callable[[OuterState, StepReport], None]
) -> OuterState:
    """Runs outer steps until `outer.steps` are done.

    Args:
        distillation: the parts of the run that do not change between steps.
        state: the state to start from.
        after_step: called after each step with the new state and the step's report, to write checkpoints and the like.

    Returns:
        The state after the last step.

    Raises:
        DivergedError: a step diverged, or all steps were skipped; the learned tensors keep their last finite values.
    """
    last = ""
    while state.step < distillation.outer.steps:
        state, report = distillation.step(state)
        last = f"; the last was {report.loss:g}"
        after_step(state, report)
    if state.step and state.skipped == state.step:
        raise DivergedError(
            f"all {state.step} outer steps were skipped: their losses were above outer.skip_above = "
            f"{distillation.outer.skip_above:g}, or not a number{last}",
            step=state.step,
        )
    return state


def _torch_group(tensors: Params, group: ParamGroup) -> dict[str, Any]:
    name, value = ("momentum", group.momentum) if group.optimiser == "sgd" else ("betas", (group.momentum, 0.999))
    return {"params": [tensors[key] for key in group.keys], "lr": group.lr, name: value}


def with_grad(tensors: Params) -> Mapping[str, Tensor]:
    """Leaves of autograd that share the tensors' storage; integer tensors are returned unchanged."""
    return {k: v.detach().requires_grad_() if v.is_floating_point() else v for k, v in tensors.items()}


def _pull_back(
    found: MetaGradient, images: Tensor, targets: Tensor, penalty: Tensor | None, leaves: tuple[Params, Params]
) -> None:
    """Fills the leaves' `.grad`: one backward pass through `decode` and `targets`, and one through the penalty."""
    outputs, cotangents = [images], [found.images]
    if targets.requires_grad:
        outputs, cotangents = [*outputs, targets], [*cotangents, found.targets]
    if penalty is not None:
        outputs, cotangents = [*outputs, penalty], [*cotangents, torch.ones_like(penalty)]
    wanted = [t for tensors in leaves for t in tensors.values() if t.is_floating_point()]
    gradients = torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True)
    for tensor, gradient in zip(wanted, gradients, strict=True):
        tensor.grad = gradient
