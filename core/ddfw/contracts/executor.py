"""Executors: the devices and processes on which experts are trained, meta-gradients computed and networks evaluated.

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
    """`[gradient]`: the method for the meta-gradient and the memory that it may use."""

    method: Literal["exact", "tesla"] = option(
        "exact",
        validator=in_(("exact", "tesla")),
        help="exact: the exact derivative; tesla: an approximation that leaves out the Hessian-vector products",
    )
    memory: int | Literal["auto"] = option(
        "auto",
        help="bytes for inner steps kept instead of recomputed; 0: recompute every step; auto: half of the memory that "
        "is available at the first step (four fifths on a GPU)",
    )
    tesla_form: Literal["datm", "released"] = option(
        "datm",
        validator=in_(("datm", "released")),
        help="tesla only: `released` halves the gradients of images and labels, as the first public code does",
    )

    def __attrs_post_init__(self) -> None:
        if isinstance(self.memory, int) and self.memory < 0:
            raise ValueError(f"memory must be >= 0, got {self.memory}")


@frozen(kw_only=True)
class SharpnessSettings:
    """Settings of adaptive surrogate-gap minimisation (GSAM), which trains experts to flat minima.

    Args:
        rho: ρ, size of the step uphill, relative to the parameters.
        alpha: α, how much to subtract of the gradient's part that is orthogonal to the gradient uphill.
    Source: Du et al., Minimizing the Accumulated Trajectory Error (FTD), CVPR 2023, and its released code.
    """

    rho: float
    alpha: float


@frozen(kw_only=True)
class TrainingSettings:
    """Settings of SGD on labelled images.

    Args:
        epochs: number of passes over the images.
        lr: learning rate.
        momentum: momentum of SGD.
        weight_decay: weight decay; weight_decay · θ is added to the gradient.
        batch_size: images per step; the last batch of an epoch may be smaller.
        decay_after: number of epochs after which lr is divided by 10 and the momentum buffer set to 0; None: never.
        sharpness: settings of GSAM, whose gradient then replaces the plain one; None: plain SGD.
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
    """`[experts]`: how the expert networks are trained, whose trajectories the student has to match."""

    store: str = option(
        "",
        help="name of an imported store (`ddfw experts list`) whose experts are used instead of training some; the "
        "other settings of [experts] except count then have no effect",
    )
    count: int = option(10, validator=ge(1), help="number of experts; of an imported store, at most this many")
    seed: int = option(0, validator=ge(0), help="seed of the first expert; the next one has this plus 1, and so on")
    epochs: int = option(20, validator=ge(1), help="epochs of each expert, one checkpoint after each")
    lr: float = option(0.01, validator=gt(0.0), help="learning rate (SGD, constant)")
    momentum: float = option(0.0, validator=[ge(0.0), le(1.0)], help="momentum")
    weight_decay: float = option(0.0, validator=ge(0.0), help="weight decay")
    batch_size: int = option(256, validator=ge(1), help="images per step")
    optimiser: Literal["sgd", "gsam"] = option(
        "sgd",
        validator=in_(("sgd", "gsam")),
        help="sgd: plain SGD; gsam: SGD with adaptive surrogate-gap minimisation, as FTD trains experts",
    )
    gsam_rho: float = option(0.01, validator=gt(0.0), help="gsam only: ρ, the relative size of the step uphill")
    gsam_alpha: float = option(0.4, validator=ge(0.0), help="gsam only: α of the surrogate gap (DATM takes 0.3)")

    @property
    def training(self) -> TrainingSettings:
        """The settings of SGD for the experts."""
        return TrainingSettings(
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            sharpness=SharpnessSettings(rho=self.gsam_rho, alpha=self.gsam_alpha) if self.optimiser == "gsam" else None,
        )


#: Names of the sets with which a distilled set can be compared.
BASELINES = (
    *("random_real", "random_real_teacher", "random_real_count", "random_real_teacher_count"),
    *("kmeans_real", "herding_real", "full_data"),
)


@frozen(kw_only=True)
class EvalSettings:
    """`[eval]`: how fresh networks are trained to evaluate a set, and how the best outer step is selected."""

    networks: int = option(5, validator=ge(2), help="number of fresh networks trained in the final evaluation")
    seed: int = option(0, validator=ge(0), help="seed of the evaluation networks; independent of run.seed")
    epochs: int = option(300, validator=ge(1), help="epochs on a synthetic set or on a real one of the same budget")
    batch_size: int = option(256, validator=ge(1), help="images per step")
    momentum: float = option(0.9, validator=[ge(0.0), le(1.0)], help="momentum of SGD")
    weight_decay: float = option(5e-4, validator=ge(0.0), help="weight decay")
    decay: bool = option(True, help="divide the learning rate by 10 after half of the epochs")
    full_epochs: int = option(30, validator=ge(1), help="epochs on the full training split")
    full_lr: float = option(0.01, validator=gt(0.0), help="learning rate on the full training split")
    baseline_lrs: tuple[float, ...] = option(
        (0.01,), help="learning rates for the random real baselines; the best on the validation split is used"
    )
    baselines: tuple[str, ...] = option(
        ("random_real", "random_real_teacher", "full_data"),
        help="sets to compare with in the table (…_count: of as many images; other random ones: of as many floats): "
        f"any of {', '.join(BASELINES)}",
    )
    every: int = option(50, validator=ge(1), help="outer steps between two evaluations on the validation split")
    select_networks: int = option(2, validator=ge(1), help="networks trained for each of these evaluations")
    select_epochs: int | None = option(
        None, validator=optional(ge(1)), help="epochs for an evaluation on the validation split; default: eval.epochs"
    )

    def __attrs_post_init__(self) -> None:
        if not self.baseline_lrs or not all(0 < lr < float("inf") for lr in self.baseline_lrs):
            raise ValueError("baseline_lrs needs at least one learning rate, all > 0 and finite")
        if unknown := [name for name in self.baselines if name not in BASELINES]:
            raise ValueError(f"baselines knows {', '.join(BASELINES)}; got {', '.join(unknown)}")

    def small_set(self, lr: float, epochs: int | None = None) -> TrainingSettings:
        """Settings of SGD on a synthetic set, or on real images of the same budget.

        Args:
            lr: learning rate.
            epochs: number of epochs; None: `eval.epochs`.
        """
        epochs = self.epochs if epochs is None else epochs
        return self._training(lr, epochs)

    def full_set(self) -> TrainingSettings:
        """Settings of SGD on the whole training split."""
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
    """Images in training space with their labels.

    Args:
        images: [n, C, H, W] floating point.
        targets: [n] classes (int64), or [n, m] probabilities in the images' dtype.
    """

    images: Tensor
    targets: Tensor


@frozen(kw_only=True)
class TrainedExpert:
    """One trained expert.

    Args:
        seed: seed of the expert.
        snapshots: [K + 1, P], the parameters before the first epoch and after each epoch.
        validation_accuracy: K fractions, the accuracy on the validation split after each epoch.
        train_loss: K numbers, the mean training loss of each epoch.
    """

    seed: int
    snapshots: Tensor
    validation_accuracy: tuple[float, ...]
    train_loss: tuple[float, ...]


@frozen(kw_only=True)
class Schedule:
    """The data of one student's N steps.

    Args:
        batches: for each step the rows [b] (int64) of the problem's images that it uses.
        draws: for each step the draws of the augmentation.
    """

    batches: tuple[Tensor, ...]
    draws: tuple[Draws, ...]


@frozen(kw_only=True)
class Problem:
    """What a student of one outer step is trained on.

    Args:
        images: [B, C, H, W] decoded images in training space.
        targets: [B, m] label probabilities, in the images' dtype.
        step_size: the student's step size a, a scalar tensor.
        schedules: one schedule of N steps for each segment.
        learn_targets: whether to compute the gradient with respect to the targets; if not, it is given as zeros.
    """

    images: Tensor
    targets: Tensor
    step_size: Tensor
    schedules: tuple[Schedule, ...]
    learn_targets: bool = True


@frozen(kw_only=True)
class MetaGradient:
    """Matching loss L and its derivatives, each the mean over the segments.

    Args:
        loss: L, a scalar tensor.
        images: ∂L/∂images [B, C, H, W].
        targets: ∂L/∂targets [B, m].
        step_size: ∂L/∂a, a scalar tensor.
        held_steps: number of inner steps whose autograd graph was kept instead of recomputed.
    """

    loss: Tensor
    images: Tensor
    targets: Tensor
    step_size: Tensor
    held_steps: int


@frozen(kw_only=True)
class ExecutorContext:
    """The parts of a run that an executor's session works with.

    Args:
        model: the network's component, which draws initial parameters.
        module: the network that `model` built; its own parameter values are never used.
        augmentation: the augmentation of experts, students and evaluation networks.
        loss: the matching loss.
        gradient: settings of the meta-gradient.
        dtype: dtype of all floating-point tensors.
        held_steps: number of inner steps whose autograd graph to keep, as measured before a run was interrupted;
            None: measure it.
    """

    model: AbstractModel
    module: nn.Module
    augmentation: AbstractAugmentation
    loss: AbstractMatchingLoss
    gradient: GradientSettings
    dtype: torch.dtype
    held_steps: int | None = None


class Crew:
    """The processes that work on one run together; this base class is a crew of one process.

    Every process runs the same code and calls these methods in the same order. Only the process of rank 0 writes to the
    run directory.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    def share(self, value: Any) -> Any:
        """Returns on every process the JSON-able value that rank 0 passed."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Returns on every process the JSON-able values of all processes, in the order of their ranks."""
        return [value]

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Copies rank 0's values into these tensors, in place, so that they are equal on every process."""


class ExecutorSession(Protocol):
    """An opened executor. Results agree between devices up to rounding."""

    @property
    def device(self) -> torch.device:
        """The device on which images and parameters have to be."""
        ...

    def describe(self) -> dict[str, object]:
        """Device, number of threads and the like, as JSON-able values for the manifest.

        A stopped run is resumed only if its session's description before the first step is the same as it was.
        `held_steps` and the numbers of `nodes`, `cpus` and `gpus` may differ. Values that are unknown are null.
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

        Args:
            settings: epochs, learning rate and the other settings of SGD.
            train: the training split in training space.
            validation: the images on which accuracy is measured after every epoch.
            seeds: one seed for each expert.
            on_epoch: called with an expert's position in `seeds` and the number of its finished epochs.
        """
        ...

    def meta_gradient(self, problem: Problem, segments: Sequence[Segment]) -> MetaGradient:
        """Computes the meta-gradient, averaged over segments.

        Args:
            problem: images, targets and step size, with one schedule for each segment.
            segments: the pieces of expert paths that students have to follow.
        """
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
        """Trains fresh networks on `subject` and measures the accuracy of each on `judge`.

        Args:
            settings: epochs, learning rate and the other settings of SGD.
            subject: the images to train on.
            judge: the images on which accuracy is measured.
            seed: the option `eval.seed`; the random numbers of network i depend on `seed`, `purpose` and i only.
            networks: the numbers i of the networks to train.
            purpose: `select` for the selection of an outer step, `eval` for the final evaluation.
            on_network: called after each network with the number of finished networks.

        Returns:
            The accuracy (a fraction) of each network.
        """
        ...


@frozen(kw_only=True)
class AbstractExecutor(ABC):
    """Where a run's computations happen: on this CPU, on a GPU, in several processes or on other machines.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    def assemble(self) -> AbstractContextManager[Crew]:
        """Connects the processes that were started for this run, before any file is read or written.

        Executors of one process need not override it. In a crew of N processes an outer step averages over N times
        `outer.segments_per_step` segments, and the sessions of `open` share that work.

        Raises:
            OptionError: the process was not started in the way that this executor needs.
        """
        return nullcontext(Crew())

    def scatter(self, task: str, payloads: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Calls a function once for each payload and yields (position of the payload, result) as results arrive.

        This base class makes the calls one after another in this process; an executor with other machines may send
        the function's name and the payloads to them.

        Args:
            task: `module:function`; the function takes a payload and returns a JSON-able result.
            payloads: JSON-able arguments, one for each call.

        Raises:
            Exception: any exception of the function.
        """
        module, _, name = task.partition(":")
        function = getattr(importlib.import_module(module), name)
        for position, payload in enumerate(payloads):
            yield position, function(payload)

    @abstractmethod
    def open(self, context: ExecutorContext) -> AbstractContextManager[ExecutorSession]:
        """Opens a session; leaving the context manager releases what it holds (devices, processes, connections).

        Further sessions with other networks may be opened at the same time, to evaluate a set on them.

        Args:
            context: model, loss and the other parts of the run.

        Raises:
            OptionError: this machine cannot do what the options ask for.
        """
