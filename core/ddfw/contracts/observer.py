"""Observers: they are told what happens in a run, in small frozen reports, and cannot change it."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import attrs
from attrs import field, frozen

#: The version of the event records that `as_event` makes.
EVENT_SCHEMA = 1


@frozen(kw_only=True)
class RunStarted:
    """A run begins, or goes on after outer step `first_step`: what was told of later steps is void, they come again."""

    event: ClassVar[str] = "run_started"
    recipe: str
    seed: int
    directory: Path
    steps: int
    experts: int
    first_step: int = 0
    headline: tuple[str, ...] = field(default=(), metadata={"event": False})


@frozen(kw_only=True)
class ExpertReport:
    """An expert is there: trained now, or found in the store (an imported one has no accuracy)."""

    event: ClassVar[str] = "expert"
    index: int
    count: int
    seed: int
    cached: bool
    validation_accuracy: float | None
    location: Path


@frozen(kw_only=True)
class StepReport:
    """One outer step is done; `step` counts from 1. A skipped one changed nothing; its loss may be NaN."""

    event: ClassVar[str] = "step"
    step: int
    steps: int
    loss: float
    step_size: float
    start_epoch: float
    window_high: float
    grad_norm_images: float
    skipped: bool = False


@frozen(kw_only=True)
class EvaluationReport:
    """Fresh networks were trained on a subject and judged on a split. Accuracies are fractions; std has ddof 1."""

    event: ClassVar[str] = "evaluated"
    subject: str
    split: Literal["validation", "test"]
    net: str
    n: int
    accuracies: tuple[float, ...]
    mean: float
    std: float
    seeds: tuple[int, ...]
    eval_seed: int
    step: int | None
    selected_by: str
    lr: float
    images: int
    floats: Mapping[str, int]
    notes: tuple[str, ...] = ()


@frozen(kw_only=True)
class ProgressReport:
    """Something long moves on: `done` of `total` units of `stage`."""

    event: ClassVar[str] = "progress"
    stage: str
    done: int
    total: int


@frozen(kw_only=True)
class RunFinished:
    """The run's summary, as it stands in summary.json."""

    event: ClassVar[str] = "run_finished"
    status: Literal["finished", "diverged", "failed"]
    directory: Path
    summary: Mapping[str, object]


Report = RunStarted | ExpertReport | StepReport | EvaluationReport | ProgressReport | RunFinished


def as_event(report: Report, seconds: float) -> dict[str, Any]:
    """The report as one JSON-able event: `{"schema", "event", "t", …}`.

    Args:
        report: any report.
        seconds: since the run started.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, float) and not math.isfinite(value):
            return None  # JSON has no NaN
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        return value

    record: dict[str, Any] = {"schema": EVENT_SCHEMA, "event": report.event, "t": round(seconds, 3)}
    for item in attrs.fields(type(report)):
        if item.metadata.get("event", True):
            record[item.name] = plain(getattr(report, item.name))
    return record


class ObserverSession:
    """What an opened observer is told; override what is of interest."""

    def run_started(self, report: RunStarted) -> None:
        """Before experts are looked for."""

    def expert_ready(self, report: ExpertReport) -> None:
        """After each expert."""

    def progress(self, report: ProgressReport) -> None:
        """Between the other reports, at most a few times a second."""

    def step_finished(self, report: StepReport) -> None:
        """After each outer step."""

    def evaluated(self, report: EvaluationReport) -> None:
        """After each selection and each final evaluation."""

    def run_finished(self, report: RunFinished) -> None:
        """At the end, also of a run that diverged."""


class EventLines(ObserverSession):
    """Writes every report, progress ticks excepted, as one JSON line on a text stream.

    Args:
        stream: open for writing.
        seconds: that the run took before, where it goes on.
    """

    def __init__(self, stream: IO[str], seconds: float = 0.0) -> None:
        self._stream = stream
        self._began = time.monotonic() - seconds

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
        self._stream.write(json.dumps(event, ensure_ascii=False) + "\n")
        self._stream.flush()


@frozen(kw_only=True)
class AbstractObserver(ABC):
    """Watches a run. Subclasses are `@final @frozen(kw_only=True)` and set `name`."""

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    #: Whether it only shows people what goes on: `--quiet` leaves it out, and work that is no run (training experts,
    #: an import, an evaluation) is shown by it, too.
    for_people: ClassVar[bool] = False

    @abstractmethod
    def open(self, run: Path) -> AbstractContextManager[ObserverSession]:
        """A session for the run directory `run`, which exists; an exception in it warns and ends the observer."""
