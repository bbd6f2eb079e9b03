"""`progress`: shows on standard error what a run is doing, with live bars on a terminal and plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

from attrs import frozen
from attrs.validators import gt

from ddfw import AbstractObserver, ObserverSession, console, option, say
from ddfw.contracts.observer import EvaluationReport, ExpertReport, ProgressReport, RunStarted, StepReport

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

#: For each stage its name on the screen and the unit that it counts.
STAGES = {
    "experts": ("experts", "epochs"),
    "import": ("import", "experts"),
    "distill": ("distil", "steps"),
    "evaluate": ("evaluate", "networks"),
    "gradients": ("gradients", "pairs"),
}


#: Terminals with fewer columns than this show figures without a bar.
NARROW = 110


@final
@frozen(kw_only=True)
class Progress(AbstractObserver):
    """Shows live bars on a terminal, and otherwise one plain line every few seconds."""

    name: ClassVar[str] = "progress"
    for_people: ClassVar[bool] = True

    every_s: float = option(5.0, validator=gt(0.0), help="seconds between two plain lines of one stage")

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        """Opens a session with live bars if standard error is a terminal, and with plain lines otherwise."""
        screen = console(stderr=True)
        if not screen.is_terminal:
            yield PlainSession(self.every_s)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        whole = Column(no_wrap=True)
        columns = (
            TextColumn("[bold]{task.description:<9}", table_column=whole),
            # A narrow terminal has no room for both figures and bar.
            *((BarColumn(bar_width=28),) if screen.width >= NARROW else ()),
            MofNCompleteColumn(table_column=whole.copy()),
            TextColumn("{task.fields[unit]}", table_column=whole.copy()),
            *((TimeElapsedColumn(table_column=whole.copy()),) if screen.width >= NARROW else ()),
            TimeRemainingColumn(elapsed_when_finished=True, compact=True, table_column=whole.copy()),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        )
        with Bars(*columns, console=screen, refresh_per_second=8) as bars:
            yield BarSession(bars)


def describe_step(report: StepReport) -> str:
    """The figures of an outer step as a short text."""
    skipped = "  skipped" if report.skipped else ""
    return f"loss {report.loss:.4f}  step size {report.step_size:.4g}{skipped}"


def describe_selection(report: EvaluationReport) -> str:
    """The figures of an evaluation on the validation split as a short text."""
    return f"validation {100 * report.mean:.1f} % after {report.step} steps"


def describe_expert(report: ExpertReport) -> str:
    """The accuracy of an expert on the validation split as a short text, or `imported`."""
    if report.validation_accuracy is None:
        return "imported"
    return f"validation {100 * report.validation_accuracy:.1f} %"


class BarSession(ObserverSession):
    """Shows a run as live bars."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._selection = ""

    def run_started(self, report: RunStarted) -> None:
        """Writes the lines that describe the run."""
        for line in report.headline:
            self._bars.console.print(line, highlight=False, markup=False)

    def expert_ready(self, report: ExpertReport) -> None:
        """Writes a note behind the bar; for experts found in the store, once for all of them."""
        if report.cached:
            if report.index + 1 == report.count:
                self._bars.console.print(
                    f"experts   {report.count} of {report.count} from the cache {report.location}",
                    highlight=False,
                    markup=False,
                )
        elif "experts" in self._tasks:
            self._bars.update(self._tasks["experts"], note=describe_expert(report))

    def progress(self, report: ProgressReport) -> None:
        """Moves the bar of the stage, which is added at its first report."""
        title, unit = STAGES.get(report.stage, (report.stage, ""))
        if report.stage not in self._tasks:
            self._tasks[report.stage] = self._bars.add_task(title, total=report.total, unit=unit, note="")
        self._bars.update(self._tasks[report.stage], completed=report.done, total=report.total)

    def step_finished(self, report: StepReport) -> None:
        """Writes behind the bar the figures of the step and those of the last evaluation."""
        self.progress(ProgressReport(stage="distill", done=report.step, total=report.steps))
        self._bars.update(self._tasks["distill"], note=f"{describe_step(report)}  {self._selection}")

    def evaluated(self, report: EvaluationReport) -> None:
        """Keeps the accuracy on the validation split for the progress line."""
        if report.split == "validation" and report.subject == "distilled":
            self._selection = f"validation {100 * report.mean:.1f} %"


class PlainSession(ObserverSession):
    """Writes a run as plain lines: rare reports at once, frequent ones every few seconds.

    Args:
        every_s: seconds between two lines of one stage.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._began = time.monotonic()
        self._said: dict[str, float] = {}

    def run_started(self, report: RunStarted) -> None:
        """Writes the lines that describe the run."""
        for line in report.headline:
            say(line, err=True)

    def expert_ready(self, report: ExpertReport) -> None:
        """Writes one line for each trained expert, and one for all experts found in the store."""
        if not report.cached:
            self._say(f"expert {report.index + 1}/{report.count}: {describe_expert(report)}")
        elif report.index + 1 == report.count:
            self._say(f"experts: {report.count} of {report.count} from the cache {report.location}")

    def progress(self, report: ProgressReport) -> None:
        """Writes at most one line every few seconds for each stage."""
        title, unit = STAGES.get(report.stage, (report.stage, ""))
        self._seldom(report.stage, f"{title} {report.done}/{report.total} {unit}")

    def step_finished(self, report: StepReport) -> None:
        """Writes the figures of an outer step, at most every few seconds."""
        self._seldom("distill", f"distil {report.step}/{report.steps}: {describe_step(report)}")

    def evaluated(self, report: EvaluationReport) -> None:
        """Writes the figures of an evaluation as one line."""
        if report.split == "validation":
            if report.subject == "distilled":
                self._say(describe_selection(report))
            return
        self._say(
            f"{report.subject}: test {100 * report.mean:.1f} ± {100 * report.std:.1f} % (n = {report.n}, {report.net})"
        )

    def _seldom(self, stage: str, text: str) -> None:
        now = time.monotonic()
        if now - self._said.get(stage, self._began) >= self._every_s:
            self._said[stage] = now
            self._say(text)

    def _say(self, text: str) -> None:
        seconds = time.monotonic() - self._began
        say(f"[{seconds:6.1f} s] {text}", err=True)
