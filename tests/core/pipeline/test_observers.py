"""Observers are told everything and can break nothing."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from attrs import field, frozen

from ddfw import AbstractObserver, ObserverSession
from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.contracts.observer import ProgressReport, RunFinished, RunStarted, StepReport
from ddfw.pipeline import observers
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.runner import Places, run

STARTED = RunStarted(recipe="r", seed=0, directory=Path("d"), steps=3, experts=1)
STEP = StepReport(step=1, steps=3, loss=0.5, step_size=0.01, start_epoch=0.0, window_high=1, grad_norm_images=1.0)
FINISHED = RunFinished(status="finished", directory=Path("d"), summary={})


class Listener(ObserverSession):
    """Notes what it hears, and fails where it is told to."""

    def __init__(self, heard: list[str], fails: tuple[str, ...]) -> None:
        self.heard, self.fails = heard, fails

    def note(self, what: str) -> None:
        self.heard.append(what)
        if what in self.fails:
            raise RuntimeError(f"no {what} today")

    def run_started(self, report: RunStarted) -> None:
        self.note("started")

    def progress(self, report: ProgressReport) -> None:
        self.note(f"progress {report.done}/{report.total}")

    def step_finished(self, report: StepReport) -> None:
        self.note("step")

    def run_finished(self, report: RunFinished) -> None:
        self.note("finished")


@frozen(kw_only=True)
class Fake(AbstractObserver):
    """Opens a listener; fails in its methods, when opened or when closed, as told."""

    name: ClassVar[str] = "fake"
    heard: list[str] = field(factory=list)
    fails: tuple[str, ...] = ()

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        if "open" in self.fails:
            raise RuntimeError("no open today")
        self.heard.append("open")
        yield Listener(self.heard, self.fails)
        self.heard.append("closed")
        if "close" in self.fails:
            raise RuntimeError("no close today")


def tell(observers, reports) -> list[str]:
    """Tells the reports to the observers; returns the warnings."""
    warnings: list[str] = []

    class Noted(logging.Handler):
        def emit(self, record):
            warnings.append(record.getMessage())

    handler = Noted()
    logging.getLogger("ddfw").addHandler(handler)
    try:
        with Announcer().opened(observers, Path("d")) as announcer:
            for report in reports:
                announcer(report)
    finally:
        logging.getLogger("ddfw").removeHandler(handler)
    return warnings


def test_every_observer_hears_every_report_in_order():
    """Broken: metrics or progress would miss reports."""
    first, second = Fake(), Fake()
    assert tell([("a", first), ("b", second)], [STARTED, STEP, FINISHED]) == []
    assert first.heard == second.heard == ["open", "started", "step", "finished", "closed"]


def test_a_session_that_fails_is_warned_about_once_and_heard_no_more():
    """Broken: a broken progress bar would end a run of many hours, or fill the screen."""
    faulty, healthy = Fake(fails=("step",)), Fake()
    warnings = tell([("faulty", faulty), ("healthy", healthy)], [STARTED, STEP, STEP, FINISHED])
    assert len(warnings) == 1
    assert "faulty" in warnings[0] and "RuntimeError" in warnings[0] and "no step today" in warnings[0]
    assert faulty.heard == ["open", "started", "step", "closed"]
    assert healthy.heard == ["open", "started", "step", "step", "finished", "closed"]


@pytest.mark.parametrize(("where", "heard"), [("open", []), ("close", ["open", "started", "closed"])])
def test_an_observer_that_cannot_open_or_close_only_warns(where, heard):
    """Broken: a tracking server that is down would prevent runs or lose their end."""
    faulty, healthy = Fake(fails=(where,)), Fake()
    warnings = tell([("faulty", faulty), ("healthy", healthy)], [STARTED])
    assert len(warnings) == 1 and "faulty" in warnings[0] and f"no {where} today" in warnings[0]
    assert faulty.heard == heard
    assert healthy.heard == ["open", "started", "closed"]


def test_sessions_are_closed_when_the_run_itself_fails():
    """Broken: files of observers would stay open, and the run's own error could be lost."""
    fake = Fake()
    with pytest.raises(ValueError, match="the run"), Announcer().opened([("a", fake)], Path("d")):
        raise ValueError("the run")
    assert fake.heard == ["open", "closed"]


@pytest.mark.parametrize("error", [RuntimeError("no end"), OSError(errno.ENOSPC, "full")])
def test_a_run_that_ends_by_an_error_keeps_it_when_an_observer_cannot_be_closed(error):
    """Broken: a disk that is full for good would end a run without a word of it."""

    class Unclosable(Fake):
        @contextmanager
        def open(self, run):
            yield Listener(self.heard, ())
            raise error

    with pytest.raises(ValueError, match="the run"), Announcer().opened([("a", Unclosable())], Path("d")):
        raise ValueError("the run")


def test_the_runs_own_interruption_is_never_swallowed():
    """Broken: Ctrl-C in an observer would be taken for the observer's fault."""

    class Interrupted(Listener):
        def step_finished(self, report: StepReport) -> None:
            raise KeyboardInterrupt

    announcer = Announcer()
    announcer._sessions["a"] = Interrupted([], ())
    with pytest.raises(KeyboardInterrupt):
        announcer(STEP)


def test_ticks_are_rare_but_the_last_one_always_comes(monkeypatch):
    """Broken: progress would cost more than the work, or bars would stop short of their end."""
    clock = [0.0]
    monkeypatch.setattr(observers, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    fake = Fake()
    with Announcer().opened([("a", fake)], Path("d")) as announcer:
        for done in range(1, 101):
            clock[0] += 0.01
            announcer.tick("experts", done, 100)
        announcer.tick("evaluate", 1, 5)
    ticks = [h for h in fake.heard if h.startswith("progress")]
    assert ticks[0] == "progress 1/100"
    assert ticks[-2:] == ["progress 100/100", "progress 1/5"]
    assert 4 <= len(ticks) - 1 <= 1 / observers.TICK_S + 2


def test_a_whole_run_goes_on_without_the_observer_that_fails(tmp_path, caplog):
    """Broken: a user's own observer could spoil a run."""
    tiny = {
        "model": {"depth": 1, "width": 2},
        "param": {"name": "pixel"},
        "experts": {"count": 1, "epochs": 2},
        "outer": {"steps": 2, "syn_steps": 2},
        "eval": {"networks": 2, "epochs": 1, "full_epochs": 1, "select_networks": 1},
        "window": {"max_start": 1},
        "executor": {"threads": 1},
    }
    config = structured_config(gather("default", tiny, ()))
    faulty, healthy = Fake(fails=("started",)), Fake()
    result = run(
        config, Places(out=tmp_path / "run", experts=tmp_path / "e"), [("faulty", faulty), ("healthy", healthy)]
    )
    assert (tmp_path / "run" / "summary.json").is_file() and not result.already_finished
    assert [h for h in faulty.heard if h not in ("open", "closed")] == ["started"]
    told = [h for h in healthy.heard if not h.startswith("progress")]
    assert told == ["open", "started", "step", "step", "finished", "closed"]
    (warned,) = [record.getMessage() for record in caplog.records if "observer" in record.name]
    assert "faulty" in warned
