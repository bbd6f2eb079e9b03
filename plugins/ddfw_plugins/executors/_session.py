"""The session that `cpu` and `cuda` share: it runs the engine's functions on one device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch

from ddfw.engine.budget import NOT_YET, StepBudget, step_budget
from ddfw.engine.evaluate import evaluate_network
from ddfw.engine.experts import train_expert
from ddfw.engine.inner import Network, Steps
from ddfw.engine.metagradient import meta_gradient
from ddfw_plugins.executors.ensemble import evaluate_together, train_together

if TYPE_CHECKING:
    from ddfw import Segment
    from ddfw.contracts.executor import ExecutorContext, LabelledImages, MetaGradient, Problem, TrainedExpert
    from ddfw.contracts.settings import TrainingSettings


class LocalSession:
    """Runs the engine's functions on one device.

    Args:
        context: the model, augmentation, matching loss and settings of the run.
        network: the run's module, on the device.
        device: where tensors are.
        steps: compiled or replayed steps, which hold no autograd graph; None for ordinary steps, whose graphs are held.
        together: how many networks are trained at a time, as one vectorised network.
        training: a context that is entered while networks train; it sets the precision.
        prepare: applied to images and labels before networks train on them.
    """

    def __init__(
        self,
        context: ExecutorContext,
        network: Network,
        device: torch.device,
        *,
        steps: Steps | None = None,
        together: int = 1,
        training: Callable[[], AbstractContextManager[object]] = nullcontext,
        prepare: Callable[[LabelledImages], LabelledImages] = lambda data: data,
    ) -> None:
        self._context = context
        self._network = network
        self._device = device
        self._steps = steps
        self._together = together
        self._training = training
        self._prepare = prepare
        # A resumed run holds as many step graphs as before, whatever memory is free now: its numbers stay the same.
        held = 0 if steps is not None else context.held_steps
        self._budget = None if held is None else StepBudget(held_steps=held)

    @property
    def device(self) -> torch.device:
        """The device that images and parameters have to be on."""
        return self._device

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
        c = self._context
        data, judge = self._prepare(train), self._prepare(validation)
        at_a_time = 1 if settings.sharpness is not None else self._together
        for first in range(0, len(seeds), at_a_time):
            some = seeds[first : first + at_a_time]

            def told(epoch: int, first: int = first, count: int = len(some)) -> None:
                for position in range(first, first + count):
                    on_epoch(position, epoch)

            with self._training():
                if len(some) == 1:
                    found = [train_expert(c.model, self._network, c.augmentation, settings, data, judge, some[0], told)]
                else:
                    found = train_together(c.model, self._network, c.augmentation, settings, data, judge, some, told)
            yield from found

    def meta_gradient(self, problem: Problem, segments: Sequence[Segment]) -> MetaGradient:
        """Computes the meta-gradient, holding as many step graphs as fit the memory, which the first call measures."""
        c = self._context
        if self._budget is None:
            self._budget = step_budget(c.gradient, problem, self._network, segments[0].start, self.device)
        return meta_gradient(
            self._network,
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
        subject: LabelledImages,
        judge: LabelledImages,
        seed: int,
        networks: range,
        purpose: Literal["select", "eval"],
        on_network: Callable[[int], None],
    ) -> tuple[float, ...]:
        """Trains and tests one network after another, or `together` at a time."""
        c = self._context
        data, test = self._prepare(subject), self._prepare(judge)
        found: list[float] = []
        for first in range(0, len(networks), self._together):
            some = networks[first : first + self._together]
            with self._training():
                if len(some) == 1:
                    more = [
                        evaluate_network(
                            c.model, self._network, c.augmentation, settings, data, test, seed, some[0], purpose
                        )
                    ]
                else:
                    more = evaluate_together(
                        c.model, self._network, c.augmentation, settings, data, test, seed, some, purpose
                    )
            for accuracy in more:
                found.append(accuracy)
                on_network(len(found))
        return tuple(found)
