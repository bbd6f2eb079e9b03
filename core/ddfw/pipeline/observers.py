"""Passes reports to the observers of a run; an observer that fails is disabled with a warning."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, final

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
        self._sessions: dict[str, ObserverSession] = {}
        self._ticked: dict[str, float] = {}

    def __call__(self, report: Report) -> None:
        """Passes a report to every session; a session that raises an exception is disabled, and the run goes on."""
        for name, session in list(self._sessions.items()):
            try:
                getattr(session, _METHODS[type(report)])(report)
            except Exception as error:
                del self._sessions[name]
                logger.warning("observer %s failed and is disabled: %s: %s", name, type(error).__name__, error)

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
        """
        with contextlib.ExitStack() as stack:
            for name, observer in observers:
                try:
                    self._sessions[name] = stack.enter_context(_shielded(observer, name, run))
                except Exception as error:
                    logger.warning("observer %s could not start: %s: %s", name, type(error).__name__, error)
            yield self


@contextlib.contextmanager
def _shielded(observer: AbstractObserver, name: str, run: Path) -> Iterator[ObserverSession]:
    """An observer's session; an exception when it is closed becomes a warning."""
    context = observer.open(run)
    session = context.__enter__()
    try:
        yield session
    finally:
        try:
            context.__exit__(None, None, None)
        except Exception as error:
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
