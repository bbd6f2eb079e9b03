"""Runs, expert trainers and sweeps at once on the same stores, killed again and again: nothing is lost or corrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import attrs
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from subjects import EXPERTS, SWEEP, TINY, digest_of, forked, invoke, of_run, of_store, silent, without_time

from ddfw.artifacts import atomic
from ddfw.artifacts.row_cache import list_rows

pytestmark = pytest.mark.extended

SEED = 7


@attrs.define
class Worker:
    """A command that is started until it has succeeded, and killed in between."""

    arguments: tuple[object, ...]
    kills: int
    child: int = 0
    kill_at: float = 0.0
    killed: int = 0
    waited: int = 0
    done: bool = False

    def look(self, rng: random.Random, seconds: float) -> None:
        """Starts the command where it does not run, kills it where it is time, and looks whether it has ended."""
        if self.child == 0:
            self.child = forked(lambda: invoke(*self.arguments))
            self.kill_at = time.monotonic() + rng.uniform(0, seconds)
        if self.kills > self.killed and time.monotonic() >= self.kill_at:
            os.kill(self.child, signal.SIGKILL)
        pid, status = os.waitpid(self.child, os.WNOHANG)
        if not pid:
            return
        code, self.child = os.waitstatus_to_exitcode(status), 0
        assert code in (0, 1, -signal.SIGKILL), f"{self.arguments[:2]} ended with {code}"
        self.done = code == 0
        self.killed += code == -signal.SIGKILL
        self.waited += code == 1  # the folder is in use


def commands(place):
    """Two runs of their own and one on the first one's directory, two trainers, two sweeps: all on one store."""
    experts = ("--experts-dir", place / "experts")
    (place / "grid.toml").write_text(SWEEP)
    run = ("run", *TINY, "-q", *experts, "--out")
    return {
        "run": (*run, place / "run"),
        "run again": (*run, place / "run"),
        "another run": (*run, place / "other", "--set=run.seed=1"),
        "trainer": ("experts", "train", *EXPERTS, "--count", 3, "-q", *experts),
        "another trainer": ("experts", "train", *EXPERTS, "--count", 4, "-q", *experts),
        "sweep": ("sweep", place / "grid.toml", "-q", *experts, "--out", place / "sweep"),
        "another sweep": ("sweep", place / "grid.toml", "-q", *experts, "--out", place / "sweep"),
    }


def results(place):
    """What has to be the same in both places, and whether every hash that is written down fits."""
    found = {**of_run(place), **of_store(place / "experts")}
    found["sweep"] = without_time(json.loads((place / "sweep" / "sweep.json").read_text()))
    for path in place.glob("**/manifest.json"):
        for name, sha256 in json.loads(path.read_text())["outputs"].items():
            atomic.verify(path.parent / name, sha256)
    for path in place.glob("experts/*/index.json"):
        for expert in json.loads(path.read_text())["experts"].values():
            atomic.verify(path.parent / expert["file"], expert["sha256"])
    rows = list_rows(place / "experts")
    assert rows and all(row.row is not None for row in rows), "a row of the cache is damaged"
    found["rows"] = sorted(path.name for path in place.glob("experts/rows/*"))
    return found


def test_runs_trainers_and_sweeps_on_one_store_lose_nothing_when_they_are_killed(tmp_path, size, figures):
    """Broken: two terminals, or two jobs of a queue, would spoil each other's experts, figures or directories."""
    whole, place = tmp_path / "whole", tmp_path / "shared"
    for folder in (whole, place):
        folder.mkdir()
    with silent():
        for arguments in commands(whole).values():
            assert invoke(*arguments) == 0
    rng, began = random.Random(SEED), time.monotonic()
    workers = {name: Worker(arguments, size(1, 15)) for name, arguments in commands(place).items()}
    try:
        while not all(worker.done for worker in workers.values()):
            assert time.monotonic() - began < 1500, {
                name: worker for name, worker in workers.items() if not worker.done
            }
            for worker in workers.values():
                if not worker.done:
                    worker.look(rng, 3.0)
            time.sleep(0.01)
    finally:
        for worker in workers.values():
            if worker.child:
                os.kill(worker.child, signal.SIGKILL)
                os.waitpid(worker.child, 0)
    with silent():
        for arguments in commands(place).values():  # the next start
            assert invoke(*arguments) == 0
    expected, found = results(whole), results(place)
    assert {key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)} == set()
    assert digest_of(place, "**/.*.tmp") == {} and not list(place.glob("**/.*.tmp"))
    figures(
        processes=len(workers),
        kills=sum(worker.killed for worker in workers.values()),
        found_in_use=sum(worker.waited for worker in workers.values()),
        results=len(found),
        equal=len(found),
        seconds=round(time.monotonic() - began, 1),
    )
