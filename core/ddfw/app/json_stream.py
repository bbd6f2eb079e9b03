"""`--json`: every report as one JSON line on a stream, the last one carrying the summary."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, final

from attrs import frozen

from ddfw.contracts.observer import (
    AbstractObserver,
    EvaluationReport,
    ExpertReport,
    ObserverSession,
    Report,
    RunFinished,
    RunStarted,
    StepReport,
    as_event,
)


@final
@frozen(kw_only=True)
class JsonStream(AbstractObserver):
    """Reports as JSON Lines on an open stream."""

    name: ClassVar[str] = "json"

    stream: IO[str]

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        """A session; the stream stays open."""
        yield _Session(self.stream)

    def repeat(self, directory: Path, summary: Mapping[str, Any]) -> None:
        """The last line of a run that had been finished before."""
        _Session(self.stream).run_finished(RunFinished(status="finished", directory=directory, summary=summary))


class _Session(ObserverSession):
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._began = time.monotonic()

    def run_started(self, report: RunStarted) -> None:
        self._write(report)

    def expert_ready(self, report: ExpertReport) -> None:
        self._write(report)

    def step_finished(self, report: StepReport) -> None:
        self._write(report)

    def evaluated(self, report: EvaluationReport) -> None:
        self._write(report)

    def run_finished(self, report: RunFinished) -> None:
        self._write(report)

    def _write(self, report: Report) -> None:
        self._stream.write(json.dumps(as_event(report, time.monotonic() - self._began), ensure_ascii=False) + "\n")
        self._stream.flush()
