"""`ray`: experts, evaluation networks and sweep trials as tasks on a Ray cluster; meta-gradients in this process."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from attrs import Factory, astuple, define, field, frozen
from attrs.validators import ge, gt, in_, le, optional

from ddfw import AbstractExecutor, DdfwError, option
from ddfw.contracts.executor import Evaluated
from ddfw.engine.interruption import stop_if_wanted
from ddfw_plugins.executors import _ray_tasks
from ddfw_plugins.executors._ray_cluster import connected, require_room, shelf
from ddfw_plugins.executors.cpu import NETWORK_THREADS, Cpu
from ddfw_plugins.executors.cuda import Cuda

if TYPE_CHECKING:
    from ddfw import LabelledImages, MetaGradient, Segment
    from ddfw.contracts.executor import ExecutorContext, ExecutorSession, Problem, TrainedExpert
    from ddfw.contracts.settings import TrainingSettings
    from ddfw.remote.shelf import Shelf

#: Seconds between two questions how many epochs running experts have done.
_LOOK_S = 1.0
#: Seconds between two questions whether a task has finished, at most; right after one has finished they come faster.
_POLL_S = 0.05


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

    def __attrs_post_init__(self) -> None:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus above 1 have to be whole, got {self.gpus}")

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[RaySession]:
        """A session. A cluster that was started for it ends when the last open session closes."""
        from ddfw.remote.tasks import pack_job

        with _on(self.device).open(context) as here:
            there = Cuda() if self.gpus else Cpu(threads=self._task_threads(), workers=1)
            job = pack_job(context, there, self._task_threads())
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
                _Job(f"{task} {position}", _ray_tasks.call, (task, text, threads, folder))
                for position, text in enumerate(texts)
            ]
            for position, result in cluster.run(jobs):
                yield position, json.loads(result)

    @contextmanager
    def _cluster(self) -> Iterator[_Cluster]:
        cores = None if self.workers is None else max(1, math.ceil(self.workers * self.cpus))
        with connected(self.address, cores) as ray:
            require_room(ray, self.cpus, self.gpus)
            cluster = _Cluster(self, ray)
            try:
                yield cluster
            finally:
                cluster.close()

    def _task_threads(self) -> int:
        return NETWORK_THREADS if self.threads is None else self.threads


def _on(device: str) -> AbstractExecutor:
    """The executor of one machine for a device, with its default options."""
    return Cuda() if device == "cuda" else Cpu(workers=1)


@frozen
class _Job:
    """One task: a title for messages, a function of `_ray_tasks`, and its arguments."""

    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@define
class _Cluster:
    """Runs jobs as Ray tasks.

    Args:
        options: the executor, whose fields are its options.
        ray: the library, connected.
        outstanding: the reference of each task that has not ended, with its job's position.
        closed: whether the session is over.
    """

    options: Ray
    ray: Any
    outstanding: dict[Any, int] = field(factory=dict)
    closed: bool = False

    def close(self) -> None:
        """Cancels all running tasks. Ray must not be called afterwards: it would start a new cluster."""
        self._cancel(self.outstanding)
        self.closed = True

    def run(self, jobs: Sequence[_Job], look: Callable[[], None] = lambda: None) -> Iterator[tuple[int, Any]]:
        """Yields the position and result of each job when it is finished; calls `look` about once a second.

        After a failure, jobs before the failed one are finished and jobs after it are cancelled. So the error raised is
        the one that a loop over the jobs would have met first.

        Raises:
            DdfwError: a job's worker was lost more often than `retries` allows.
            Exception: whatever a job raised.
        """
        most, pause, looked = self.options.workers or len(jobs), 0.001, time.monotonic()
        waiting, running, failed = deque(range(len(jobs))), dict[Any, int](), dict[int, Exception]()
        try:
            while running or waiting:
                while waiting and len(running) < most:
                    position = waiting.popleft()
                    reference = self._submit(jobs[position])
                    running[reference] = self.outstanding[reference] = position
                stop_if_wanted()
                ready = self._ready(list(running), pause)
                pause = 0.001 if ready else min(_POLL_S, 1.5 * pause)
                for reference in sorted(ready, key=running.__getitem__):
                    position = running.pop(reference)
                    del self.outstanding[reference]
                    try:
                        result = self._result(jobs[position], reference)
                    except Exception as error:
                        failed[position] = error
                    else:
                        yield position, result
                        if self.closed:
                            raise DdfwError("the session of executor ray is closed")
                if time.monotonic() - looked > _LOOK_S:
                    look()
                    looked = time.monotonic()
                if failed:
                    first = min(failed)
                    waiting = deque(position for position in waiting if position < first)
                    late = [reference for reference, position in running.items() if position > first]
                    running = {r: position for r, position in running.items() if position < first}
                    self._cancel(late)
        finally:
            self._cancel(running)
        if failed:
            raise failed[min(failed)]

    def _ready(self, references: list[Any], pause: float) -> list[Any]:
        """The tasks that have ended; pauses if none has."""
        ray = self.ray
        if ray.get_runtime_context().get_task_id() is not None:
            # This process is itself a task, such as a trial: Ray lends its CPUs to other tasks only inside `ray.wait`.
            ray.wait(references, num_returns=1, timeout=_LOOK_S)
        # Pauses are made by `sleep`: `ray.wait` turns whatever a signal's handler raises into a KeyboardInterrupt.
        ready: list[Any] = ray.wait(references, num_returns=len(references), timeout=0)[0]
        if not ready:
            time.sleep(pause)
        return ready

    def _submit(self, job: _Job) -> Any:
        o = self.options
        remote = self.ray.remote(job.function).options(
            name=f"ddfw {job.title}",
            num_cpus=o.cpus,
            num_gpus=o.gpus,
            max_retries=o.retries,
            retry_exceptions=False,
        )
        return remote.remote(*job.arguments)

    def _result(self, job: _Job, reference: Any) -> Any:
        from ddfw.remote.tasks import error_from

        try:
            outcome = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # from outside our code, which returns its errors as data
            reason = str(error).strip().splitlines()[-1]
            raise DdfwError(
                f"a Ray worker could not start {job.title}: {reason}; ddfw and its plugins have to be installed there"
            ) from None
        except self.ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DdfwError(
                f"{job.title} was lost with its Ray worker, {self.options.retries + 1} times (executor.retries = "
                f"{self.options.retries}): {reason}; what was finished is kept, the same command goes on from there"
            ) from None
        if outcome["error"] is not None:
            raise error_from(outcome["error"])
        return outcome["value"]

    def _cancel(self, references: Iterable[Any]) -> None:
        if self.closed or not self.ray.is_initialized():
            return
        for reference in list(references):
            self.outstanding.pop(reference, None)
            with suppress(Exception):  # it has ended, or its node is gone
                self.ray.cancel(reference, force=True)


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
    _cluster: _Cluster
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
        """Trains each expert as a task; experts come in the order in which they are finished."""
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
        jobs = [
            _Job(f"expert of seed {seed}", _ray_tasks.expert, (*head, seed, f"{call}/{position}", progress, *data))
            for position, seed in enumerate(seeds)
        ]
        for position, record in self._cluster.run(jobs, look):
            tell(position, settings.epochs)
            snapshots = torch.from_numpy(record["snapshots"].copy())  # a copy: Ray's memory is read-only and is reused
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
        """Trains and tests each network as a task."""
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
        jobs = [
            _Job(f"network {number} ({purpose})", _ray_tasks.network, (*head, seed, number, purpose, *data))
            for number in networks
        ]
        found = dict[int, Mapping[str, Any]]()
        for position, outcome in self._cluster.run(jobs):
            found[position] = outcome
            on_network(len(found))
        ordered = [found[position] for position in range(len(jobs))]
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

    def _listener(self) -> Any:
        if self._progress is None:
            self._progress = self._cluster.ray.remote(_ray_tasks.Progress).options(num_cpus=0, max_restarts=-1).remote()
        return self._progress

    def _head(self, settings: TrainingSettings, data: LabelledImages) -> tuple[Any, ...]:
        from ddfw.remote.tasks import image_spec, pack_settings

        return self._job, pack_settings(settings), astuple(image_spec(self._context.module, data.images))

    def _data(self, *data: LabelledImages) -> list[Any]:
        return [self._shelf.put(tensor) for part in data for tensor in (part.images, part.targets)]
