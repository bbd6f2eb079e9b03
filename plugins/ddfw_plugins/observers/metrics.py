"""`metrics`: writes every report except progress as one line of metrics.jsonl in the run directory."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, final

from attrs import frozen

from ddfw import AbstractObserver, ObserverSession, writing
from ddfw.artifacts.seal import sealed
from ddfw.contracts.observer import (
    EvaluationReport,
    EventLines,
    ExpertReport,
    Report,
    RunFinished,
    RunStarted,
    StepReport,
)


@final
@frozen(kw_only=True)
class Metrics(AbstractObserver):
    """Writes the reports of a run to metrics.jsonl, one JSON object per line.

    The file lies in the run directory.
    """

    name: ClassVar[str] = "metrics"

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        """Opens metrics.jsonl; each line is flushed when it is written. Only a resumed run keeps earlier lines.

        A line that cannot be written ends the run, which goes on from there when there is room.
        """
        with ExitStack() as stack:
            yield MetricsSession(run / "metrics.jsonl", stack)


class MetricsSession(ObserverSession):
    """Writes reports as lines of a file.

    When a run is resumed, lines of steps after the checkpoint are removed first, since these steps are done again.

    Args:
        path: path of the file, which is opened with the first report.
        stack: the exit stack that closes the file.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack
        self._opened: EventLines | None = None

    def run_started(self, report: RunStarted) -> None:
        """Writes the report of the start below the lines of steps that are done."""
        self._lines(report.first_step, report.void_selection).run_started(report)

    def expert_ready(self, report: ExpertReport) -> None:
        """Writes the report of an expert as one line."""
        self._lines().expert_ready(report)

    def step_finished(self, report: StepReport) -> None:
        """Writes the report of an outer step as one line."""
        self._lines().step_finished(report)

    def evaluated(self, report: EvaluationReport) -> None:
        """Writes the report of an evaluation as one line."""
        self._lines().evaluated(report)

    def run_finished(self, report: RunFinished) -> None:
        """Writes the report of the end as the last line."""
        self._lines().run_finished(report)

    def _lines(self, first_step: int = 0, void_selection: int | None = None) -> EventLines:
        if self._opened is None:
            size, seconds = _kept(self._path, first_step, void_selection)
            with writing(self._path, 0):
                file = self._stack.enter_context(_Named(self._path.open("ab"), encoding="utf-8"))
                file.truncate(size)
            self._opened = _Lines(file, seconds)
        return self._opened


class _Lines(EventLines):
    """Writes reports as lines, the last one with a seal: the run's manifest, which seals the others, was there before.

    Args:
        stream: as for `EventLines`.
        seconds: as for `EventLines`.
    """

    def _event(self, report: Report) -> dict[str, Any]:
        """What the line of a report holds."""
        event = super()._event(report)
        return sealed(event) if isinstance(report, RunFinished) else event


class _Named(io.TextIOWrapper):
    """An open text file that is flushed after each write; errors of its writes name it."""

    def write(self, text: str) -> int:
        """Writes a text and flushes it."""
        with writing(Path(self.name), len(text.encode())):
            super().write(text)
            self.flush()
        return len(text)


def _kept(path: Path, first_step: int, void_selection: int | None = None) -> tuple[int, float]:
    """The length in bytes of a file's lines up to an outer step, and the time in seconds in the last of these lines.

    Args:
        path: the file.
        first_step: number of outer steps that are done.
        void_selection: the step after which the selection does not count, None if there is none.
    """
    size, seconds = 0, 0.0
    if first_step == 0 or not path.exists():
        return size, seconds
    with path.open("rb") as file:
        for line in file:
            try:
                event = json.loads(line)
                if not line.endswith(b"\n") or _is_later(event, first_step, void_selection):
                    break
                seconds = float(event["t"])
            except (ValueError, KeyError, TypeError, AttributeError):
                break  # an incomplete line: the process was killed while it wrote it
            size += len(line)
    return size, seconds


def _is_later(event: dict[str, Any], step: int, void_selection: int | None) -> bool:
    """Whether an event comes after outer step number `step` and the evaluation on the validation split after it."""
    if event["event"] == "step":
        return int(event["step"]) > step
    if event["event"] == "evaluated":  # the final evaluation also uses the validation split, for baselines
        selection = event["subject"] == "distilled" and event["split"] == "validation"
        return not selection or int(event["step"]) > step or event["step"] == void_selection
    return bool(event["event"] == "run_finished")
