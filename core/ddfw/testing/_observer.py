"""The conformance check of observers."""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from attrs import evolve

from ddfw.contracts.observer import (
    AbstractObserver,
    EvaluationReport,
    ExpertReport,
    ObserverSession,
    ProgressReport,
    Report,
    RunFinished,
    RunStarted,
    StepReport,
)
from ddfw.testing._common import Checked, undisturbed
from ddfw.testing._component import checking


def check_observer(observer: AbstractObserver) -> None:
    """Checks an observer by sending it the reports of a whole run, without and with a terminal as standard error.

    Args:
        observer: the observer, with the options to check.

    Raises:
        ConformanceError: the observer breaks its contract; the text tells the first fault found.
    """
    with checking("observer", observer, AbstractObserver) as subject, tempfile.TemporaryDirectory() as folder:
        outer = Path(folder).resolve()
        run, here = outer / "run", outer / "here"
        run.mkdir()
        here.mkdir()
        (run / "config.toml").write_text("kept\n", encoding="utf-8")
        for stream in (io.StringIO(), _Terminal()):
            with _watched(subject, stream, here):
                _tell(subject, observer, run)
        with _watched(subject, io.StringIO(), here):
            subject.passes_on(observer.open(run))
        stray = sorted(str(p.relative_to(outer)) for p in (*here.rglob("*"), *outer.iterdir()) if p not in (run, here))
        subject.require(not stray, f"writes outside its run directory: {', '.join(stray)}; put files below `run`")
        wrong = "changes a file of the run that is not its own (config.toml)"
        subject.require((run / "config.toml").read_text(encoding="utf-8") == "kept\n", wrong)


class _Terminal(io.StringIO):
    """A text stream whose `isatty` says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextmanager
def _watched(subject: Checked, stream: io.StringIO, here: Path) -> Iterator[None]:
    """Checks standard output, global state and threads of a block, whose working directory is not the run's."""
    output, threads = io.StringIO(), set(threading.enumerate())
    # Libraries for terminals and experiment trackers draw ids from Python's generator, which no run uses.
    quiet = undisturbed(subject, "a session", ignore=("Python's",))
    with quiet, chdir(here), redirect_stderr(stream), redirect_stdout(output):
        yield
    wrong = f"writes to standard output ({output.getvalue()[:40]!r}), which belongs to `--json`; use standard error"
    subject.require(not output.getvalue(), wrong)
    left = [t.name for t in threading.enumerate() if t not in threads and not t.daemon]
    subject.require(not left, f"leaves threads running after its session ({', '.join(left)}); join them on exit")


def _reports(run: Path) -> list[tuple[str, Report]]:
    """The reports of one run in their order, each with the name of the method that receives it."""
    expert = ExpertReport(
        index=0, count=2, seed=0, cached=True, validation_accuracy=0.8, location=run.parent / "experts"
    )
    step = StepReport(step=1, steps=2, loss=0.9, step_size=0.01, start_epoch=0.5, window_high=2, grad_norm_images=1.5)
    validation = EvaluationReport(
        subject="distilled",
        split="validation",
        net="a network",
        n=2,
        accuracies=(0.7, 0.8),
        mean=0.75,
        std=0.0707,
        seeds=(0, 1),
        eval_seed=0,
        step=2,
        selected_by="validation",
        lr=0.01,
        images=3,
        floats={"strict": 192, "pixels": 192},
        notes=("a note",),
    )
    started = RunStarted(recipe="default", seed=0, directory=run, steps=2, experts=2, headline=("recipe    default",))
    finished = RunFinished(status="finished", directory=run, summary={"schema": 1, "rows": []})
    return [
        ("run_started", started),
        ("expert_ready", expert),
        ("progress", ProgressReport(stage="experts", done=1, total=4)),
        ("expert_ready", evolve(expert, index=1, seed=1, cached=False)),
        ("evaluated", validation),
        ("progress", ProgressReport(stage="a stage of the future", done=0, total=2)),
        ("step_finished", step),
        ("progress", ProgressReport(stage="distill", done=1, total=2)),
        ("step_finished", evolve(step, step=2)),
        ("evaluated", validation),
        ("progress", ProgressReport(stage="evaluate", done=2, total=2)),
        ("evaluated", evolve(validation, split="test")),
        ("evaluated", evolve(validation, subject="full_data", split="test", step=None)),
        ("run_finished", finished),
    ]


def _tell(subject: Checked, observer: AbstractObserver, run: Path) -> None:
    """Sends the reports of a whole run and checks that every method returns None and raises nothing."""
    hint = "a run would go on without this observer"
    with ExitStack() as stack:
        with subject.reporting("open", hint=hint):
            session = stack.enter_context(observer.open(run))
        subject.require(isinstance(session, ObserverSession), "open has to give an ObserverSession; derive from it")
        for method, report in _reports(run):
            with subject.reporting(method, hint=hint):
                returned = getattr(session, method)(report)
            wrong = f"{method} returns {returned!r}; an observer only watches, so return nothing"
            subject.require(returned is None, wrong)
        with subject.reporting("closing the session", hint=hint):
            stack.close()
