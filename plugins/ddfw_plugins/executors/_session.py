"""The session that `cpu` and `cuda` share: it runs the engine's functions on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from attrs import define, field

from ddfw.contracts.executor import Evaluated
from ddfw.engine.budget import NOT_YET, StepBudget, step_budget
from ddfw.engine.evaluate import predict_with_network
from ddfw.engine.experts import train_expert
from ddfw.engine.inner import Network, Steps
from ddfw.engine.metagradient import meta_gradient
from ddfw.engine.training import share_right
from ddfw_plugins.executors.ensemble import predict_together, train_together

if TYPE_CHECKING:
    from ddfw import AbstractAugmentation, AbstractModel, Segment
    from ddfw.contracts.executor import ExecutorContext, LabelledImages, MetaGradient, Problem, TrainedExpert
    from ddfw.contracts.settings import TrainingSettings

    _Work = tuple[AbstractModel, Network, AbstractAugmentation, TrainingSettings, LabelledImages, LabelledImages]


@define(eq=False, slots=False)
class LocalSession:
    """Runs the engine's functions on one device.

    Args:
        context: the model, augmentation, matching loss and settings of the run.
        network: the run's module, on the device.
        device: where images and parameters have to be.
        steps: compiled or replayed steps, which hold no autograd graph; None for ordinary steps, whose graphs are held.
        together: how many networks are trained at a time, as one vectorised network.
        training: a context that is entered while networks train; it sets the precision.
        prepare: applied to images and labels before networks train on them.
        student: the network of meta-gradients, if it computes in another way than the one of training; else None.
        gradient: a context that is entered for each meta-gradient; it sets the precision.
    """

    _context: ExecutorContext
    _network: Network
    device: torch.device
    _steps: Steps | None = field(default=None, kw_only=True)
    _together: int = field(default=1, kw_only=True)
    _training: Callable[[], AbstractContextManager[object]] = field(default=nullcontext, kw_only=True)
    _prepare: Callable[[LabelledImages], LabelledImages] = field(default=lambda data: data, kw_only=True)
    _student: Network | None = field(default=None, kw_only=True)
    _gradient: Callable[[], AbstractContextManager[object]] = field(default=nullcontext, kw_only=True)
    _budget: StepBudget | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        # A resumed run holds as many step graphs as before, whatever memory is free now: its numbers stay the same.
        held = 0 if self._steps is not None else self._context.held_steps
        self._budget = None if held is None else StepBudget(held_steps=held)

    def describe(self) -> dict[str, object]:
        """How many step graphs are held, and why; null before the first outer step."""
        return dict(NOT_YET if self._budget is None else self._budget.describe())

    def train_experts(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        validation: LabelledImages,
        seeds: Sequence[int],
        on_epoch: Callable[[int, int], None],
    ) -> Iterator[TrainedExpert]:
        """Trains one expert after another, or `together` at a time."""
        work = self._work(settings, train, validation)
        at_a_time = 1 if settings.sharpness is not None else self._together
        for first in range(0, len(seeds), at_a_time):
            some = seeds[first : first + at_a_time]

            def told(epoch: int, first: int = first, count: int = len(some)) -> None:
                for position in range(first, first + count):
                    on_epoch(position, epoch)

            with self._training():
                found = [train_expert(*work, some[0], told)] if len(some) == 1 else train_together(*work, some, told)
            yield from found

    def meta_gradient(self, problem: Problem, segments: Sequence[Segment]) -> MetaGradient:
        """Computes the meta-gradient, holding as many step graphs as fit the memory, which the first call measures."""
        c, student = self._context, self._student or self._network
        with self._gradient():
            if self._budget is None:
                self._budget = step_budget(c.gradient, problem, student, segments[0].start, self.device)
            return meta_gradient(
                student,
                c.augmentation,
                c.loss,
                problem,
                segments,
                method=c.gradient.method,
                tesla_form=c.gradient.tesla_form,
                held_steps=self._budget.held_steps,
                steps=self._steps,
            )

    def evaluate(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        test: LabelledImages,
        seed: int,
        networks: range,
        purpose: Literal["select", "eval"],
        on_network: Callable[[int], None],
    ) -> tuple[float, ...]:
        """Trains and tests one network after another, or `together` at a time."""
        return self.evaluate_classes(settings, train, test, seed, networks, purpose, on_network).accuracies

    def evaluate_classes(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        test: LabelledImages,
        seed: int,
        networks: range,
        purpose: Literal["select", "eval"],
        on_network: Callable[[int], None],
    ) -> Evaluated:
        """As `evaluate`, with the classes that each network predicts."""
        work = self._work(settings, train, test)
        found: list[torch.Tensor] = []
        for first in range(0, len(networks), self._together):
            some = networks[first : first + self._together]
            with self._training():
                if len(some) == 1:
                    more = [predict_with_network(*work, seed, some[0], purpose)]
                else:
                    more = [*predict_together(*work, seed, some, purpose)]
            for predicted in more:
                found.append(predicted)
                on_network(len(found))
        return Evaluated(
            accuracies=tuple(share_right(predicted, test.targets) for predicted in found),
            predicted=torch.stack(found) if found else None,
        )

    def _work(self, settings: TrainingSettings, train: LabelledImages, test: LabelledImages) -> _Work:
        """What training and testing a network takes, as the engine's first arguments."""
        c = self._context
        return c.model, self._network, c.augmentation, settings, self._prepare(train), self._prepare(test)
