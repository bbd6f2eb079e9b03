"""When a rank dies, hangs or fails: all end, soon, with one error, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks in /proc")

TINY = (
    *("model.depth=2", "model.width=8", "experts.count=2", "experts.epochs=2", "outer.syn_steps=5", "eval.networks=2"),
    *("eval.epochs=2", "eval.full_epochs=1", "window.max_start=1", "window.start=1", 'eval.baselines=["random_real"]'),
)
LONG = ("outer.steps=90", "eval.every=30")


def command(*settings: str, param: str = "pixel") -> list[str]:
    sets = [part for text in (*TINY, *settings) for part in ("--set", text)]
    return ["-m", "ddfw", "run", "--param", param, "--traj", "mtt", "--out", "run", "--executor", "torchrun", *sets]


def wait_for_checkpoint(start, folder: Path) -> None:
    """Until the outer loop has written one."""
    until = time.monotonic() + 90
    while not list(folder.glob("run/checkpoints/step-*")):
        assert start.running(), start.end(5).stderr
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.05)


def require_clean(folder: Path) -> None:
    """Nothing is half-written, and nobody says that the run is finished."""
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "run" / "summary.json").exists()
    assert not (folder / "run" / "synthetic").exists()
    assert len(list(folder.glob("experts/*/expert-*.safetensors"))) == 2


@pytest.mark.extended
def test_a_killed_rank_ends_the_run_and_the_same_command_goes_on(tmp_path, start_torchrun, torchrun):
    """Broken: the others would wait for a dead rank for ever, say something else, or spoil what was there."""
    start = start_torchrun(tmp_path, *command(*LONG))
    wait_for_checkpoint(start, tmp_path)
    began = time.monotonic()
    os.kill(start.pid(1), signal.SIGKILL)
    done = start.end(60)
    assert time.monotonic() - began < 60
    assert done.returncode != 0
    assert len(done.errors) == 1, done.stderr
    assert "rank 1 of 2 is gone" in done.errors[0]
    assert "the same command goes on" in done.errors[0]
    assert "internal error" not in done.stderr
    assert "stopping at the next" not in done.stderr
    require_clean(tmp_path)
    done = torchrun(tmp_path, *command(*LONG))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["resumed_from"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["outer_steps"] == 90


@pytest.mark.extended
def test_a_rank_that_hangs_is_found_by_its_silence(tmp_path, start_torchrun):
    """Broken: a stopped or hanging rank would hold all others for ever."""
    start = start_torchrun(tmp_path, *command("outer.steps=5000", "eval.every=30"))
    wait_for_checkpoint(start, tmp_path)
    began = time.monotonic()
    stopped = start.pid(1)
    os.kill(stopped, signal.SIGSTOP)
    while start.pid(0) is not None:
        assert time.monotonic() - began < 60, "rank 0 still waits"
        time.sleep(0.1)
    assert time.monotonic() - began > 15
    os.kill(stopped, signal.SIGKILL)  # as torchrun does half a minute later
    done = start.end(30)
    assert done.returncode != 0
    assert len(done.errors) == 1, done.stderr
    assert "rank 1 of 2 is gone (no sign of life for 2" in done.errors[0]
    require_clean(tmp_path)


@pytest.mark.extended
def test_a_signal_to_torchrun_stops_all_ranks_in_order(tmp_path, start_torchrun, torchrun):
    """Broken: a cluster's SIGTERM would look like a failure, or leave no checkpoint of the step that was reached."""
    start = start_torchrun(tmp_path, *command("outer.steps=5000", "eval.every=30"))
    wait_for_checkpoint(start, tmp_path)
    os.kill(start.torchrun, signal.SIGTERM)
    done = start.end(40)
    assert len(done.errors) == 1, done.stderr
    assert done.errors[0].startswith("ddfw: stopped by SIGTERM; the same command goes on from step ")
    require_clean(tmp_path)


FAILING = '''
from typing import ClassVar, final
import os
from attrs import frozen
from ddfw import AbstractMatchingLoss, hookimpl

calls = []

@final
@frozen(kw_only=True)
class Failing(AbstractMatchingLoss):
    """Fails at the third step of rank 1."""

    name: ClassVar[str] = "failing"

    def loss(self, path, segment):
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) == 3:
            raise RuntimeError("the third step is one too many")
        return (path[len(path) - 1] - segment.target).square().sum()

@hookimpl
def ddfw_register_losses():
    return [Failing]
'''


@pytest.mark.extended
def test_an_error_on_one_rank_ends_all(tmp_path, torchrun):
    """Broken: the other rank would hang in its next message, or cover the error with one of its own."""
    (tmp_path / "failing.py").write_text(FAILING)
    began = time.monotonic()
    done = torchrun(tmp_path, *command(*LONG), "--loss", "failing", DDFW_PLUGINS="./failing.py")
    assert time.monotonic() - began < 60
    assert done.returncode != 0
    assert len(done.errors) == 1, done.stderr
    assert "the third step is one too many" in done.errors[0]
    assert "plugin" in done.errors[0]
    assert done.stderr.count("exitcode  : 3 ") >= 1, done.stderr
    require_clean(tmp_path)


@pytest.mark.extended
def test_what_all_ranks_would_complain_about_is_said_once(tmp_path, torchrun):
    """Broken: a typing error would be printed by every rank."""
    done = torchrun(tmp_path, *command("param.images_per_klass=2"))
    assert done.returncode != 0
    assert len(done.errors) == 1, done.stderr
    assert "images_per_klass" in done.errors[0]
    assert not (tmp_path / "run").exists()
