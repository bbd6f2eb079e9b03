"""Passes reports to the observers of a run; an observer that fails is disabled with a warning."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, TypeGuard, final

from attrs import frozen

from ddfw.contracts.observer import (
    AbstractObserver,
    EvaluationReport,
    EventLines,
    ExpertReport,
    ObserverSession,
    ProgressReport,
    Report,
    RunFinished,
    RunStarted,
    StepReport,
)
from ddfw.errors import is_disk_error

#: Least time between two progress reports of one stage, in seconds.
TICK_S = 0.2

_METHODS: dict[type, str] = {
    RunStarted: "run_started",
    ExpertReport: "expert_ready",
    StepReport: "step_finished",
    EvaluationReport: "evaluated",
    ProgressReport: "progress",
    RunFinished: "run_finished",
}


logger = logging.getLogger(__name__)


class Announcer:
    """Passes each report to the sessions of all observers that have not failed."""

    def __init__(self) -> None:
        self._run: Path | None = None
        self._sessions: dict[str, ObserverSession] = {}
        self._ticked: dict[str, float] = {}

    def __call__(self, report: Report) -> None:
        """Passes a report to every session; a session that raises an exception is disabled, and the run goes on.

        Raises:
            OSError: a disk takes no more, or a file of the run directory cannot be written; the session is disabled
                nevertheless, so that the others can be told how the run ended.
        """
        ending: OSError | None = None
        for name, session in list(self._sessions.items()):
            try:
                getattr(session, _METHODS[type(report)])(report)
            except Exception as error:
                del self._sessions[name]
                if self._ends_run(error):
                    ending = ending or error
                    continue
                logger.warning("observer %s failed and is disabled: %s: %s", name, type(error).__name__, error)

        if ending is not None:
            raise ending

    def _ends_run(self, error: Exception) -> TypeGuard[OSError]:
        """Whether an observer's error ends the run: the record of a run is a part of it, other observers are not."""
        if not isinstance(error, OSError):
            return False
        ours = isinstance(error.filename, str) and self._run is not None and Path(error.filename).parent == self._run
        return ours or is_disk_error(error)

    def tick(self, stage: str, done: int, total: int) -> None:
        """Reports progress, unless the stage's last report is less than `TICK_S` old.

        Args:
            stage: name of the stage.
            done: how much of it is done.
            total: how much of it there is; the last report is never left out.
        """
        now = time.monotonic()
        if done >= total or now - self._ticked.get(stage, -TICK_S) >= TICK_S:
            self._ticked[stage] = now
            self(ProgressReport(stage=stage, done=done, total=total))

    @contextlib.contextmanager
    def opened(self, observers: Iterable[tuple[str, AbstractObserver]], run: Path) -> Iterator[Announcer]:
        """Opens a session of each observer, and closes all of them at the end of the block.

        Args:
            observers: the observers, each with the name that warnings call it by.
            run: the run directory.

        Raises:
            OSError: a disk takes no more, or an observer cannot write a file of the run directory.
        """
        self._run = run
        with contextlib.ExitStack() as stack:
            for name, observer in observers:
                try:
                    self._sessions[name] = stack.enter_context(_shielded(observer, name, run))
                except Exception as error:
                    if self._ends_run(error):
                        raise
                    logger.warning("observer %s could not start: %s: %s", name, type(error).__name__, error)
            yield self


@contextlib.contextmanager
def _shielded(observer: AbstractObserver, name: str, run: Path) -> Iterator[ObserverSession]:
    """An observer's session; an exception when it is closed becomes a warning, unless a disk takes no more."""
    context = observer.open(run)
    session = context.__enter__()
    ended = False
    try:
        yield session
        ended = True
    finally:
        try:
            context.__exit__(None, None, None)
        except Exception as error:
            full = is_disk_error(error)
            if full and ended:
                raise
            if not full:  # a full disk is said already, by the error that ends the block
                logger.warning("observer %s failed to close: %s: %s", name, type(error).__name__, error)


@final
@frozen(kw_only=True)
class JsonStream(AbstractObserver):
    """Writes reports as JSON Lines to an open stream."""

    name: ClassVar[str] = "json"

    stream: IO[str]

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        """A session that writes to the stream, and does not close it."""
        yield EventLines(self.stream)

    def repeat(self, directory: Path, summary: Mapping[str, Any]) -> None:
        """Writes the last line of a run that was finished before.

        Args:
            directory: the run directory.
            summary: the content of its summary.json.
        """
        EventLines(self.stream).run_finished(RunFinished(status="finished", directory=directory, summary=summary))
