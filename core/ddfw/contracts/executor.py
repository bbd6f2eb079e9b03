"""Executors: where experts are trained, meta-gradients computed and networks evaluated.

Shapes: B used images, C channels, H rows, W columns, m classes, N inner steps, P parameters, S snapshots.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from attrs import frozen

from ddfw.contracts.settings import GradientSettings, TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from ddfw.contracts.augmentation import AbstractAugmentation, Draws
    from ddfw.contracts.matching import AbstractMatchingLoss
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.trajectory import Segment


@frozen(kw_only=True)
class LabelledImages:
    """Images [n, C, H, W] in training space with targets: classes [n] (int64) or probabilities [n, m]."""

    images: Tensor
    targets: Tensor


@frozen(kw_only=True)
class TrainedExpert:
    """One expert.

    Args:
        seed: its own.
        snapshots: [K + 1, P], the initialisation first.
        validation_accuracy: K fractions, after each epoch.
        train_loss: K mean losses, of each epoch.
    """

    seed: int
    snapshots: Tensor
    validation_accuracy: tuple[float, ...]
    train_loss: tuple[float, ...]


@frozen(kw_only=True)
class Schedule:
    """The data of one student's N steps: which images (rows of the problem's images), and which draws."""

    batches: tuple[Tensor, ...]
    draws: tuple[Draws, ...]


@frozen(kw_only=True)
class Problem:
    """One outer step's inner problem.

    Args:
        images: [B, C, H, W] decoded, training space; the gradient with respect to them is asked for.
        targets: [B, m] probabilities, in the images' dtype.
        step_size: a, a scalar tensor.
        schedules: one per segment.
        learn_targets: whether the gradient with respect to the targets is asked for, too; zeros are given if not.
    """

    images: Tensor
    targets: Tensor
    step_size: Tensor
    schedules: tuple[Schedule, ...]
    learn_targets: bool = True


@frozen(kw_only=True)
class MetaGradient:
    """Mean over the segments.

    Args:
        loss: scalar.
        images: ∂L/∂images [B, C, H, W].
        targets: ∂L/∂targets [B, m].
        step_size: ∂L/∂a, scalar.
        held_steps: how many step graphs were held.
    """

    loss: Tensor
    images: Tensor
    targets: Tensor
    step_size: Tensor
    held_steps: int


@frozen(kw_only=True)
class ExecutorContext:
    """What a session needs to know of a run.

    Args:
        model: the network's component, for fresh initialisations.
        module: the network that it built; used functionally.
        augmentation: of experts, students and evaluation networks alike.
        loss: the matching loss.
        gradient: how the meta-gradient is computed.
        dtype: of all floating tensors.
        held_steps: how many step graphs to hold, where an interrupted run that goes on has measured it; None: measure.
    """

    model: AbstractModel
    module: nn.Module
    augmentation: AbstractAugmentation
    loss: AbstractMatchingLoss
    gradient: GradientSettings
    dtype: torch.dtype
    held_steps: int | None = None


class Crew:
    """The processes that work on one run together; this one is a crew of one, which is what most executors have.

    Every rank runs the same code and calls these methods in the same order. Rank 0 alone writes the run directory.
    """

    #: This process, from 0.
    rank: int = 0
    #: How many processes there are.
    size: int = 1

    def share(self, value: Any) -> Any:
        """Rank 0's JSON-able value, on every rank."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every rank's JSON-able value in the order of ranks, on every rank."""
        return [value]

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Puts rank 0's values into these tensors, in place."""


class ExecutorSession(Protocol):
    """An opened executor; the same numbers whatever the device."""

    @property
    def device(self) -> torch.device:
        """Where images and parameters have to be."""
        ...

    def describe(self) -> dict[str, object]:
        """Device, threads and the like, for the manifest; JSON-able.

        A run that was stopped goes on only where a session describes the same before its first step. What is not known
        by then is null; `held_steps`, and how many `nodes`, `cpus` and `gpus` there are, may differ.
        """
        ...

    def train_experts(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        validation: LabelledImages,
        seeds: Sequence[int],
        on_epoch: Callable[[int, int], None],
    ) -> Iterator[TrainedExpert]:
        """Trains one expert per seed and yields each as soon as it is finished.

        `on_epoch(position in seeds, epochs done)` is called for progress.
        """
        ...

    def meta_gradient(self, problem: Problem, segments: Sequence[Segment]) -> MetaGradient:
        """The mean meta-gradient over segments; `problem.schedules` has one entry for each."""
        ...

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
        """Trains fresh networks on `subject` and gives each one's accuracy (a fraction) on `judge`.

        Network i is a function of (seed, purpose, i) alone; `on_network(done)` is called for progress.
        """
        ...


@frozen(kw_only=True)
class AbstractExecutor(ABC):
    """Where work happens. Subclasses are `@final @frozen(kw_only=True)` and set `name`."""

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @property
    def experts_at_once(self) -> int:
        """How many experts its sessions train side by side in one process; a run that has to stop waits for them."""
        return 1

    def assemble(self) -> AbstractContextManager[Crew]:
        """Brings the processes together that were started for this run, before anything is looked at or written.

        An executor of one process leaves this as it is. In a crew of N, an outer step averages N times
        `outer.segments_per_step` segments, and `open` gives sessions that share the work out among the ranks.

        Raises:
            OptionError: the process was not started as this executor needs it.
        """
        return nullcontext(Crew())

    def scatter(self, task: str, payloads: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Runs a function once for each payload, and yields (position, result) as they come.

        Here: one after another, in this process. An executor that has other machines sends name and payload there.

        Args:
            task: `module:function`; the function takes a payload and returns a result.
            payloads: JSON-able; so are results.

        Raises:
            Exception: what the function raises.
        """
        module, _, name = task.partition(":")
        function = getattr(importlib.import_module(module), name)
        for position, payload in enumerate(payloads):
            yield position, function(payload)

    @abstractmethod
    def open(self, context: ExecutorContext) -> AbstractContextManager[ExecutorSession]:
        """A session; what it holds open is released when the context manager exits.

        Sessions of other networks may be opened while one is open, to judge what was learned with the first.

        Raises:
            OptionError: this machine cannot do what the options ask for.
        """
