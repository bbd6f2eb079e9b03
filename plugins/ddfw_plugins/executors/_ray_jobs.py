"""The tasks of the executor `ray`: how they are started, waited for, started again and ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from ddfw import DdfwError
from ddfw.engine.interruption import stop_if_wanted

if TYPE_CHECKING:
    from ddfw_plugins.executors.ray import Ray

#: Seconds between two questions how many epochs running experts have done.
_LOOK_S = 1.0
#: Seconds between two questions whether a task has finished, at most; right after one has finished they come faster.
_POLL_S = 0.05


@frozen
class Job:
    """One task: a title for messages, a function of `_ray_tasks`, and its arguments."""

    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@define
class Cluster:
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

    def run(self, jobs: Sequence[Job], look: Callable[[], None] = lambda: None) -> Iterator[tuple[int, Any]]:
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

    def _submit(self, job: Job) -> Any:
        o = self.options
        remote = self.ray.remote(job.function).options(
            name=f"ddfw {job.title}",
            num_cpus=o.cpus,
            num_gpus=o.gpus,
            max_retries=o.retries,
            retry_exceptions=False,
        )
        return remote.remote(*job.arguments)

    def _result(self, job: Job, reference: Any) -> Any:
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
