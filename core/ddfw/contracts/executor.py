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
from attrs.validators import ge, gt, in_, le, optional

from ddfw.options import option

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from ddfw.contracts.augmentation import AbstractAugmentation, Draws
    from ddfw.contracts.matching import AbstractMatchingLoss
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.trajectory import Segment


@frozen(kw_only=True)
class GradientSettings:
    """`[gradient]`: how the meta-gradient is computed, and with how much memory."""

    method: Literal["exact", "tesla"] = option(
        "exact",
        validator=in_(("exact", "tesla")),
        help="exact: the adjoint; tesla: the same recursion without Hessian-vector terms, an approximation",
    )
    memory: int | Literal["auto"] = option(
        "auto",
        help="bytes for held step graphs; 0 recomputes every step; auto: as many as fit half of the memory that is "
        "available at the first step (four fifths on an accelerator)",
    )
    tesla_form: Literal["datm", "released"] = option(
        "datm",
        validator=in_(("datm", "released")),
        help="tesla only: `released` loses a factor 2 on images and labels, as the first public code does",
    )

    def __attrs_post_init__(self) -> None:
        if isinstance(self.memory, int) and self.memory < 0:
            raise ValueError(f"memory must be >= 0, got {self.memory}")


@frozen(kw_only=True)
class SharpnessSettings:
    """Adaptive surrogate-gap minimisation (GSAM), for experts in flat regions.

    Args:
        rho: ρ, the size of the step uphill, relative to the parameters.
        alpha: α, how much of the gradient's part across the uphill gradient is subtracted.
    Source: Du et al., Minimizing the Accumulated Trajectory Error (FTD), CVPR 2023, and its released code.
    """

    rho: float
    alpha: float


@frozen(kw_only=True)
class TrainingSettings:
    """SGD on labelled images.

    Args:
        epochs: passes over the images.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: added to the gradient as weight_decay · θ.
        batch_size: images per step; the last batch of an epoch may be smaller.
        decay_after: epochs after which lr is divided by 10 and the momentum starts anew, None for never.
        sharpness: take GSAM's gradient in place of the plain one.
    """

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    decay_after: int | None = None
    sharpness: SharpnessSettings | None = None


@frozen(kw_only=True)
class ExpertSettings:
    """`[experts]`: the networks whose trajectories are matched."""

    store: str = option(
        "",
        help="an imported store (`ddfw experts list`) whose experts are taken in place of trained ones; seed, epochs, "
        "lr, … are then the importer's",
    )
    count: int = option(10, validator=ge(1), help="how many experts; of an imported store, at most")
    seed: int = option(0, validator=ge(0), help="seed of the first expert; the next ones count up from it")
    epochs: int = option(20, validator=ge(1), help="epochs of each expert, one checkpoint after each")
    lr: float = option(0.01, validator=gt(0.0), help="learning rate (SGD, constant)")
    momentum: float = option(0.0, validator=[ge(0.0), le(1.0)], help="momentum")
    weight_decay: float = option(0.0, validator=ge(0.0), help="weight decay")
    batch_size: int = option(256, validator=ge(1), help="images per step")
    optimiser: Literal["sgd", "gsam"] = option(
        "sgd",
        validator=in_(("sgd", "gsam")),
        help="sgd; gsam: adaptive surrogate-gap minimisation on top of it, as FTD trains experts",
    )
    gsam_rho: float = option(0.01, validator=gt(0.0), help="gsam only: ρ, the relative size of the step uphill")
    gsam_alpha: float = option(0.4, validator=ge(0.0), help="gsam only: α of the surrogate gap (DATM takes 0.3)")

    @property
    def training(self) -> TrainingSettings:
        """The same as plain training settings."""
        return TrainingSettings(
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            sharpness=SharpnessSettings(rho=self.gsam_rho, alpha=self.gsam_alpha) if self.optimiser == "gsam" else None,
        )


#: What a distilled set can be compared with.
BASELINES = (
    *("random_real", "random_real_teacher", "random_real_count", "random_real_teacher_count"),
    *("kmeans_real", "herding_real", "full_data"),
)


@frozen(kw_only=True)
class EvalSettings:
    """`[eval]`: how fresh networks are trained on a set, and how a step is selected."""

    networks: int = option(5, validator=ge(2), help="fresh networks of the final evaluation")
    seed: int = option(0, validator=ge(0), help="seed of their initialisations; independent of run.seed")
    epochs: int = option(300, validator=ge(1), help="passes over a synthetic or small real set")
    batch_size: int = option(256, validator=ge(1), help="images per step")
    momentum: float = option(0.9, validator=[ge(0.0), le(1.0)], help="momentum of SGD")
    weight_decay: float = option(5e-4, validator=ge(0.0), help="weight decay")
    decay: bool = option(True, help="divide the learning rate by 10 after half of the passes")
    full_epochs: int = option(30, validator=ge(1), help="epochs on the full training split")
    full_lr: float = option(0.01, validator=gt(0.0), help="learning rate on the full training split")
    baseline_lrs: tuple[float, ...] = option(
        (0.01,), help="learning rates tried on the validation split for the random real baselines"
    )
    baselines: tuple[str, ...] = option(
        ("random_real", "random_real_teacher", "full_data"),
        help="what stands beside the distilled set in the table (…_count: as many images, else equal stored floats): "
        f"any of {', '.join(BASELINES)}",
    )
    every: int = option(50, validator=ge(1), help="outer steps between two selections on the validation split")
    select_networks: int = option(2, validator=ge(1), help="networks trained for each selection")
    select_epochs: int | None = option(
        None, validator=optional(ge(1)), help="passes for a selection; the default is eval.epochs"
    )

    def __attrs_post_init__(self) -> None:
        if not self.baseline_lrs or not all(0 < lr < float("inf") for lr in self.baseline_lrs):
            raise ValueError("baseline_lrs needs at least one learning rate, all > 0 and finite")
        if unknown := [name for name in self.baselines if name not in BASELINES]:
            raise ValueError(f"baselines knows {', '.join(BASELINES)}; got {', '.join(unknown)}")

    def small_set(self, lr: float, epochs: int | None = None) -> TrainingSettings:
        """Settings for a synthetic or small real set."""
        epochs = self.epochs if epochs is None else epochs
        return self._training(lr, epochs)

    def full_set(self) -> TrainingSettings:
        """Settings for the whole training split."""
        return self._training(self.full_lr, self.full_epochs)

    def _training(self, lr: float, epochs: int) -> TrainingSettings:
        return TrainingSettings(
            epochs=epochs,
            lr=lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            decay_after=epochs // 2 + 1 if self.decay else None,
        )


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
