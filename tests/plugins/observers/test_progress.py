"""`progress`: bars on a terminal, rare plain lines everywhere else."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddfw.contracts.observer import (
    EvaluationReport,
    ExpertReport,
    ProgressReport,
    RunFinished,
    RunStarted,
    StepReport,
)
from ddfw_plugins.observers import progress
from ddfw_plugins.observers.progress import Progress


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Nothing of the developer's terminal decides."""
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


def evaluation(split, subject="distilled", step=2):
    return EvaluationReport(
        subject=subject, split=split, net="convnet", n=2, accuracies=(0.5, 0.75), mean=0.625, std=0.177, seeds=(0, 1),
        step=step, eval_seed=0, selected_by="validation", lr=0.01, images=20, floats={"strict": 5, "pixels": 4},
    )  # fmt: skip


def step(number, total=100):
    return StepReport(
        step=number, steps=total, loss=0.1234, step_size=0.0125, start_epoch=0.0, window_high=1, grad_norm_images=1.0
    )


def expert(index, cached=False):
    return ExpertReport(
        index=index, count=2, seed=index, cached=cached, validation_accuracy=0.875, location=Path("cache/[x]")
    )


def tell_everything(session, cached=False):
    session.run_started(
        RunStarted(recipe="r", seed=0, directory=Path("d"), steps=100, experts=2, headline=("recipe  [r]", "second"))
    )
    session.progress(ProgressReport(stage="experts", done=1, total=4))
    for index in range(2):
        session.expert_ready(expert(index, cached))
    session.evaluated(evaluation("validation", step=0))
    for number in range(1, 101):
        session.step_finished(step(number))
    session.progress(ProgressReport(stage="evaluate", done=1, total=4))
    session.progress(ProgressReport(stage="something new", done=1, total=4))
    session.evaluated(evaluation("test"))
    session.evaluated(evaluation("test", "full_data", None))
    session.run_finished(RunFinished(status="finished", directory=Path("d"), summary={}))


def said(run, cached=False, terminal=False, **options):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    with contextlib.redirect_stderr(Stream()) as stream, Progress(**options).open(run) as session:
        tell_everything(session, cached)
    return stream.getvalue()


def test_what_is_piped_is_plain_text_without_escape_bytes(tmp_path):
    """Broken: log files and queue systems would be full of control characters."""
    text = said(tmp_path)
    assert "\x1b" not in text and "\r" not in text and text.endswith("\n")


def test_plain_lines_tell_what_is_rare_and_leave_out_what_is_frequent(tmp_path):
    """Broken: people would be left in the dark, or find nothing in thousands of lines."""
    text = said(tmp_path, every_s=1000.0)
    assert text.splitlines()[:2] == ["recipe  [r]", "second"]
    assert "expert 1/2: validation 87.5 %" in text and "expert 2/2" in text
    assert "validation 62.5 % after 0 steps" in text
    assert "distilled: test 62.5 ± 17.7 % (n = 2, convnet)" in text and "full_data: test" in text
    assert "distil 50/100" not in text
    assert len(text.splitlines()) < 12


def test_cached_experts_are_told_in_one_line(tmp_path):
    """Broken: a hundred cached experts would fill the screen."""
    text = said(tmp_path, cached=True)
    assert text.count("from the cache") == 1 and "2 of 2 from the cache cache/[x]" in text
    assert "expert 1/2" not in text


def test_a_stage_speaks_every_few_seconds_and_not_more_often(tmp_path, monkeypatch, capsys):
    """Broken: a step of a millisecond would print a thousand lines a second."""
    clock = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with Progress(every_s=5.0).open(tmp_path) as session:
        for number in range(1, 101):
            clock[0] += 0.5
            session.step_finished(step(number))
    lines = [line for line in capsys.readouterr().err.splitlines() if "distil" in line]
    assert len(lines) == 10
    assert "distil 10/100: loss 0.1234  step size 0.0125" in lines[0]
    assert lines[0].startswith("[") and "5.0 s]" in lines[0]


def test_a_terminal_gets_live_bars_that_end_complete(tmp_path):
    """Broken: the bars would crash on some report, or never appear."""
    text = said(tmp_path, terminal=True)
    assert "\x1b" in text
    assert "distil" in text and "100/100" in text and "loss 0.1234" in text
    assert "recipe  [r]" in text


def test_names_in_brackets_are_not_taken_for_markup_on_a_terminal(tmp_path):
    """Broken: a folder called `[x]` would vanish from the screen, or crash the bars."""
    assert "cache/[x]" in said(tmp_path, cached=True, terminal=True)


def test_no_color_is_respected_on_a_terminal(tmp_path, monkeypatch):
    """Broken: people who asked for no colours would get them."""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in said(tmp_path, terminal=True)


def test_standard_output_stays_free_for_results(tmp_path, capsys):
    """Broken: `--json` output or a piped table would be mixed with progress."""
    with Progress().open(tmp_path) as session:
        tell_everything(session)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err != ""


@pytest.mark.parametrize("every_s", [0.0, -1.0])
def test_the_interval_is_positive(every_s):
    """Broken: every tick would be a line."""
    with pytest.raises(ValueError, match="every_s"):
        Progress(every_s=every_s)
