"""Executors: the devices and processes on which experts are trained, meta-gradients computed and networks evaluated.

Shapes: B used images, C channels, H rows, W columns, m classes, N inner steps, P parameters, S snapshots.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
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


@frozen(kw_only=True, eq=False)
class Evaluated:
    """What fresh networks made of a set.

    Args:
        accuracies: the accuracy (a fraction) of each network.
        predicted: [networks, n] int64, the class that each network predicts for each test image; None where a session
            does not say.
    """

    accuracies: tuple[float, ...]
    predicted: Tensor | None = None


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
    """An executor at work on one network: it trains experts, computes meta-gradients and evaluates sets.

    Its results agree between devices up to rounding.
    """

    @property
    def device(self) -> torch.device:
        """The device on which images and parameters have to be."""

    def describe(self) -> dict[str, object]:
        """Device, number of threads and the like, as JSON-able values for the manifest.

        A stopped run is resumed only if its session's description before the first step is the same as it was.
        `held_steps` and the numbers of `nodes`, `cpus`, `gpus` and `workers` may differ. Values that are unknown are
        null.
        """

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

    def meta_gradient(self, problem: Problem, segments: Sequence[Segment]) -> MetaGradient:
        """Computes the meta-gradient, averaged over segments.

        Args:
            problem: images, targets and step size, with one schedule for each segment.
            segments: the pieces of expert paths that students have to follow.
        """

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
        """Trains fresh networks on `train` and measures the accuracy of each on `test`.

        Args:
            settings: epochs, learning rate and the other settings of SGD.
            train: the images to train on.
            test: the images on which accuracy is measured.
            seed: the option `eval.seed`; the random numbers of network i depend on `seed`, `purpose` and i only.
            networks: the numbers i of the networks to train.
            purpose: `select` for the selection of an outer step, `eval` for the final evaluation.
            on_network: called after each network with the number of finished networks.

        Returns:
            The accuracy (a fraction) of each network.
        """

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
        """As `evaluate`, with the classes that each network predicts; a session need not have this method.

        From the classes of the learned set's test a run makes its confusion matrix. Without the method, or where
        `predicted` is None, the run has no such matrix and is the same otherwise.
        """
        return Evaluated(accuracies=self.evaluate(settings, train, test, seed, networks, purpose, on_network))


def ask_classes(
    session: ExecutorSession,
    settings: TrainingSettings,
    train: LabelledImages,
    test: LabelledImages,
    seed: int,
    networks: range,
    purpose: Literal["select", "eval"],
    on_network: Callable[[int], None],
) -> Evaluated:
    """`session.evaluate_classes`, also of a session that does not have this method: then without classes."""
    ask = getattr(session, "evaluate_classes", None)
    if ask is None:
        ask = partial(ExecutorSession.evaluate_classes, session)
    found: Evaluated = ask(settings, train, test, seed, networks, purpose, on_network)
    return found


@frozen(kw_only=True)
class AbstractExecutor(ABC):
    """Where a run's computations happen: on this CPU, on a GPU, in several processes or on other machines.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX, and
    `without_effect` names options that change no bit of any result, such as a number of processes.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    without_effect: ClassVar[tuple[str, ...]] = ()

    @property
    def experts_at_once(self) -> int:
        """How many experts its sessions train side by side in one process; a run that has to stop waits for them."""
        return 1

    @property
    def experts_per_call(self) -> int | None:
        """How many experts a call of `train_experts` is given, so that runs at the same time share those they need.

        None gives all to one call, which is right where the executor has more processes than it can tell here.
        """
        return None

    @property
    def expert_arithmetic(self) -> str:
        """How experts are computed where the run's precision is float32, "float32" unless it is lower.

        Experts of another arithmetic are other experts: they get a store of their own.
        """
        return "float32"

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
        function = pkgutil.resolve_name(task)
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
