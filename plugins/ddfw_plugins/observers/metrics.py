"""`metrics`: every report as one line of metrics.jsonl in the run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar, final

from attrs import frozen

from ddfw import AbstractObserver, ObserverSession
from ddfw.contracts.observer import (
    EvaluationReport,
    ExpertReport,
    Report,
    RunFinished,
    RunStarted,
    StepReport,
    as_event,
)


@final
@frozen(kw_only=True)
class Metrics(AbstractObserver):
    """JSON Lines in the run directory: metrics.jsonl."""

    name: ClassVar[str] = "metrics"

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        """Starts the file anew; each line is flushed when it is written."""
        with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
            yield MetricsSession(file)


class MetricsSession(ObserverSession):
    """Writes reports as they come, progress ticks excepted."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._began = time.monotonic()

    def run_started(self, report: RunStarted) -> None:
        """One line."""
        self._write(report)

    def expert_ready(self, report: ExpertReport) -> None:
        """One line."""
        self._write(report)

    def step_finished(self, report: StepReport) -> None:
        """One line."""
        self._write(report)

    def evaluated(self, report: EvaluationReport) -> None:
        """One line."""
        self._write(report)

    def run_finished(self, report: RunFinished) -> None:
        """The last line."""
        self._write(report)

    def _write(self, report: Report) -> None:
        event = as_event(report, time.monotonic() - self._began)
        self._file.write(json.dumps(event, ensure_ascii=False) + "\n")
        self._file.flush()
