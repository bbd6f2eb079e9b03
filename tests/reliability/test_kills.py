"""`kill -9` at random instants and at every operation on files: the same command again gives the unbroken result."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faults import ALL, KILL, at_each_operation, unbroken
from subjects import make, silent

pytestmark = pytest.mark.extended

KINDS = ("run", "experts", "export", "sweep")
SEED = 14


@pytest.fixture(scope="module", params=KINDS)
def subject(request, tmp_path_factory):
    """A subject with what its unbroken command leaves, and the seconds that this takes in a forked process."""
    with silent():
        made = make(request.param, tmp_path_factory.mktemp(request.param))
        made.fresh()
        assert made.call() == 0  # also imports whatever forked processes need
    made.fresh()
    began = time.monotonic()
    assert unbroken(made.call, made.folder).code == 0
    return request.param, made, made.found(), time.monotonic() - began


def is_as_unbroken(made, whole, what) -> int:
    """Starts the command again, checks what it leaves, and returns how many files a killed process had left over."""
    strays = [p for p in made.folder.rglob(".*.tmp")]
    again = unbroken(made.call, made.folder)
    assert again.code == 0, f"{what}: {again.err}"
    names, results = made.found()
    assert names == whole[0], f"{what}: files differ: {sorted(set(names) ^ set(whole[0]))}"
    assert results == whole[1], f"{what}: {[k for k in whole[1] if results.get(k) != whole[1][k]]}"
    return len(strays)


def test_a_process_killed_at_any_instant_changes_no_result_and_leaves_nothing(subject, size, figures):
    """Broken: a power cut or a preempted job would cost a result, or leave files for ever."""
    from subjects import killed_after

    kind, made, whole, seconds = subject
    rng, count, hit, strays, finished = random.Random(f"{SEED} {kind}"), size(2, 50), 0, 0, 0
    while hit < count and finished < 10 * count:
        made.fresh()
        after = rng.uniform(0, seconds)
        if killed_after(made.call, after):
            hit += 1
        else:
            finished += 1
        strays += is_as_unbroken(made, whole, f"killed after {after:.4f} s")
    assert hit == count
    figures(subject=kind, kills=hit, equal=hit, left_over_before=strays, stray_after=0, seconds=round(seconds, 2))


def test_a_process_killed_at_any_operation_on_files_changes_no_result_and_leaves_nothing(subject, size, figures):
    """Broken: one moment between two writes would leave a folder that no command can repair."""
    kind, made, whole, _ = subject
    kills, strays, kinds = 0, 0, {}
    for fault in at_each_operation(made.call, made.folder, KILL, size(5, 100), kinds=ALL, before=made.fresh):
        assert fault.ended.code == -9, fault
        operation = fault.operation
        strays += is_as_unbroken(made, whole, f"killed at {operation.kind} of {operation.path}")
        kills, kinds[operation.kind] = kills + 1, kinds.get(operation.kind, 0) + 1
    assert kills >= size(5, 15)
    figures(subject=kind, kills=kills, equal=kills, left_over_before=strays, stray_after=0, operations=kinds)
