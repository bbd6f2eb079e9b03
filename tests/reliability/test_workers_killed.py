"""Runs with worker processes, and trainers that share experts, killed again and again: nothing and nobody is left."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from subjects import EXPERTS, TINY, Subject, forked, invoke, of_run, of_store, silent

from ddfw.artifacts.expert_store import ExpertStore

pytestmark = pytest.mark.extended

SEED = 15
MARK = "DDFW_TESTS_FAMILY"
LONGER = ("--set=experts.epochs=6", "--set=experts.count=4", "--set=eval.epochs=20", "--set=executor.workers=2")


def family(mark: str) -> list[int]:
    """The worker processes that descend from a process with this mark in its environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            if b"ddfw.remote.worker" in words and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


def nobody_is_left(mark: str) -> bool:
    end = time.monotonic() + 10
    while family(mark) and time.monotonic() < end:
        time.sleep(0.02)
    return not family(mark)


def started(call, mark: str) -> int:
    """A forked process whose workers bear a mark."""

    def marked() -> int:
        os.environ[MARK] = mark
        return call()

    return forked(marked)


def ended(child: int, seconds: float) -> int | None:
    """Waits for a process at most so long; its exit code, negative for a signal, or None if it goes on."""
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.005)


def test_a_run_and_its_workers_killed_at_any_instant_lose_nothing_and_leave_nobody(tmp_path, size, figures):
    """Broken: a killed worker would end the run or change its bits; a killed run would leave processes behind."""
    first, folder = tmp_path / "first", tmp_path / "work"
    first.mkdir()
    where = ("-q", "--no-cache", "--out", folder / "run", "--experts-dir", folder / "experts")
    subject = Subject(
        folder=folder,
        first=first,
        arguments=("run", *TINY, *LONGER, *where),
        results=lambda place: {**of_run(place), **of_store(place / "experts")},
    )
    subject.fresh()
    began = time.monotonic()
    with silent():
        assert invoke(*subject.arguments) == 0
    seconds, (names, whole) = time.monotonic() - began, subject.found()
    rng, kills, tries = random.Random(SEED), Counter(), 0
    while kills.total() < size(4, 50):
        tries += 1
        assert tries < size(4, 50) * 5
        subject.fresh()
        mark, parent = uuid.uuid4().hex, tries % 2 == 0
        child = started(subject.call, mark)
        code = ended(child, rng.uniform(0, seconds))
        if code is None:
            victims = [child] if parent else family(mark)
            if victims:
                os.kill(rng.choice(victims), signal.SIGKILL)
                kills["run" if parent else "worker"] += 1
            code = ended(child, 200)
        assert code == (-signal.SIGKILL if parent and code != 0 else 0)
        assert nobody_is_left(mark), "a worker outlives its run"
        with silent():
            assert invoke(*subject.arguments) == 0
        again = subject.found()
        assert again[0] == names, sorted(set(again[0]) ^ set(names))
        assert again[1] == whole, [key for key in whole if whole[key] != again[1].get(key)]
    figures(kills=dict(kills), equal=kills.total(), processes_left=0, seconds=round(seconds, 1))


def test_four_trainers_at_once_train_each_expert_once_whatever_is_killed(tmp_path, size, figures, monkeypatch):
    """Broken: two runs that need the same experts would do the work twice, or wait for a process that is dead."""
    count, log, place = 8, tmp_path / "stored", tmp_path / "experts"
    command = (
        "experts",
        "train",
        *EXPERTS,
        "--set=experts.epochs=12",
        f"--set=experts.count={count}",
        "-q",
        "--experts-dir",
    )
    with silent():
        assert invoke(*command, tmp_path / "whole") == 0
    add = ExpertStore.add

    def noting(self, expert, network):
        found = add(self, expert, network)
        with log.open("a") as file:
            file.write(f"{expert.seed} {os.getpid()}\n")
        return found

    monkeypatch.setattr(ExpertStore, "add", noting)
    rng, killed, trainers = random.Random(SEED), 0, dict[int, str]()
    rounds, stored = size(1, 12), Counter()
    shared_by = []
    for number in range(rounds):
        store, mark = place / str(number), uuid.uuid4().hex
        log.unlink(missing_ok=True)
        left, kills = 4, 0
        trainers = {started(lambda store=store: invoke(*command, store), mark): "" for _ in range(4)}
        next_kill = time.monotonic() + rng.uniform(0.2, 2)
        while trainers:
            if kills < 4 and time.monotonic() > next_kill:
                os.kill(rng.choice(list(trainers)), signal.SIGKILL)
                kills, next_kill = kills + 1, time.monotonic() + rng.uniform(0.2, 2)
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in trainers:
                del trainers[pid]
                code = os.waitstatus_to_exitcode(status)
                assert code in (0, -signal.SIGKILL)
                if code:
                    trainers[started(lambda store=store: invoke(*command, store), mark)] = ""
                else:
                    left -= 1
            time.sleep(0.005)
        assert left == 0
        lines = [line.split() for line in log.read_text().splitlines()]
        stored = Counter(int(seed) for seed, _ in lines)
        # Killed between storing an expert and noting that, a process leaves no line; a second line is never left.
        assert max(stored.values()) == 1 and len(stored) >= count - kills
        shared_by.append(len({pid for _, pid in lines}))
        assert of_store(store) == of_store(tmp_path / "whole")
        assert nobody_is_left(mark)
        assert not list(store.glob("*/expert-*.lock"))
        killed += kills
    assert max(shared_by) > 1, "one process trained all experts while three waited"
    figures(rounds=rounds, trainers=4 * rounds, kills=killed, trained_twice=0, shared_by=shared_by)
