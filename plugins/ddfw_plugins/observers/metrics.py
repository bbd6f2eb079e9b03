"""`metrics`: every report as one line of metrics.jsonl in the run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, final

from attrs import frozen

from ddfw import AbstractObserver, ObserverSession
from ddfw.contracts.observer import (
    EvaluationReport,
    EventLines,
    ExpertReport,
    RunFinished,
    RunStarted,
    StepReport,
)


@final
@frozen(kw_only=True)
class Metrics(AbstractObserver):
    """JSON Lines in the run directory: metrics.jsonl."""

    name: ClassVar[str] = "metrics"

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        """Each line is flushed when it is written; the file is started anew unless the run goes on."""
        with ExitStack() as stack:
            yield MetricsSession(run / "metrics.jsonl", stack)


class MetricsSession(ObserverSession):
    """Lines of a file; where an unfinished run goes on, those of later steps go first, since they come again.

    Args:
        path: of the file; it is opened with the first line.
        stack: closes it.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack
        self._opened: EventLines | None = None

    def run_started(self, report: RunStarted) -> None:
        """One line, below those of the steps that are done."""
        self._lines(report.first_step).run_started(report)

    def expert_ready(self, report: ExpertReport) -> None:
        """One line."""
        self._lines().expert_ready(report)

    def step_finished(self, report: StepReport) -> None:
        """One line."""
        self._lines().step_finished(report)

    def evaluated(self, report: EvaluationReport) -> None:
        """One line."""
        self._lines().evaluated(report)

    def run_finished(self, report: RunFinished) -> None:
        """The last line."""
        self._lines().run_finished(report)

    def _lines(self, first_step: int = 0) -> EventLines:
        if self._opened is None:
            size, seconds = _kept(self._path, first_step)
            file = self._stack.enter_context(self._path.open("a", encoding="utf-8"))
            file.truncate(size)
            self._opened = EventLines(file, seconds)
        return self._opened


def _kept(path: Path, first_step: int) -> tuple[int, float]:
    """How many bytes of a file tell of a run up to a step, and the time of the last event in them."""
    size, seconds = 0, 0.0
    if first_step == 0 or not path.exists():
        return size, seconds
    with path.open("rb") as file:
        for line in file:
            try:
                event = json.loads(line)
                if not line.endswith(b"\n") or _is_later(event, first_step):
                    break
                seconds = float(event["t"])
            except (ValueError, KeyError, TypeError, AttributeError):
                break  # half a line: the process was killed while it wrote
            size += len(line)
    return size, seconds


def _is_later(event: dict[str, Any], step: int) -> bool:
    """Whether an event comes after an outer step and the selection that follows it."""
    if event["event"] == "step":
        return int(event["step"]) > step
    if event["event"] == "evaluated":  # the final evaluation looks at the validation split for baselines, too
        selection = event["subject"] == "distilled" and event["split"] == "validation"
        return not selection or int(event["step"]) > step
    return bool(event["event"] == "run_finished")
