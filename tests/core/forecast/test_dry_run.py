"""What a dry run says: a forecast as a record, as JSON and in words."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from attrs import evolve

import ddfw
from ddfw.contracts.executor import Crew
from ddfw.contracts.records import Forecast
from ddfw.forecast import dry_run
from ddfw.forecast.dry_run import forecast_lines, forecast_record, measured, outlined, seconds_text
from ddfw.pipeline.runner import Places
from ddfw_plugins.executors.cpu import Cpu

SECONDS = {"experts": 180.0, "distill": 420.0, "evaluate": 120.0, "total": 720.0}
KNOWN = Forecast(
    seconds=SECONDS,
    cpu_seconds={stage: value / 10 for stage, value in SECONDS.items()},
    peak_bytes={"data": 6 * 10**8, "step_graphs": 8 * 10**8, "path": 10**6},
    peak_stage="distill",
    device="cpu",
    available_bytes=22 * 10**9,
    held_steps=4,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0 s"), (0.31, "0.3 s"), (9.99, "10 s"), (47.2, "47 s"), (89, "89 s"), (95, "1.6 min"), (720, "12 min"),
     (5399, "90 min"), (11000, "3.1 h"), (100 * 3600, "4.2 d"), (400 * 86400, "400 d")],
)  # fmt: skip
def test_durations_read_like_durations(seconds, text):
    """Broken: hours in seconds, or digits that nobody can know."""
    assert seconds_text(seconds) == text


def test_a_forecast_reads_as_two_lines_and_as_json():
    """Broken: the words or the keys that readers look for."""
    lines, record = forecast_lines(KNOWN), forecast_record(KNOWN)
    assert lines["time"].startswith(
        "about 12 min (experts 3.0 min, distillation 7.0 min, evaluation 2.0 min; 72 s of CPU), "
    )
    assert lines["peak memory"] == "about 1.4 GB in distillation (step graphs 0.8, data 0.6), 22 GB available"
    assert record["predicted_bytes"] == {
        "data": 600_000_000, "step_graphs": 800_000_000, "path": 1_000_000, "total": 1_401_000_000,
    }  # fmt: skip
    assert record["predicted_seconds"] == SECONDS and record["predicted_held_steps"] == 4
    assert record["predicted_cpu_seconds"]["total"] == 72.0
    assert (record["predicted_bytes_device"], record["predicted_bytes_stage"]) == ("cpu", "distill")
    assert record["predicted_bytes_available"] == 22 * 10**9
    assert list(lines) == ["peak memory", "time"]
    assert list(forecast_lines(evolve(KNOWN, device="cuda:0"))) == ["cuda:0 memory", "time"]


def test_what_a_session_cannot_do_is_a_reason_and_no_error(make, monkeypatch):
    """Broken: a fault in measuring would take the rest of what a dry run says with it."""
    made = make()

    def broken(*arguments, **more):
        raise RuntimeError("no such thing\nand more")

    monkeypatch.setattr(dry_run, "predicted_times", broken)
    found = measured(made)
    assert found.seconds is None and found.peak_bytes is not None
    assert forecast_lines(found)["time"] == "not predicted: no such thing"
    assert forecast_record(found)["predicted_seconds"] is None
    monkeypatch.setattr(Cpu, "open", broken)
    found = measured(made)
    assert forecast_record(found)["predicted_bytes"] is None
    assert set(forecast_lines(found).values()) == {"not predicted: no such thing"}


def test_a_crew_is_not_measured(make, monkeypatch):
    """Broken: processes that measure different times would wait for each other for ever."""
    made, opened = make(), []

    @contextmanager
    def two(self):
        crew = Crew()
        crew.size = 2
        yield crew

    monkeypatch.setattr(Cpu, "assemble", two)
    monkeypatch.setattr(Cpu, "open", lambda self, context: opened.append(context))
    assert set(forecast_lines(measured(made)).values()) == {"not predicted: a crew of 2 processes is not measured"}
    assert not opened


def test_measuring_leaves_nothing_behind(make, tmp_path):
    """Broken: looking would draw global random numbers, leave files, or change the number of threads."""
    made = make()
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = measured(made)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    assert list(tmp_path.iterdir()) == [] and made.splits.test.reads == 0
    assert found.seconds is not None and found.peak_bytes is not None and found.held_steps == 8
    assert not found.reasons


def test_a_notebook_gets_the_forecast_of_the_command_line(make, tmp_path):
    """Broken: a notebook could not ask what a run will cost, or would be told something else."""
    # Whether workers are worth their start follows from times, and on a busy machine not twice in the same way.
    config, places = evolve(make().config, executor=Cpu(threads=1, workers=1)), Places(experts=tmp_path / "experts")
    found = ddfw.predict(config, places)
    _, other = outlined(config, places)
    assert isinstance(found, ddfw.Forecast)
    assert forecast_record(found).keys() == forecast_record(other).keys()
    assert (found.held_steps, found.peak_stage, found.device) == (other.held_steps, other.peak_stage, other.device)


def test_experts_that_are_there_cost_nothing(make, monkeypatch):
    """Broken: a run whose experts are there would be said to take hours."""
    made = make()
    assert measured(made).seconds["experts"] > 0
    monkeypatch.setattr(type(made.expert_set.store), "index", lambda self: dict.fromkeys(range(3)))
    assert measured(made).seconds["experts"] == 0.0
