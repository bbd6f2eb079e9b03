"""Experts and evaluation networks in worker processes of this machine, for the executor `cpu`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import astuple, define, evolve, field

from ddfw import AbstractExecutor, DivergedError, OptionError
from ddfw.contracts.evaluation import EvaluationTask
from ddfw.contracts.executor import Evaluated, ExecutorContext, LabelledImages, TrainedExpert
from ddfw.engine.inner import Network, supervised_gradient
from ddfw.remote.pool import START_S, Outcome, Piece, Pool
from ddfw.remote.tasks import expert_from, image_spec, pack_job, pack_settings

if TYPE_CHECKING:
    from ddfw.contracts.settings import TrainingSettings

    #: Work: settings of training, the images, and how many networks are trained in that way.
    Work = tuple[TrainingSettings, LabelledImages, int]

#: `workers = "auto"` starts processes where they save more than their start takes, and gives work to those that have
#: been started where that saves so many seconds.
SHARE_S = 0.2

logger = logging.getLogger(__name__)


@define(eq=False)
class Workers:
    """Distributes the training of networks among worker processes.

    Args:
        context: the model, augmentation and settings of the run.
        pool: the processes.
        there: the executor in each of them.
        threads: PyTorch's, in each of them.
        always: whether work is given to them however little it is.
    """

    _context: ExecutorContext
    _pool: Pool
    _there: AbstractExecutor
    _threads: int
    _always: bool = field(kw_only=True)
    _job: dict[str, Any] | None = field(init=False, default=None)
    _refused: bool = field(init=False, default=False)
    _missed: float = field(init=False, default=0.0)
    _step_s: dict[tuple[object, ...], float] = field(init=False, factory=dict)

    @property
    def number(self) -> int:
        """How many processes there are at most."""
        return self._pool.size

    def take(self, work: Sequence[Work]) -> bool:
        """Whether workers shall do this work; if a component cannot travel to them, that is said once.

        Not while they are at work: whoever iterates over experts may ask for something else before the last one.
        """
        networks = sum(count for *_, count in work)
        if self._refused or networks < 2 or self._pool.busy:
            return False
        if not self._always:
            saved = sum(count * self._seconds(settings, data) for settings, data, count in work)
            saved *= 1 - 1 / min(networks, self._pool.size)
            # What was not worth their start so far counts, too: many small pieces of work are one large one.
            self._missed += 0.0 if self._pool.started else saved
            if saved < SHARE_S if self._pool.started else self._missed < START_S:
                return False
        if self._job is None:
            try:
                self._job = pack_job(self._context, self._there, self._threads)
            except OptionError as error:
                self._refused = True
                reason = str(error).removesuffix("; take executor cpu").removesuffix(", or take executor cpu")
                logger.warning("experts and networks are trained in this process, one after another: %s", reason)
        return not self._refused

    def train_experts(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        validation: LabelledImages,
        seeds: Sequence[int],
        on_epoch: Callable[[int, int], None],
    ) -> Iterator[TrainedExpert]:
        """As the session's method; experts come in the order in which they are finished.

        After a failure those before the failed one are finished, so that the error is the one that a loop would meet.
        """
        head, tensors = self._head(settings, train), _tensors(train, validation)
        pieces = [
            Piece(title=f"the expert of seed {seed}", message={"work": "expert", **head, "seed": seed}, tensors=tensors)
            for seed in seeds
        ]
        failed, done = dict[int, Exception](), set[int]()
        for position, outcome in self._pool.run(pieces, on_epoch):
            done.add(position)
            if outcome.error is None:
                (snapshots,) = outcome.tensors
                yield expert_from({**outcome.found, **_curves(outcome), "snapshots": snapshots})
            else:
                failed[position] = outcome.error
            if failed and done.issuperset(range(min(failed))):
                raise failed[min(failed)]

    def evaluate_sets(
        self, tasks: Sequence[EvaluationTask], seed: int, on_network: Callable[[int, int], None]
    ) -> Iterator[tuple[int, Evaluated | DivergedError]]:
        """As the session's method; the networks of all sets are trained side by side, those that take longest first."""
        pieces, places = list[Piece](), list[tuple[int, int]]()
        for position, task in enumerate(tasks):
            head, tensors = self._head(task.settings, task.train), _tensors(task.train, task.test)
            for index, number in enumerate(task.networks):
                message = {"work": "network", **head, "seed": seed, "number": number, "purpose": task.purpose}
                title = f"network {number} ({task.purpose})"
                size = float(task.settings.epochs * len(task.train.images))
                pieces.append(Piece(title=title, message=message, tensors=tensors, size=size))
                places.append((position, index))
        found: list[dict[int, Outcome]] = [{} for _ in tasks]
        for position, task in enumerate(tasks):
            if not len(task.networks):
                yield position, Evaluated(accuracies=())
        for piece, outcome in self._pool.run(pieces):
            if outcome.error is not None and not isinstance(outcome.error, DivergedError):
                raise outcome.error
            position, index = places[piece]
            # Copies, since each mapped tensor keeps a descriptor open, and there may be a thousand networks.
            found[position][index] = evolve(outcome, tensors=[tensor.clone() for tensor in outcome.tensors])
            if outcome.error is None:
                on_network(position, sum(other.error is None for other in found[position].values()))
            if len(found[position]) == len(tasks[position].networks):
                yield position, _evaluated(found[position], classes=tasks[position].classes)

    def _head(self, settings: TrainingSettings, data: LabelledImages) -> dict[str, Any]:
        return {
            "job": self._job,
            "settings": pack_settings(settings),
            "spec": astuple(image_spec(self._context.module, data.images)),
        }

    def _seconds(self, settings: TrainingSettings, data: LabelledImages) -> float:
        """About how long a network trains in this process. The answer decides where it trains, and no bit of it."""
        batch = min(settings.batch_size, len(data.images))
        key = (batch, data.images.shape[1:], data.targets.shape[1:])
        if key not in self._step_s:
            network = Network(self._context.module)
            theta = torch.zeros(network.num_parameters, dtype=data.images.dtype)
            took = 0.0
            for _ in range(2):  # the first step also loads and allocates
                began = time.perf_counter()
                supervised_gradient(network, theta, data.images[:batch], data.targets[:batch])
                took = time.perf_counter() - began
                if took > START_S:
                    break
            self._step_s[key] = took
        return settings.epochs * -(-len(data.images) // batch) * self._step_s[key]


def _tensors(*data: LabelledImages) -> list[torch.Tensor]:
    return [tensor for part in data for tensor in (part.images, part.targets)]


def _curves(outcome: Outcome) -> dict[str, tuple[float, ...]]:
    """The curves of an expert, which JSON made lists."""
    return {name: tuple(outcome.found[name]) for name in ("validation_accuracy", "train_loss")}


def _evaluated(found: dict[int, Outcome], *, classes: bool) -> Evaluated | DivergedError:
    """What the networks of a set have found; the error of the first that diverged."""
    ordered = [found[index] for index in range(len(found))]
    for outcome in ordered:
        if isinstance(outcome.error, DivergedError):
            return outcome.error
    predicted = [tensor for outcome in ordered for tensor in outcome.tensors]
    return Evaluated(
        accuracies=tuple(outcome.found["accuracy"] for outcome in ordered),
        predicted=torch.stack(predicted) if classes and len(predicted) == len(ordered) else None,
    )
