"""Observers: they receive small frozen reports of what happens in a run and cannot change the run."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

from attr import asdict  # attrs' own asdict would keep tuples, which JSON does not have
from attrs import field, frozen

from ddfw.plain import printable_json

#: Version number, `schema`, of the JSON events that `as_event` makes.
EVENT_SCHEMA = 1


@frozen(kw_only=True)
class RunStarted:
    """A run starts or is resumed.

    Args:
        event: the report's name in JSON events.
        recipe: name of the recipe.
        seed: the run's seed, `run.seed`.
        directory: the run directory.
        steps: number of outer steps of the whole run.
        experts: number of experts.
        first_step: number of outer steps that are done when a run is resumed. Reports of later steps that were made
            before the interruption are void, since these steps are done again.
        void_selection: when a finished run is extended: the outer step whose selection is void too, since only the end
            of the shorter run caused it; None if there is none.
        headline: lines that describe the run to people; not part of the JSON event.
    """

    event: ClassVar[str] = "run_started"
    recipe: str
    seed: int
    directory: Path
    steps: int
    experts: int
    first_step: int = 0
    void_selection: int | None = None
    headline: tuple[str, ...] = field(default=(), metadata={"event": False})


@frozen(kw_only=True)
class ExpertReport:
    """An expert is ready.

    Args:
        event: the report's name in JSON events.
        index: number of the expert, from 0.
        count: number of experts of the run.
        seed: seed of the expert.
        cached: whether it was found in the store; otherwise it was trained now.
        validation_accuracy: accuracy on the validation split, a fraction; None for an imported expert.
        location: the store's folder.
    """

    event: ClassVar[str] = "expert"
    index: int
    count: int
    seed: int
    cached: bool
    validation_accuracy: float | None
    location: Path


@frozen(kw_only=True)
class StepReport:
    """One outer step is done.

    Args:
        event: the report's name in JSON events.
        step: number of the step, from 1.
        steps: number of outer steps of the whole run.
        loss: matching loss, the mean over the segments, without the penalty; may be NaN if the step was skipped.
        step_size: inner step size after the step.
        start_epoch: epoch of the expert at which the segment starts.
        window_high: exclusive upper end of the window of start epochs.
        grad_norm_images: Euclidean norm of the gradient with respect to the images.
        skipped: whether the step changed nothing because of `outer.skip_above`.
    """

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
    """Fresh networks were trained on a set of images and their accuracy was measured on a split.

    Args:
        event: the report's name in JSON events.
        subject: name of the set that the networks were trained on, `distilled` or a baseline's name.
        split: the split on which accuracy was measured.
        net: name of the architecture.
        n: number of networks.
        accuracies: accuracy of each network, n fractions.
        mean: mean of the accuracies.
        std: sample standard deviation of the accuracies (divided by n − 1).
        seeds: the numbers of the networks.
        eval_seed: seed of the networks, `eval.seed`.
        step: outer step of the distilled set; None for other sets.
        selected_by: split that selected the outer step or the learning rate: `validation`, or `nothing`.
        lr: learning rate of the networks.
        images: number of images that the networks were trained on.
        floats: number of floats that the set stores, under each way of counting.
        notes: remarks on the result, in words.
        source: the run that found these figures before and read the test split for them; "" for figures of this run.
        confusion: [m][m] counts, summed over the networks: how many images of class i (row) were taken for class j;
            None where nobody counted. Not part of the JSON event.
    """

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
    source: str = ""
    confusion: tuple[tuple[int, ...], ...] | None = field(default=None, metadata={"event": False})


@frozen(kw_only=True)
class ProgressReport:
    """Progress within a long stage.

    Args:
        event: the report's name in JSON events.
        stage: what is being done, in words.
        done: number of units that are done.
        total: number of units of the whole stage.
    """

    event: ClassVar[str] = "progress"
    stage: str
    done: int
    total: int


@frozen(kw_only=True)
class RunFinished:
    """A run has ended.

    Args:
        event: the report's name in JSON events.
        status: whether the run was completed, diverged or failed.
        directory: the run directory.
        summary: the content of summary.json.
    """

    event: ClassVar[str] = "run_finished"
    status: Literal["finished", "diverged", "failed"]
    directory: Path
    summary: Mapping[str, object]


Report = RunStarted | ExpertReport | StepReport | EvaluationReport | ProgressReport | RunFinished


def as_event(report: Report, seconds: float) -> dict[str, Any]:
    """Turns a report into a JSON-able event `{"schema", "event", "t", …}`.

    Args:
        report: any report.
        seconds: time since the run started, in seconds; it becomes `t`.
    """

    def plain(_report: object, _field: object, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None  # JSON has no NaN
        return str(value) if isinstance(value, Path) else value

    facts = asdict(
        report,
        filter=lambda a, _: bool(a.metadata.get("event", True)),
        retain_collection_types=False,
        value_serializer=plain,
    )
    return {"schema": EVENT_SCHEMA, "event": report.event, "t": round(seconds, 3), **facts}


class ObserverSession:
    """An opened observer; subclasses override the methods for the reports that they want."""

    def run_started(self, report: RunStarted) -> None:
        """Called once at the start, before experts are loaded or trained."""

    def expert_ready(self, report: ExpertReport) -> None:
        """Called for each expert as soon as it is ready."""

    def progress(self, report: ProgressReport) -> None:
        """Called during long stages, at most a few times a second."""

    def step_finished(self, report: StepReport) -> None:
        """Called after each outer step."""

    def evaluated(self, report: EvaluationReport) -> None:
        """Called after each evaluation, on the validation split or on the test split."""

    def run_finished(self, report: RunFinished) -> None:
        """Called once at the end, also if the run diverged."""


class EventLines(ObserverSession):
    """Writes every report except progress reports as one line of JSON to a text stream.

    Args:
        stream: a text stream that is open for writing.
        seconds: time that a resumed run took before it was interrupted, in seconds.
    """

    def __init__(self, stream: IO[str], seconds: float = 0.0) -> None:
        self._stream = stream
        self._began = time.monotonic() - seconds

    def _event(self, report: Report) -> dict[str, Any]:
        """What the line of a report holds."""
        return as_event(report, time.monotonic() - self._began)

    def _write(self, report: Report) -> None:
        """Writes a report as one line."""
        self._stream.write(printable_json(self._event(report)) + "\n")
        self._stream.flush()

    run_started = expert_ready = step_finished = evaluated = run_finished = _write


@frozen(kw_only=True)
class AbstractObserver(ABC):
    """Receives the reports of a run, to show or record them.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX. They
    set `for_people` if they only show progress to people: `--quiet` then leaves the observer out, and other commands
    (training experts, importing, evaluating) show their progress by it too.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    for_people: ClassVar[bool] = False

    @abstractmethod
    def open(self, run: Path) -> AbstractContextManager[ObserverSession]:
        """Opens a session for one run.

        An exception raised by the session ends this observer with a warning, but not the run.

        Args:
            run: the run directory, which exists.
        """
