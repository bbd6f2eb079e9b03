"""Configurations of every kind, right and wrong: none ends in a traceback, takes long or takes much memory."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("configurations.py")
#: Seconds on the wall for a configuration, on the average, before the whole is given up.
PATIENCE_S = 4


def planned(first: int, last: int, folder: Path) -> list[dict[str, Any]]:
    """What came of the configurations of a range of numbers; one that ended its process is a fault of its own."""
    rows: list[dict[str, Any]] = []
    while first < last:
        program = [sys.executable, str(PROGRAM), str(first), str(last), str(folder)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60 + PATIENCE_S * (last - first))
        rows += (json.loads(line) for line in done.stdout.splitlines())
        reached = rows[-1]["number"] + 1 if rows else first
        if reached < last:
            fault = f"ended its process with {done.returncode}: {done.stderr[-300:]}"
            rows.append({"number": reached, "reached": False, "code": -1, "seconds": 0, "peak": 0, "fault": fault})
        first = reached + 1
    return rows


@pytest.mark.extended
def test_no_configuration_is_answered_by_a_traceback_or_takes_long(
    tmp_path: Path, size: Callable[[int, int], int], figures: Callable[..., None]
) -> None:
    """A wrong value would be shown as an internal error, hang `--dry-run`, or have the machine end it for its memory.

    A generator changes options of all components to other types, absurd numbers, long and strange texts, unknown names;
    each configuration is given as flags, as a file, or as a dictionary. At least 60 % reach structuring.
    """
    count = size(60, 10_000)
    rows = planned(0, count, tmp_path)
    assert [row["number"] for row in rows] == list(range(count))
    reached = sum(row["reached"] for row in rows)
    figures(
        configurations=count,
        reached_structuring=reached,
        exit_codes=dict(collections.Counter(str(row["code"]) for row in rows)),
        faults=sum(bool(row["fault"]) for row in rows),
        most_seconds=max(row["seconds"] for row in rows),
        most_bytes=max(row["peak"] for row in rows),
    )
    assert not [row for row in rows if row["fault"]]
    assert reached >= 0.6 * count
    assert {0, 2} <= {row["code"] for row in rows}


def small_configurations(count: int, folder: Path) -> list[list[str]]:
    """Command lines of right configurations, small enough to be run."""
    import importlib.util
    import random

    spec = importlib.util.spec_from_file_location("configurations", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = []
    for number in range(count):
        tables = module.small_tables(random.Random(f"small {number}"))
        place = ["--out", str(folder / f"run-{number}"), "--experts-dir", str(folder / "experts")]
        found.append(["run", "default", *module.as_flags(tables), *place, "--json"])
    return found


@pytest.mark.extended
def test_right_configurations_run_to_their_end_or_say_what_does_not_fit(
    here: Path, ddfw: Callable[..., Any], size: Callable[[int, int], int], figures: Callable[..., None]
) -> None:
    """Components that a dry run calls fit would fail in the run itself, with an internal error."""
    codes: collections.Counter[int] = collections.Counter()
    for words in small_configurations(size(5, 200), here):
        dry, said = ddfw(*words, "--dry-run"), ddfw(*words)
        codes[said.code] += 1
        assert said.code in (0, 2, 5), f"{words}\n{said.err}"
        assert dry.code in (0, said.code), f"{words}\n{dry.err}"
        if said.code == 2:
            said.refused(2)
    figures(run=sum(codes.values()), exit_codes={str(code): n for code, n in codes.items()})
    assert codes[0] >= codes.total() / 2


ABSURD = {
    "a wide network": (["model.width=100000"], 2, "model.width"),
    "a network beyond counting": (["model.width=1000000000000000000"], 2, "model.width"),
    "an integer beyond 64 bits": (["model.width=1" + "0" * 30], 2, "model.width"),
    "an integer of thousands of digits": (["model.width=" + "9" * 4200], 2, "model.width"),
    "an endless network": (["model.name=mlp", "model.depth=1000000000"], 2, "model.depth"),
    "a rate beyond float32": (["experts.lr=1e300"], 2, "experts.lr"),
    "a rate that is no number": (["outer.step_size=nan"], 2, "outer.step_size"),
    "more experts than memory": (["experts.count=1000000000"], 2, "experts.count"),
    "more epochs than memory": (["experts.epochs=1000000000"], 2, "experts.epochs"),
    "more inner steps than memory": (["outer.syn_steps=1000000000000"], 2, "outer.syn_steps"),
    "more segments than memory": (["outer.segments_per_step=1000000000"], 2, "outer.segments_per_step"),
    "more images than memory": (["budget.ipc=1000000000"], 2, "budget.ipc"),
    "more networks than memory": (["eval.networks=1000000000000"], 2, "eval.networks"),
    "an impossible rank": (["param.rank=1000000000000000000"], 2, "param.rank"),
    "a batch of more images than there are": (["outer.batch_syn=1000000000000000000"], 0, ""),
    "many experts without trajectories": (["traj.name=mtt", "experts.count=10000000"], 0, ""),
    "many outer steps": (["outer.steps=1000000000000000000"], 0, ""),
}


@pytest.mark.parametrize("settings, code, word", ABSURD.values(), ids=ABSURD)
def test_a_dry_run_of_absurd_values_answers_with_the_name_of_the_option(
    here: Path, ddfw: Callable[..., Any], tiny: list[str], settings: list[str], code: int, word: str, monkeypatch
) -> None:
    """The answer would be an internal error, or would come when the machine has ended the program for its memory."""
    monkeypatch.setattr("ddfw.forecast.time.MOST_REPEATS", 1)
    said = ddfw(*tiny, *(f"--set={setting}" for setting in settings), "--dry-run", "--json")
    assert said.code == code, said.err
    if code:
        said.refused(code, word)
        assert len(said.err) < 500
