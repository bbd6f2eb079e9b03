"""What a run directory says, also of runs that are unfinished, damaged or no runs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from ddfw.artifacts import atomic, run_seals
from ddfw.artifacts.seal import write_sealed
from ddfw.errors import DataError
from ddfw.pipeline.report.record import RunRecord, read_run, runs_below


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A finished run of the test's own."""
    return Path(shutil.copytree(finished.out, tmp_path / "run"))


def events(*lines: dict) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def step(number: int, loss: float | None, **facts) -> dict:
    return {"event": "step", "step": number, "loss": loss, "step_size": 0.1 * number, **facts}


def selection(number: int, mean: float) -> dict:
    return {
        "event": "evaluated", "split": "validation", "subject": "distilled", "step": number, "mean": mean, "std": 0.1,
        "n": 2,
    }  # fmt: skip


def test_a_finished_run_says_what_its_files_say(finished):
    """Broken: a list, a comparison and a page would each tell something else."""
    found = read_run(finished.out)
    summary = json.loads((finished.out / "summary.json").read_text())
    assert found.state == "finished" and found.summary is not None
    assert found.summary.distilled.mean == summary["rows"][0]["mean"]
    assert found.title == "digits · ipc 1 · lss+mct+soft" and found.steps_done == summary["outer_steps"] == 3
    lines = [json.loads(line) for line in (finished.out / "metrics.jsonl").read_text().splitlines()]
    assert found.curves.loss == {e["step"]: e["loss"] for e in lines if e["event"] == "step"}
    assert [point.step for point in found.curves.validation] == [0, 2, 3]
    assert found.stored_steps == [0, 1, 3]
    matrix = found.confusion
    assert matrix is not None
    right = sum(matrix[i][i] for i in range(10)) / sum(map(sum, matrix))
    assert right == pytest.approx(summary["rows"][0]["mean"], abs=1e-12)


def test_steps_that_were_done_again_stand_once_and_a_void_selection_is_gone(copied, unsealed):
    """Broken: a curve of a resumed run would jump back, one of an extended run would have a point too many."""
    unsealed(copied)
    (copied / "metrics.jsonl").write_text(
        events(
            {"event": "run_started", "first_step": 0},
            *(step(n, 1.0 / n) for n in (1, 2, 3)),
            selection(0, 0.1),
            selection(3, 0.9),
            {"event": "run_started", "first_step": 2, "void_selection": None},
            step(3, 0.5, skipped=True),
            selection(3, 0.3),
            {"event": "run_started", "first_step": 3, "void_selection": 3},
            step(4, None),
        )
        + '{"event": "step", "st'
    )
    curves = read_run(copied).curves
    assert list(curves.loss) == [1, 2, 3, 4] and curves.loss[3] == 0.5 and math.isnan(curves.loss[4])
    assert curves.skipped == (3,) and [(p.step, p.mean) for p in curves.validation] == [(0, 0.1)]


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("summary.json", None, "unfinished"),
        ("summary.json", "{", "damaged"),
        ("summary.json", '{"rows": 3}', "damaged"),
        ("config.toml", "= 3", "damaged"),
        ("config.toml", b"\xff\xfe", "damaged"),
        ("metrics.jsonl", "\x00\xff not json\n[1]\n{}\n", "damaged"),
        ("metrics.jsonl", None, "damaged"),
        ("old metrics.jsonl", "\x00\xff not json\n[1]\n{}\n", "finished"),
        ("old metrics.jsonl", None, "finished"),
        ("eval/full_data.json", None, "damaged"),
        ("manifest.json", None, "damaged"),
    ],
)
def test_a_damaged_or_missing_file_is_told_by_the_state_and_never_by_a_crash(copied, name, content, state, unsealed):
    """Broken: one bad run would hide a whole folder."""
    if name.startswith("old "):
        unsealed(copied)
    path = copied / name.removeprefix("old ")
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = RunRecord(path=copied)
    assert found.state == state
    if state == "finished":
        assert not found.curves.loss and not found.curves.validation


def test_a_run_whose_directory_is_locked_is_running_and_one_that_failed_says_why(copied):
    """Broken: people would remove a run that works."""
    (copied / "summary.json").unlink()
    with atomic.locked(copied, "the run directory", wait=False):
        assert read_run(copied).state == "running"
    manifest = run_seals.read_manifest(copied)
    write_sealed(copied / "manifest.json", {**manifest, "status": "failed", "reason": "the disk is full"})
    assert read_run(copied).state == "failed" and read_run(copied).reason == "the disk is full"


@pytest.mark.parametrize("matrix", [[[1, 2]], [[1, "2"], [0, 1]], [[1, -2], [0, 1]], [[True, 0], [0, 1]], 3, None])
def test_a_matrix_that_is_none_is_no_matrix(copied, matrix, unsealed):
    """Broken: a page would show nonsense as a measurement."""
    unsealed(copied)
    path = copied / "eval" / "distilled.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "confusion": matrix}))
    assert read_run(copied).confusion is None


def test_what_is_no_run_is_refused_with_what_it_is(copied, tmp_path):
    """Broken: a path one folder too high would be an unclear error."""
    for path, words in (
        (tmp_path / "nothing", "is missing"),
        (copied / "config.toml", "is a file"),
        (copied / "synthetic", "an export or a set"),
        (tmp_path, "a folder of 1 run"),
        (copied / "eval", "no run directory"),
    ):
        with pytest.raises(DataError, match=words):
            read_run(path)


def test_runs_are_found_in_folders_of_folders_and_not_in_runs(copied, tmp_path):
    """Broken: a comparison's runs would be missing, or what an extended run keeps of itself be a run of its own."""
    shutil.copytree(copied, tmp_path / "comparison" / "lss" / "seed-0")
    shutil.copytree(copied, copied / "earlier" / "step-000003")
    (tmp_path / ".hidden").mkdir()
    shutil.copytree(copied, tmp_path / ".hidden" / "run")
    found = [record.path.relative_to(tmp_path).as_posix() for record in runs_below(tmp_path)]
    assert found == ["comparison/lss/seed-0", "run"]
    assert [record.name for record in runs_below(tmp_path)] == ["lss/seed-0", "run"]
    assert [record.path.name for record in read_run(copied).earlier] == ["step-000003"]
