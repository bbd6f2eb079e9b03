"""`cpu`: all work on this machine's processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from attrs import evolve, frozen
from attrs.validators import ge, le, optional

from ddfw import AbstractExecutor, DivergedError, option
from ddfw.contracts.evaluation import EvaluationTask, one_after_another
from ddfw.engine.budget import SHARE_CPU
from ddfw.engine.inner import Network
from ddfw.engine.machine import processor_memory, processors
from ddfw.remote.pool import WORKER_BYTES, can_start_workers, pool_of
from ddfw_plugins.executors._session import LocalSession
from ddfw_plugins.executors._workers import Workers
from ddfw_plugins.executors.compiled import CompiledSteps

if TYPE_CHECKING:
    from ddfw.contracts.executor import Evaluated, ExecutorContext, LabelledImages, TrainedExpert
    from ddfw.contracts.settings import TrainingSettings

#: Threads that train an expert or an evaluation network where `threads` is not given: several networks side by side
#: keep all cores busy, and the number decides bits, so that it is not this machine's.
NETWORK_THREADS = 1


def _require_workers(instance: object, attribute: object, value: object) -> None:
    if value != "auto" and not (isinstance(value, int) and 1 <= value <= 1024):
        raise ValueError(f"workers has to be auto or a number from 1 to 1024, got {value!r}")


@final
@frozen(kw_only=True)
class Cpu(AbstractExecutor):
    """This machine's processor.

    Experts and evaluation networks are trained side by side, in processes of their own, and the meta-gradient is
    computed in this one.
    """

    name: ClassVar[str] = "cpu"
    without_effect: ClassVar[tuple[str, ...]] = ("workers",)

    threads: int | None = option(
        None,
        validator=optional([ge(1), le(1024)]),
        help="threads of each operation; the default is 1 for experts and evaluation networks, and PyTorch's own "
        "choice for meta-gradients. It changes results in the last bits",
    )
    workers: int | Literal["auto"] = option(
        "auto",
        validator=_require_workers,
        help="processes that train experts and evaluation networks side by side; auto: as many as there are cores and "
        "memory for, where the work is worth starting them; 1: all work in this process. It changes no result",
    )
    compile: bool = option(
        False,
        help="compile the student's step: half a minute to a few minutes at the start, faster steps, no held graphs; "
        "needs a C++ compiler",
    )

    @property
    def experts_per_call(self) -> int:
        """Twice as many as are trained side by side, so that nobody waits for the slower one after each."""
        return 1 if self.workers_here == 1 else 2 * self.workers_here

    @property
    def workers_here(self) -> int:
        """How many workers there are on this machine at most; 1 stands for this process."""
        if not can_start_workers():
            return 1
        if self.workers != "auto":
            return self.workers
        most, memory = processors() // self.network_threads, processor_memory()
        if memory is not None:  # a container may have all cores of its machine and little of its memory
            most = min(most, int(SHARE_CPU * memory) // WORKER_BYTES)
        return max(1, most)

    @property
    def network_threads(self) -> int:
        """Threads that train an expert or an evaluation network."""
        return self.threads or NETWORK_THREADS

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[CpuSession]:
        """A session. Afterwards PyTorch uses as many threads as before, and no worker is left."""
        size = self.workers_here
        with so_many_threads(self.threads), pool_of(size) if size > 1 else nullcontext() as pool:
            workers = None
            if pool is not None:
                there = Cpu(threads=self.network_threads, workers=1)
                workers = Workers(context, pool, there, self.network_threads, always=self.workers != "auto")
            yield CpuSession(context, self, workers)


class CpuSession(LocalSession):
    """Does all work on the CPU: meta-gradients in this process, experts and evaluations in workers or in this process.

    Args:
        context: the model, augmentation, matching loss and settings of the run.
        options: the executor, whose fields are its options; None for the defaults.
        workers: train experts and evaluation networks side by side; None to do that in this process.
    """

    def __init__(self, context: ExecutorContext, options: Cpu | None = None, workers: Workers | None = None) -> None:
        network, options = Network(context.module), options or Cpu()
        self._options, self._workers = options, workers
        self._compiled = CompiledSteps(network) if options.compile else None
        super().__init__(
            context,
            network,
            torch.device("cpu"),
            steps=self._compiled,
            training=partial(so_many_threads, options.network_threads),
            prepare=_contiguous,
        )

    def describe(self) -> dict[str, object]:
        """Device, threads, workers, how many step graphs are held and why, and whether steps are compiled."""
        more = {} if self._compiled is None else {"compiled": self._compiled.compiled}
        return {
            "type": "cpu",
            "threads": torch.get_num_threads(),
            "network_threads": self._options.network_threads,
            "workers": 1 if self._workers is None else self._workers.number,
            **super().describe(),
            **more,
        }

    def train_experts(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        validation: LabelledImages,
        seeds: Sequence[int],
        on_epoch: Callable[[int, int], None],
    ) -> Iterator[TrainedExpert]:
        """Trains experts side by side, or one after another; they come in the order in which they are finished."""
        if self._workers is not None and self._workers.take([(settings, train, len(seeds))]):
            return self._workers.train_experts(settings, train, validation, seeds, on_epoch)
        return super().train_experts(settings, train, validation, seeds, on_epoch)

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
        """Trains and tests networks side by side, or one after another."""
        if self._workers is not None and self._workers.take([(settings, train, len(networks))]):
            task = EvaluationTask(
                settings=settings, train=train, test=test, networks=networks, purpose=purpose, classes=True
            )
            ((_, found),) = self._workers.evaluate_sets([task], seed, lambda position, done: on_network(done))
            if isinstance(found, DivergedError):
                raise found
            return found
        return super().evaluate_classes(settings, train, test, seed, networks, purpose, on_network)

    def evaluate_sets(
        self, tasks: Sequence[EvaluationTask], seed: int, on_network: Callable[[int, int], None]
    ) -> Iterator[tuple[int, Evaluated | DivergedError]]:
        """Evaluates all networks of all sets side by side, or one after another."""
        work = [(task.settings, task.train, len(task.networks)) for task in tasks]
        if self._workers is not None and self._workers.take(work):
            return self._workers.evaluate_sets(tasks, seed, on_network)
        return one_after_another(self, tasks, seed, on_network)


def _contiguous(data: LabelledImages) -> LabelledImages:
    """The same data as workers get them: libraries may sum in another order where strides are others."""
    return evolve(data, images=data.images.contiguous(), targets=data.targets.contiguous())


@contextmanager
def so_many_threads(number: int | None) -> Iterator[None]:
    """Within the block PyTorch's operations use so many threads; None: as many as before."""
    before = torch.get_num_threads()
    if number is not None and number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
