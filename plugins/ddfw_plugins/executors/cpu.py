"""`cpu`: everything on this machine's processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from attrs import frozen
from attrs.validators import ge, le, optional

from ddfw import AbstractExecutor, option
from ddfw.engine.evaluate import evaluate_network
from ddfw.engine.experts import train_expert
from ddfw.engine.inner import Network
from ddfw.engine.metagradient import held_steps_within, meta_gradient

if TYPE_CHECKING:
    from ddfw import Segment
    from ddfw.contracts.executor import (
        ExecutorContext,
        LabelledImages,
        MetaGradient,
        Problem,
        TrainedExpert,
        TrainingSettings,
    )


@final
@frozen(kw_only=True)
class Cpu(AbstractExecutor):
    """This machine's processor."""

    name: ClassVar[str] = "cpu"

    threads: int | None = option(
        None,
        validator=optional([ge(1), le(1024)]),
        help="threads of each operation; the default is PyTorch's own choice",
    )

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[CpuSession]:
        """A session; the number of threads is put back afterwards."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield CpuSession(context)
        finally:
            torch.set_num_threads(before)


class CpuSession:
    """Runs the engine's functions one after another."""

    def __init__(self, context: ExecutorContext) -> None:
        self._context = context
        self._network = Network(context.module)
        self._held_steps: int | None = None

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def describe(self) -> dict[str, object]:
        """Device, threads, and how many step graphs are held (null before the first step)."""
        return {"type": "cpu", "threads": torch.get_num_threads(), "held_steps": self._held_steps}

    def train_experts(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        validation: LabelledImages,
        seeds: Sequence[int],
        on_epoch: Callable[[int, int], None],
    ) -> Iterator[TrainedExpert]:
        """One expert after another."""
        c = self._context
        for position, seed in enumerate(seeds):
            yield train_expert(
                c.model,
                self._network,
                c.augmentation,
                settings,
                train,
                validation,
                seed,
                lambda epoch, position=position: on_epoch(position, epoch),  # type: ignore[misc]
            )

    def meta_gradient(self, problem: Problem, segments: Sequence[Segment]) -> MetaGradient:
        """The engine's, with as many held graphs as fit the memory budget (measured at the first call)."""
        c = self._context
        if self._held_steps is None:
            self._held_steps = held_steps_within(c.gradient, problem, self._network, segments[0].start)
        return meta_gradient(
            self._network,
            c.augmentation,
            c.loss,
            problem,
            segments,
            method=c.gradient.method,
            tesla_form=c.gradient.tesla_form,
            held_steps=self._held_steps,
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
        """One network after another."""
        c = self._context
        found = []
        for done, number in enumerate(networks, start=1):
            found.append(
                evaluate_network(
                    c.model, self._network, c.augmentation, settings, subject, judge, seed, number, purpose
                )
            )
            on_network(done)
        return tuple(found)
