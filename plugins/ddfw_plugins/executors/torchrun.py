"""`torchrun`: several processes that torchrun started share the work of one run.

Every rank runs the same program and keeps the same images, labels and step size. Each rank computes the gradients of
its share of an outer step's segments, and one all-reduce adds them up. Each also trains its share of the experts and
evaluation networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from attrs import evolve, frozen
from attrs.validators import ge, in_, le, optional

from ddfw import AbstractExecutor, Crew, DivergedError, MetaGradient, OptionError, option
from ddfw.contracts.executor import Evaluated, ask_classes
from ddfw.engine.budget import auto_memory, available_memory
from ddfw.engine.interruption import share_of_work
from ddfw.errors import Interrupted
from ddfw.process.ranks import Launch, launch
from ddfw_plugins.executors._process_group import ProcessCrew, assembled, current
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.executors.cuda import ARITHMETIC, Cuda, Lower, cuda_with

if TYPE_CHECKING:
    from ddfw import Segment
    from ddfw.contracts.executor import ExecutorContext, ExecutorSession, LabelledImages, Problem, TrainedExpert
    from ddfw.contracts.settings import TrainingSettings

#: What an option of `cuda` is where nobody says.
_CUDA = "the default is cuda's"
_START = "torchrun --nproc-per-node N -m ddfw run … --executor torchrun"


@final
@frozen(kw_only=True)
class Torchrun(AbstractExecutor):
    """Several processes started by torchrun share the work, on GPUs or CPUs.

    There is one process for each GPU, or on CPUs.
    """

    name: ClassVar[str] = "torchrun"

    device: Literal["auto", "cpu", "cuda"] = option(
        "auto",
        validator=in_(("auto", "cpu", "cuda")),
        help="cuda: each rank has the GPU of its number on its machine; auto: cuda where there is one, else cpu",
    )
    threads: int | None = option(
        None,
        validator=optional([ge(1), le(1024)]),
        help="cpu only: threads of each operation on each rank; the default is OMP_NUM_THREADS, which torchrun sets to "
        "1 if nobody has",
    )
    compile: bool | None = option(
        None, help="compile the student's step on each rank; the default is that of the executors cpu and cuda"
    )
    graphs: bool | None = option(None, help=f"GPUs only: replay it as a CUDA graph; {_CUDA}")
    training: Lower | None = option(
        None,
        validator=optional(in_(ARITHMETIC)),
        help=f"GPUs only: arithmetic of experts and evaluation networks; {_CUDA}",
    )
    gradient: Lower | None = option(
        None, validator=optional(in_(ARITHMETIC)), help=f"GPUs only: arithmetic of the student's network; {_CUDA}"
    )
    deterministic: bool | None = option(None, help=f"GPUs only: take only operations that repeat to the bit; {_CUDA}")
    channels_last: bool | None = option(None, help=f"GPUs only: images lie channel by channel last; {_CUDA}")
    together: int | None = option(
        None,
        validator=optional(ge(1)),
        help=f"GPUs only: experts and evaluation networks that each rank trains at a time; {_CUDA}",
    )

    @property
    def experts_at_once(self) -> int:
        """The option `together`, on GPUs."""
        return self._on_gpu().experts_at_once if self._gpus() else 1

    @property
    def expert_arithmetic(self) -> str:
        """The option `training`, on GPUs."""
        return self._on_gpu().expert_arithmetic if self._gpus() else "float32"

    @contextmanager
    def assemble(self) -> Iterator[Crew]:
        """Connects the ranks that torchrun started; they also end together.

        Raises:
            OptionError: torchrun did not start this process, or its machine has fewer GPUs than ranks.
        """
        here = launch()
        if here is None:
            raise OptionError(f"this process was not started by torchrun; start it as `{_START}`")
        with assembled(here, self._device(here)) as crew:
            yield crew

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[SharedSession]:
        """A session that does this rank's share of the work; outside `assemble` it does all of it.

        Raises:
            OptionError: this machine cannot do what the options ask for.
        """
        here, crew = launch(), current()
        device = self._device(here)
        if here is not None and crew is not None and device.type == "cpu":
            context = _with_its_memory(context, here.local_size, crew)
        with self._inner(device).open(context) as session:
            yield SharedSession(session, crew)

    def _device(self, here: Launch | None) -> torch.device:
        gpus = self._gpus()
        if self.device == "cuda" and not gpus:
            raise OptionError("no GPU that PyTorch can use; device = 'cpu' works anywhere", "device")
        if not gpus:
            return torch.device("cpu")
        wanted = 1 if here is None else here.local_size
        if wanted > gpus:
            raise OptionError(
                f"{wanted} processes were started on a machine with {gpus} GPU{'s' * (gpus > 1)}; take "
                f"--nproc-per-node {gpus}, or device = 'cpu'",
                "device",
            )
        return torch.device("cuda", 0 if here is None else here.local_rank)

    def _gpus(self) -> int:
        """How many GPUs of this machine are to be used."""
        return torch.cuda.device_count() if self.device != "cpu" and torch.cuda.is_available() else 0

    def _on_gpu(self, device: str = "cuda") -> Cuda:
        return cuda_with(self, device=device)

    def _inner(self, device: torch.device) -> AbstractExecutor:
        """The executor that does a rank's share: `cpu` or `cuda`."""
        if device.type == "cuda":
            return self._on_gpu(str(device))
        return Cpu(threads=self.threads or torch.get_num_threads(), workers=1, compile=bool(self.compile))


def _with_its_memory(context: ExecutorContext, neighbours: int, crew: Crew) -> ExecutorContext:
    """Divides the memory that "auto" takes among the processes of a machine; all ranks take the least share."""
    if context.gradient.memory != "auto" or context.held_steps is not None or crew.size == 1:
        return context
    cpu = torch.device("cpu")
    memory = min(crew.gather(auto_memory(cpu, available_memory(cpu)) // neighbours))
    return evolve(context, gradient=evolve(context.gradient, memory=memory))


@final
class SharedSession:
    """Does a rank's share of the work, through a session of the executor `cpu` or `cuda`.

    Args:
        inner: that session.
        crew: all ranks; None does all work here.
    """

    def __init__(self, inner: ExecutorSession, crew: ProcessCrew | None) -> None:
        self._inner = inner
        self._group = crew
        self._crew: Crew = Crew() if crew is None else crew

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        return self._inner.device

    def describe(self) -> dict[str, object]:
        """What this rank's session reports, the number of ranks, and their backend (None for one process)."""
        backend = None if self._group is None else self._group.backend
        return {**self._inner.describe(), "type": "torchrun", "ranks": self._crew.size, "backend": backend}

    def train_experts(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        validation: LabelledImages,
        seeds: Sequence[int],
        on_epoch: Callable[[int, int], None],
    ) -> Iterator[TrainedExpert]:
        """Trains this rank's share of the experts: those at positions rank, rank + size, … of `seeds`.

        Raises:
            DivergedError: an expert of any rank diverged; raised on every rank, once each has done its share.
        """
        rank, size = self._crew.rank, self._crew.size
        finished, diverged = 0, None
        experts = iter(
            self._inner.train_experts(
                settings, train, validation, seeds[rank::size], lambda own, epoch: on_epoch(own * size + rank, epoch)
            )
        )
        stopped = None
        try:
            while True:
                with share_of_work():
                    expert = next(experts, None)
                if expert is None:
                    break
                yield expert
                finished += 1
        except DivergedError as error:
            diverged = error
        except Interrupted as stop:
            stopped = stop
        self._stop_together(stopped)
        self._raise_first(diverged, finished * size + rank)

    def meta_gradient(self, problem: Problem, segments: Sequence[Segment]) -> MetaGradient:
        """The mean of the gradients of all segments, from one sum over the ranks."""
        if self._group is None or self._crew.size == 1:
            return self._inner.meta_gradient(problem, segments)
        rank, size = self._crew.rank, self._crew.size
        share = segments[rank::size]
        parts = (problem.images, problem.targets, problem.step_size, problem.step_size)
        held = 0
        found, stopped = None, None
        if share:
            try:
                with share_of_work():
                    found = self._inner.meta_gradient(evolve(problem, schedules=problem.schedules[rank::size]), share)
            except Interrupted as stop:
                stopped = stop
        self._stop_together(stopped)
        if found is not None:
            weight, held = len(share) / len(segments), found.held_steps
            flat = torch.cat([t.reshape(-1) for t in (found.images, found.targets, found.step_size, found.loss)])
            flat = flat * weight
        else:
            flat = torch.zeros(sum(t.numel() for t in parts), dtype=problem.images.dtype, device=problem.images.device)
        self._group.add_up(flat)
        pieces = flat.split([t.numel() for t in parts])
        images, targets, step_size, loss = (piece.view_as(t) for piece, t in zip(pieces, parts, strict=True))
        return MetaGradient(loss=loss, images=images, targets=targets, step_size=step_size, held_steps=held)

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
        """Trains this rank's share of the networks; every rank gets all accuracies, in the networks' order.

        Raises:
            DivergedError: a network of any rank diverged; raised on every rank.
        """
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
        """As `evaluate`, with the classes that each network predicts.

        Raises:
            DivergedError: a network of any rank diverged; raised on every rank.
        """
        rank, size = self._crew.rank, self._crew.size
        finished, told = 0, 0
        found, diverged = Evaluated(accuracies=()), None

        def tell(done: int) -> None:
            nonlocal finished, told
            finished = done
            # Other ranks are about as far as this one. The last networks are reported when every rank has finished.
            about = (done - 1) * size + 1
            for number in range(told + 1, about + 1):
                on_network(number)
            told = about

        stopped = None
        try:
            with share_of_work():
                if mine := networks[rank::size]:
                    found = ask_classes(self._inner, settings, train, test, seed, mine, purpose, tell)
        except DivergedError as error:
            diverged = error
        except Interrupted as stop:
            stopped = stop
        self._stop_together(stopped)
        self._raise_first(diverged, finished * size + rank)
        classes = None if found.predicted is None else found.predicted.tolist()
        shares = self._crew.gather([list(found.accuracies), classes if mine else []])
        for number in range(told + 1, len(networks) + 1):
            on_network(number)
        order = [(position % size, position // size) for position in range(len(networks))]
        known = all(share[1] is not None for share in shares)
        return Evaluated(
            accuracies=tuple(shares[rank][0][place] for rank, place in order),
            predicted=torch.tensor([shares[rank][1][place] for rank, place in order]) if known else None,
        )

    def _stop_together(self, mine: Interrupted | None) -> None:
        """Stops on every rank as soon as one was stopped in its share."""
        if any(self._crew.gather(mine is not None)):
            raise mine or Interrupted

    def _raise_first(self, mine: DivergedError | None, position: int) -> None:
        """Raises on every rank the divergence that one process alone would have met first, if a rank has met one.

        Args:
            mine: of this rank, None if there was none.
            position: of the network or expert that diverged, among all.
        """
        told = None if mine is None else {"position": position, "message": str(mine), "step": mine.step}
        found = [one for one in self._crew.gather(told) if one is not None]
        if not found:
            return
        first = min(found, key=lambda one: int(one["position"]))
        if mine is not None and first["position"] == position:
            raise mine
        raise DivergedError(first["message"], step=first["step"])
