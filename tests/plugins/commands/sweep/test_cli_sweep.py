"""`ddfw sweep`: what people and programs see of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")

TEXT = """
[sweep]
recipe = "digits"
summary = "step sizes"

[base]
model = { depth = 2, width = 8 }
experts = { count = 2, epochs = 2 }
outer = { steps = 2, syn_steps = 2 }
window = { start = 1, max_start = 1 }
traj = "mtt"
labels = "hard"
param = { name = "pixel", lr = 1000.0 }
eval = { networks = 2, epochs = 2, every = 1, select_networks = 1, baselines = [] }

[grid]
outer.step_size = [0.01, 1e15, 0.05]
"""
SPACE = (
    TEXT.split("[grid]")[0].replace("[sweep]", "[sweep]\ntrials = 12")
    + "[space]\nouter.step_size = {low = 0, high = 1}\n"
)


@pytest.fixture(scope="module")
def done(tmp_path_factory, ddfw):
    """A sweep that was run; its second trial diverges."""
    place = tmp_path_factory.mktemp("sweep")
    (place / "sizes.toml").write_text(TEXT)
    arguments = ["sweep", place / "sizes.toml", "--out", place / "out", "--experts-dir", place / "experts"]
    said = ddfw(*arguments)
    assert said.code == 0, said.err
    record = json.loads((place / "out" / "sweep.json").read_text())
    return SimpleNamespace(arguments=arguments, out=place / "out", place=place, said=said, record=record)


def test_people_see_each_trial_and_a_table_with_the_best_first(done):
    """Broken: nobody would know what runs, how it went, or where the best one lies."""
    lines = done.said.err.splitlines()
    assert [line for line in lines if line.startswith("── ")] == [
        "── 1/3  outer.step_size=0.01", "── 2/3  outer.step_size=1e+15", "── 3/3  outer.step_size=0.05",
    ]  # fmt: skip
    assert sum(line.startswith("   validation ") for line in lines) == 2
    finished = [t for t in done.record["trials"] if t["status"] == "finished"]
    order = sorted(finished, key=lambda t: (-t["validation_accuracy"], t["number"]))
    rows = [line.split() for line in done.said.out.splitlines() if line[:2] == "00"]
    assert [row[0] for row in rows] == [f"{t['number']:04d}" for t in order] + ["0001"]
    for row, trial in zip(rows, order, strict=False):
        assert row[2] == f"{100 * trial['validation_accuracy']:.1f}" and row[3] == f"{100 * trial['test']['mean']:.1f}"
    assert "test accuracies were not used for choosing" in done.said.out
    assert "trial 0001 diverged: " in done.said.out
    assert f"best: {done.out / order[0]['directory']} " in done.said.out
    assert done.record["best"] == order[0]["number"]
    assert f"{done.out / 'sweep.json'}, {done.out / 'sweep.md'}" in done.said.out
    assert "\x1b" not in done.said.out + done.said.err


def test_programs_get_the_record_and_nothing_runs_twice(ddfw, done, monkeypatch):
    """Broken: a program would have to read a table, or a finished sweep cost a night again."""

    def forbidden(*args, **kwargs):
        raise AssertionError("it computes again")

    monkeypatch.setattr("ddfw.run", forbidden)
    said = ddfw(*done.arguments, "--json")
    assert said.code == 0 and json.loads(said.out) == done.record
    assert "3 of 3 trials ended before" in said.err
    quiet = ddfw(*done.arguments, "--quiet")
    assert quiet.code == 0 and quiet.err == "" and "best: " in quiet.out


def test_a_trials_directory_is_an_ordinary_run(ddfw, done):
    """Broken: the best trial could not be evaluated, exported or run again."""
    trial = done.out / "trials" / "0002"
    again = ddfw("run", trial / "config.toml", "--out", trial, "--experts-dir", done.place / "experts")
    assert again.code == 0 and "nothing to do" in again.err


def test_a_dry_run_lists_the_trials_and_writes_nothing(ddfw, here):
    """Broken: looking before leaping would leave files, or hide what would be run."""
    (here / "mine.toml").write_text(TEXT)
    said = ddfw("sweep", "mine.toml", "--dry-run", "--json")
    assert said.code == 0, said.err
    rows = json.loads(said.out)
    assert [r["parameters"] for r in rows] == [{"outer.step_size": v} for v in (0.01, 1e15, 0.05)]
    assert [r["directory"] for r in rows] == [f"runs/mine/trials/000{n}" for n in range(3)]
    human = ddfw("sweep", "mine.toml", "--dry-run")
    assert human.code == 0 and "outer.step_size=0.05" in human.out and "digits · convnet" in human.out
    (here / "bad.toml").write_text(TEXT.replace("0.05]", "-1]"))
    ddfw("sweep", "bad.toml", "--dry-run").refused(2, "outer.step_size in trial 2", "-1")
    assert sorted(p.name for p in here.iterdir()) == ["bad.toml", "mine.toml"]


@needs_optuna
def test_a_dry_run_of_a_study_lists_what_does_not_depend_on_outcomes(ddfw, here):
    """Broken: it would show trials that will not be run, or hide those that cannot be."""
    (here / "mine.toml").write_text(SPACE.replace("low = 0,", "low = 0.01,"))
    said = ddfw("sweep", "mine.toml", "--dry-run")
    assert said.code == 0, said.err
    assert len([line for line in said.out.splitlines() if line[:2] == "00"]) == 10
    assert said.err == "and 2 more, which follow from the outcomes of these\n"
    (here / "bad.toml").write_text(SPACE)
    ddfw("sweep", "bad.toml", "--dry-run").refused(2, "space.outer.step_size: 0 is impossible", "> 0")
    assert sorted(p.name for p in here.iterdir()) == ["bad.toml", "mine.toml"]


def test_an_interrupt_says_that_the_command_goes_on(ddfw, here, monkeypatch):
    """Broken: people would start over."""

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ddfw.run", interrupted)
    (here / "mine.toml").write_text(TEXT)
    said = ddfw("sweep", "mine.toml", "-q")
    assert said.code == 130 and "trials that ended are kept; the same command goes on" in said.err
    assert json.loads((here / "runs" / "mine" / "sweep.json").read_text())["best"] is None


def test_a_sweep_in_which_nothing_finished_has_failed(ddfw, here, done):
    """Broken: a script would go on without any result."""
    (here / "mine.toml").write_text(TEXT.replace("[0.01, 1e15, 0.05]", "[1e15]"))
    said = ddfw("sweep", "mine.toml", "-q", "--experts-dir", done.place / "experts")
    assert said.code == 1 and "diverged" in said.out and "best:" not in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.toml"], ["none.toml: no such file"]),
        (["mine.toml", "--on", "rai"], ["unknown executor 'rai'", "Did you mean 'ray'?"]),
        (["mine.toml", "--workers", "2"], ["--workers", "optuna"]),
    ],
)
def test_mistakes_on_the_command_line_are_named(ddfw, here, arguments, words):
    """Broken: a slip would be a riddle."""
    (here / "mine.toml").write_text(TEXT)
    ddfw("sweep", *arguments).refused(2, *words)


def test_without_optuna_the_extra_is_named(ddfw, here, monkeypatch):
    """Broken: people would not know what to install."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    (here / "mine.toml").write_text(SPACE)
    for flags in ([], ["--dry-run"]):
        ddfw("sweep", "mine.toml", *flags).refused(2, 'pip install "ddfw[sweep]"')
