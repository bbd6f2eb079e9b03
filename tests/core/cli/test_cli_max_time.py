"""Runs that are stopped by time, by signals or by force, and the same command again."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time

import pytest

from ddfw.cli.main import invoke
from ddfw.contracts.observer import StepReport
from ddfw.pipeline.observers import Announcer

SET = ("params.safetensors", "images.safetensors", "labels.safetensors", "card.json")


@pytest.fixture(autouse=True)
def interruptible():
    """SIGINT does what it does in a terminal; shells start background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def bytes_of(run):
    return {name: (run / "synthetic" / name).read_bytes() for name in SET}


def steps_in(run):
    path = run / "metrics.jsonl"
    return [e["step"] for e in map(json.loads, path.read_text().splitlines()) if e["event"] == "step"]


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1x", "m", "5m1h", "1h 30m", "nan", "inf", "1e3", "٣"])
def test_what_is_no_duration_is_a_usage_error(ddfw, tiny, here, text):
    """Broken: a job would run without the limit that was meant."""
    ddfw(*tiny, f"--max-time={text}").refused(2, "--max-time", "90s, 30m, 2h, 1h30m")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1h1m1s", 3661), ("45", 45), ("0.5h", 1800)],
)
def test_durations_are_read_as_people_write_them(ddfw, tiny, here, monkeypatch, text, seconds):
    """Broken: 30m would be thirty seconds."""
    from ddfw.errors import DataError
    from ddfw.pipeline import runner

    given = []

    def run(*args, max_seconds, **kwargs):
        given.append(max_seconds)
        raise DataError("enough")

    monkeypatch.setattr(runner, "run", run)
    ddfw(*tiny, f"--max-time={text}").refused(4)
    assert seconds - 5 < given[0] <= seconds


def test_max_time_stops_in_order_and_the_same_command_goes_on(ddfw, tiny, here, finished, monkeypatch):
    """Broken: a queue's time limit would kill a run, or a stopped run would end as another one."""
    arguments = [*tiny, "-q", "--out", "run", "--experts-dir", finished.experts]
    real = Announcer.__call__

    def slow(self, report):
        if isinstance(report, StepReport) and report.step == 1:
            time.sleep(1.5)
        real(self, report)

    monkeypatch.setattr(Announcer, "__call__", slow)
    said = ddfw(*arguments, "--max-time", "1.5s").refused(75, "outer step 1 of 3", "the same command goes on")
    assert said.startswith("ddfw: ") and len(said.splitlines()) == 1
    assert ddfw(*arguments, "--max-time", "1h").code == 0
    assert bytes_of(here / "run") == bytes_of(finished.out)
    assert steps_in(here / "run") == [1, 2, 3]


def test_max_time_holds_for_all_seeds_together(ddfw, tiny, here, finished, monkeypatch):
    """Broken: three seeds would take three times as long as was allowed."""
    real = Announcer.__call__

    def slow(self, report):
        real(self, report)
        if report.event == "run_finished":
            time.sleep(3)

    arguments = [*tiny, "-q", "--json", "--out", "runs", "--experts-dir", finished.experts, "--seeds", "0,1"]
    with monkeypatch.context() as patched:
        patched.setattr(Announcer, "__call__", slow)
        said = ddfw(*arguments, "--max-time", "3")
    if said.code == 75 and "outer step" in said.err:
        pytest.skip("this machine is too slow for the first seed to finish in time")
    assert said.code == 75 and "stopped before" in said.err and "seed-1" in said.err
    assert not (here / "runs" / "seed-1").exists()
    assert ddfw(*arguments).events[-1]["seeds"] == [0, 1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_after_the_step_and_the_same_command_goes_on(
    ddfw, tiny, here, finished, monkeypatch, number, code
):
    """Broken: a preempted job would lose what it learned since the last selection."""
    real = Announcer.__call__

    def told(self, report):
        if isinstance(report, StepReport) and report.step == 1:
            os.kill(os.getpid(), number)
        real(self, report)

    arguments = [*tiny, "-q", "--out", "run", "--experts-dir", finished.experts]
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patched:
        patched.setattr(Announcer, "__call__", told)
        ddfw(*arguments).refused(code, "the same command goes on from step 1")
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert steps_in(here / "run") == [1]
    said = ddfw(*arguments)
    assert said.code == 0, said.err
    assert bytes_of(here / "run") == bytes_of(finished.out)
    assert steps_in(here / "run") == [1, 2, 3]


def test_a_second_signal_stops_at_once(ddfw, tiny, here, finished, monkeypatch):
    """Broken: nobody could stop a run whose step takes an hour."""
    real, after = Announcer.__call__, []

    def told(self, report):
        if isinstance(report, StepReport):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            after.append("still there")
        real(self, report)

    monkeypatch.setattr(Announcer, "__call__", told)
    ddfw(*tiny, "-q", "--out", "run", "--experts-dir", finished.experts).refused(130, "interrupted")
    assert after == [] and not (here / "run" / "checkpoints").exists()


def test_a_signal_in_the_evaluation_says_from_where_the_run_goes_on(ddfw, tiny, here, finished, monkeypatch):
    """Broken: people would think that hours of learning are lost."""
    with monkeypatch.context() as patched:

        def stopped(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

        patched.setattr("ddfw.pipeline.stages.final", stopped)
        arguments = [*tiny, "-q", "--out", "run", "--experts-dir", finished.experts]
        ddfw(*arguments).refused(75, "stopped by SIGTERM", "goes on from step 3")
    assert ddfw(*arguments).code == 0
    assert bytes_of(here / "run") == bytes_of(finished.out)


def test_a_corrupted_checkpoint_is_exit_code_4_and_another_thread_count_1(ddfw, tiny, here, finished, monkeypatch):
    """Broken: scripts could not tell damage from a changed machine."""
    real = Announcer.__call__

    def told(self, report):
        if isinstance(report, StepReport) and report.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, report)

    arguments = [*tiny, "-q", "--out", "run", "--experts-dir", finished.experts]
    with monkeypatch.context() as patched:
        patched.setattr(Announcer, "__call__", told)
        assert ddfw(*arguments).code == 75
    from ddfw.pipeline import resume, stages

    circumstances = resume.circumstances
    with monkeypatch.context() as patched:
        patched.setattr(stages, "circumstances", lambda *a: {**circumstances(*a), "threads": 64})
        ddfw(*arguments).refused(1, "threads 1, not 64", "rm -r run/checkpoints")
    (path,) = (here / "run" / "checkpoints").glob("step-*")
    path.write_bytes(b"")
    ddfw(*arguments).refused(4, "damaged", "rm -r run/checkpoints")


def test_a_run_that_is_killed_three_times_ends_as_one_that_was_not(ddfw, tiny, here, finished):
    """Broken: power cuts, full memory and `kill -9` would change a result, or make its directory useless."""
    arguments = [*tiny, "--set=outer.steps=60", "--set=eval.every=2", "-q", "--experts-dir", str(finished.experts)]
    assert ddfw(*arguments, "--out", "whole").code == 0
    rng, metrics = random.Random(7), here / "run" / "metrics.jsonl"
    # Processes of their own, forked from one that has imported what takes long.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["ddfw.cli.main", "torch._dynamo", "sklearn.datasets"])
    for after in (4, 18, 36):
        process = processes.Process(target=invoke, args=([*arguments, "--out", "run"],))
        process.start()
        try:
            until = time.monotonic() + 60
            while not metrics.exists() or metrics.read_bytes().count(b'"event": "step"') < after:
                assert process.is_alive() and time.monotonic() < until, "it ended before it could be killed"
                time.sleep(0.002)
            time.sleep(0.05 * rng.random())
        finally:
            process.kill()
            process.join()
        assert not (here / "run" / "summary.json").exists()
    said = ddfw(*arguments, "--out", "run", "--json")
    assert said.code == 0, said.err
    assert said.events[0]["first_step"] >= 30
    assert bytes_of(here / "run") == bytes_of(here / "whole")
    assert steps_in(here / "run") == steps_in(here / "whole") == list(range(1, 61))
    assert [p.name for p in (here / "run" / "checkpoints").glob("step-*")] == ["step-000060.safetensors"]


def test_max_time_holds_for_a_whole_comparison(ddfw, here, monkeypatch):
    """Broken: a comparison of twenty runs would take twenty times as long as was allowed."""
    from ddfw.errors import StoppedError
    from ddfw.pipeline import runner

    clock, given = [0.0], []

    def run(config, places, *, max_seconds, **kwargs):
        given.append(max_seconds)
        clock[0] += 40
        if len(given) == 2:
            raise StoppedError("time is over")
        return runner.RunResult(directory=places.out, summary={})

    (here / "c.toml").write_text('[comparison]\nseeds = [0, 1]\n[variants.one]\nparam = { name = "pixel" }\n')
    monkeypatch.setattr("ddfw.run", run)
    monkeypatch.setattr("ddfw_plugins.commands.compare.runner.monotonic", lambda: clock[0])
    for name in ("finished_run", "record_of", "write_all"):
        monkeypatch.setattr(f"ddfw_plugins.commands.compare.runner.{name}", lambda *args: {})
    (here / "runs" / "c").mkdir(parents=True)
    ddfw("compare", "c.toml", "-q", "--max-time", "1m").refused(75, "time is over")
    assert given == [60, 20]
