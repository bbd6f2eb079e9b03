"""`ddfw run --dry-run`: what a run would take."""

from __future__ import annotations

import json
import re

import pytest

from ddfw.errors import OptionError
from ddfw_plugins.executors import cpu
from ddfw_plugins.executors.cpu import Cpu


def test_a_dry_run_predicts_seconds_and_bytes(ddfw, tiny, finished, here):
    """Broken: readers of the JSON would find other keys, or parts that do not add up."""
    said = ddfw(*tiny, "--dry-run", "--json", "--experts-dir", here / "none")
    assert said.code == 0 and said.err == ""
    (facts,) = said.events
    seconds, sizes = facts["predicted_seconds"], facts["predicted_bytes"]
    assert set(seconds) == {"experts", "distill", "evaluate", "total"}
    assert all(value >= 0 for value in seconds.values()) and seconds["experts"] > 0
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"], abs=0.01)
    assert sizes["total"] == sum(sizes.values()) - sizes["total"] > 10**7
    assert {"program", "data"} <= set(sizes) or facts["predicted_bytes_stage"] == "loading"
    assert facts["predicted_bytes_device"] == "cpu" and facts["predicted_held_steps"] == 3
    assert "measurements" in facts["predicted_seconds_note"]
    assert list(here.iterdir()) == []
    # With experts there, they cost nothing.
    (cached,) = ddfw(*tiny, "--dry-run", "--json", "--experts-dir", finished.experts).events
    assert cached["experts_cached"] == 2 and cached["predicted_seconds"]["experts"] == 0


def test_people_read_two_lines_and_hear_that_it_takes_a_moment(ddfw, tiny, here):
    """Broken: a silent wait, a raw table of numbers, or progress among the output."""
    said = ddfw(*tiny, "--dry-run", "--set", "traj.expert_epochs=2")  # with more than the default there is a note
    assert said.code == 0 and said.err == "measuring short steps, for some seconds …\n"
    assert re.search(r"^peak memory +about [\d.]+ [MG]B in \w+ \(.*program \d+.*\)", said.out, re.MULTILINE), said.out
    assert re.search(
        r"^time +about [\d.]+ (s|min) \(experts .+, distillation .+, evaluation .+\), extrapolated from short",
        said.out,
        re.MULTILINE,
    ), said.out
    assert "predicted" not in said.out and list(here.iterdir()) == []


def test_an_executor_that_cannot_be_measured_leaves_the_rest(ddfw, tiny, here, monkeypatch):
    """Broken: a machine without the run's device could not even check the settings."""

    def gone(self, *arguments):
        raise RuntimeError("the device is gone")

    for method in ("meta_gradient", "evaluate", "train_experts"):
        monkeypatch.setattr(cpu.CpuSession, method, gone)
    said = ddfw(*tiny, "--dry-run")
    assert said.code == 0 and re.search(r"^time +not predicted: the device is gone$", said.out, re.MULTILINE)
    assert re.search(r"^peak memory +about ", said.out, re.MULTILINE) and "experts cached" in said.out
    monkeypatch.setattr(Cpu, "open", gone)
    (facts,) = ddfw(*tiny, "--dry-run", "--json").events
    assert facts["predicted_seconds"] is None and facts["predicted_bytes"] is None
    assert facts["predicted_seconds_note"] == facts["predicted_bytes_note"] == "the device is gone"
    assert facts["outer_steps"] == 3


def test_an_executor_that_refuses_the_run_refuses_its_dry_run(ddfw, tiny, here, monkeypatch):
    """Broken: a dry run would end well where the same command without `--dry-run` is refused at once."""

    def refused(self, *arguments):
        raise OptionError("no such device here", "device")

    for method in ("open", "assemble"):
        with monkeypatch.context() as patch:
            patch.setattr(Cpu, method, refused)
            for more in ([], ["--json"]):
                said = ddfw(*tiny, "--dry-run", *more)
                assert said.code == 2 and said.out == ""
                assert said.err.endswith("error: executor.device: no such device here\n")


def test_a_manifest_says_how_many_graphs_were_held_and_why(finished):
    """Broken: nobody could tell later what `gradient.memory = "auto"` came to."""
    device = json.loads((finished.out / "manifest.json").read_text())["device"]
    assert device["held_steps"] == 3 and device["graph_bytes"] > 0
    assert device["memory_seen"] is None or device["memory_seen"] > device["graph_bytes"]
