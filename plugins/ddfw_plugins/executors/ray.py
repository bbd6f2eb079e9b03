"""`ray`: experts, evaluation networks and sweep trials as tasks on a Ray cluster; meta-gradients in this process."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from attrs import Factory, astuple, define, field, frozen
from attrs.validators import ge, gt, in_, le, optional

from ddfw import AbstractExecutor, option
from ddfw.contracts.executor import Evaluated
from ddfw_plugins.executors import _ray_tasks
from ddfw_plugins.executors._ray_cluster import connected, require_room, shelf
from ddfw_plugins.executors._ray_jobs import Cluster, Job
from ddfw_plugins.executors.cpu import NETWORK_THREADS, Cpu
from ddfw_plugins.executors.cuda import ARITHMETIC, Lower, cuda_with

if TYPE_CHECKING:
    from ddfw import LabelledImages, MetaGradient, Segment
    from ddfw.contracts.executor import ExecutorContext, ExecutorSession, Problem, TrainedExpert
    from ddfw.contracts.settings import TrainingSettings
    from ddfw.remote.shelf import Shelf

#: What an option of `cuda` is where nobody says.
_CUDA = "the default is cuda's"


@final
@frozen(kw_only=True)
class Ray(AbstractExecutor):
    """Experts, evaluations and sweeps as tasks on a Ray cluster."""

    name: ClassVar[str] = "ray"

    address: str = option(
        "", help="of a running cluster, host:port or `auto`; empty starts one on this machine for the run"
    )
    workers: int | None = option(
        None,
        validator=optional(ge(1)),
        help="tasks at the same time, at most; the default is what the cluster has room for",
    )
    cpus: float = option(1.0, validator=gt(0.0), help="CPUs that a task reserves; may be a fraction")
    gpus: float = option(
        0.0, validator=ge(0.0), help="GPUs that a task reserves and trains on, e.g. 0.25; 0 trains on CPUs"
    )
    threads: int | None = option(
        None,
        validator=optional([ge(1), le(1024)]),
        help="PyTorch's threads in a task; the default is that of the executor cpu for experts and networks, 1, which "
        "gives the same numbers",
    )
    retries: int = option(3, validator=ge(0), help="how often a task whose worker was lost is started again")
    device: Literal["cpu", "cuda"] = option(
        "cpu", validator=in_(("cpu", "cuda")), help="where this process computes meta-gradients"
    )
    compile: bool | None = option(
        None, help="compile the student's step in this process; the default is that of the executors cpu and cuda"
    )
    graphs: bool | None = option(None, help=f"device cuda only: replay it as a CUDA graph; {_CUDA}")
    gradient: Lower | None = option(
        None,
        validator=optional(in_(ARITHMETIC)),
        help=f"device cuda only: arithmetic of the student's network; {_CUDA}",
    )
    training: Lower | None = option(
        None,
        validator=optional(in_(ARITHMETIC)),
        help=f"gpus above 0 only: arithmetic of experts and evaluation networks; {_CUDA}",
    )
    channels_last: bool | None = option(
        None, help=f"gpus above 0 only: images in tasks lie channel by channel last; {_CUDA}"
    )
    together: int | None = option(
        None,
        validator=optional(ge(1)),
        help=f"gpus above 0 only: experts and evaluation networks that a task trains at a time; {_CUDA}",
    )
    deterministic: bool | None = option(
        None, help=f"on GPUs only: take only operations that repeat to the bit; {_CUDA}"
    )

    def __attrs_post_init__(self) -> None:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus above 1 have to be whole, got {self.gpus}")

    @property
    def expert_arithmetic(self) -> str:
        """The option `training`, where tasks train on GPUs."""
        return self._on("cuda").expert_arithmetic if self.gpus else "float32"

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[RaySession]:
        """A session. A cluster that was started for it ends when the last open session closes."""
        from ddfw.remote.tasks import pack_job

        with self._on(self.device).open(context) as here:
            job = pack_job(context, self._there(), self._task_threads())
            with self._cluster() as cluster:
                session = RaySession(self, context, job, here, cluster)
                try:
                    yield session
                finally:
                    session.close()

    def scatter(self, task: str, payloads: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Runs one task for each payload, which travels as JSON; relative paths in it start from this folder."""
        texts, threads, folder = [json.dumps(p) for p in payloads], self._task_threads(), os.getcwd()
        if not texts:
            return
        with self._cluster() as cluster:
            jobs = [
                Job(f"{task} {position}", _ray_tasks.call, (task, text, threads, folder))
                for position, text in enumerate(texts)
            ]
            for position, result in cluster.run(jobs):
                yield position, json.loads(result)

    @contextmanager
    def _cluster(self) -> Iterator[Cluster]:
        cores = None if self.workers is None else max(1, math.ceil(self.workers * self.cpus))
        with connected(self.address, cores) as ray:
            require_room(ray, self.cpus, self.gpus)
            cluster = Cluster(self, ray)
            try:
                yield cluster
            finally:
                cluster.close()

    def _on(self, device: str) -> AbstractExecutor:
        """The executor of this process."""
        return cuda_with(self, device="cuda") if device == "cuda" else Cpu(compile=bool(self.compile), workers=1)

    def _there(self) -> AbstractExecutor:
        """The executor in a task."""
        return cuda_with(self, device="cuda") if self.gpus else Cpu(threads=self._task_threads(), workers=1)

    def _task_threads(self) -> int:
        return NETWORK_THREADS if self.threads is None else self.threads


@define(eq=False)
class RaySession:
    """Trains experts and evaluation networks as Ray tasks, and computes meta-gradients in this process.

    Args:
        options: the executor, whose fields are its options.
        context: the model, augmentation, matching loss and settings of the run.
        job: the same as tables of JSON, which every task gets.
        here: the session in this process.
        cluster: runs the tasks.
    """

    _options: Ray
    _context: ExecutorContext
    _job: Mapping[str, Any]
    _here: ExecutorSession
    _cluster: Cluster
    _shelf: Shelf[Any] = field(init=False, default=Factory(lambda self: shelf(self._cluster.ray), takes_self=True))
    _progress: Any = field(init=False, default=None)
    _calls: Iterator[int] = field(init=False, factory=count)

    @property
    def device(self) -> torch.device:
        """The device of the meta-gradients, in this process."""
        return self._here.device

    def describe(self) -> dict[str, object]:
        """What the session in this process reports, and the cluster's nodes, CPUs and GPUs."""
        ray, here = self._cluster.ray, self._here.describe()
        there = ray.cluster_resources()
        return {
            **here,
            "type": "ray",
            "gradients": here["type"],
            "nodes": sum(node["Alive"] for node in ray.nodes()),
            "cpus": there.get("CPU", 0),
            "gpus": there.get("GPU", 0),
            "task": {"cpus": self._options.cpus, "gpus": self._options.gpus, "threads": self._job["threads"]},
            "ray": ray.__version__,
        }

    def train_experts(
        self,
        settings: TrainingSettings,
        train: LabelledImages,
        validation: LabelledImages,
        seeds: Sequence[int],
        on_epoch: Callable[[int, int], None],
    ) -> Iterator[TrainedExpert]:
        """Trains each expert as a task, or `together` in one; they come in the order in which they are finished."""
        from ddfw.remote.tasks import expert_from

        if not seeds:
            return
        call, told, progress = next(self._calls), [0] * len(seeds), self._listener()

        def tell(position: int, epoch: int) -> None:
            while told[position] < epoch:
                told[position] += 1
                on_epoch(position, told[position])

        def look() -> None:
            with suppress(self._cluster.ray.exceptions.RayError):  # a run does not fail because progress is unknown
                for key, epoch in self._cluster.ray.get(progress.read.remote(), timeout=10).items():
                    number, _, position = key.partition("/")
                    if number == str(call):
                        tell(int(position), epoch)

        head, data = self._head(settings, train), self._data(train, validation)
        shares = self._shares(range(len(seeds)))
        jobs = [
            Job(
                _title("expert of seed", "experts of seeds", [seeds[position] for position in share]),
                _ray_tasks.experts,
                (*head, [seeds[p] for p in share], [f"{call}/{p}" for p in share], progress, *data),
            )
            for share in shares
        ]
        for number, records in self._cluster.run(jobs, look):
            for position, record in zip(shares[number], records, strict=True):
                tell(position, settings.epochs)
                # A copy: Ray's memory is read-only and is reused.
                snapshots = torch.from_numpy(record["snapshots"].copy())
                yield expert_from({**record, "snapshots": snapshots})

    def meta_gradient(self, problem: Problem, segments: Sequence[Segment]) -> MetaGradient:
        """Computes the meta-gradient in this process."""
        return self._here.meta_gradient(problem, segments)

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
        """Trains and tests each network as a task, or `together` in one."""
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
        head, data = self._head(settings, train), self._data(train, test)
        shares = self._shares(networks)
        jobs = [
            Job(
                f"{_title('network', 'networks', share)} ({purpose})",
                _ray_tasks.networks,
                (*head, seed, share, purpose, *data),
            )
            for share in shares
        ]
        found, done = dict[int, list[Mapping[str, Any]]](), 0
        for position, outcomes in self._cluster.run(jobs):
            found[position] = outcomes
            for _ in outcomes:
                done += 1
                on_network(done)
        ordered = [one for position in range(len(jobs)) for one in found[position]]
        classes = [torch.from_numpy(one["predicted"].copy()) for one in ordered if one["predicted"] is not None]
        return Evaluated(
            accuracies=tuple(one["accuracy"] for one in ordered),
            predicted=torch.stack(classes) if classes and len(classes) == len(ordered) else None,
        )

    def close(self) -> None:
        """Ends the actor that collects the experts' progress."""
        if self._progress is not None:
            with suppress(Exception):  # its node may be gone
                self._cluster.ray.kill(self._progress)
            self._progress = None

    def _shares(self, work: range) -> list[range]:
        """The parts of some work that are a task each."""
        together = cuda_with(self._options, device="cuda").together if self._options.gpus else 1
        return [work[first : first + together] for first in range(0, len(work), together)]

    def _listener(self) -> Any:
        if self._progress is None:
            self._progress = self._cluster.ray.remote(_ray_tasks.Progress).options(num_cpus=0, max_restarts=-1).remote()
        return self._progress

    def _head(self, settings: TrainingSettings, data: LabelledImages) -> tuple[Any, ...]:
        from ddfw.remote.tasks import image_spec, pack_settings

        return self._job, pack_settings(settings), astuple(image_spec(self._context.module, data.images))

    def _data(self, *data: LabelledImages) -> list[Any]:
        return [self._shelf.put(tensor) for part in data for tensor in (part.images, part.targets)]


def _title(one: str, several: str, numbers: Sequence[int]) -> str:
    """What a task is called in messages."""
    return f"{one} {numbers[0]}" if len(numbers) == 1 else f"{several} {', '.join(map(str, numbers))}"
