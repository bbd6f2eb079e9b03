"""`ddfw runs`: run directories of version 0.1, copied and changed, as files are what the command reads."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ddfw.cli.main import invoke

STORED = Path(__file__).parents[2] / "fixtures" / "v0_1" / "run"


@pytest.fixture
def folder(tmp_path):
    """Three runs: one finished, one stopped in the folder of a sweep, one damaged; and a file that is none."""
    for number, name in enumerate(("finished", "sweep/trial-0", "damaged")):
        shutil.copytree(STORED, tmp_path / name)
        for path in (tmp_path / name).iterdir():
            os.utime(path, (1_000_000_000 + number, 1_000_000_000 + number))
    (tmp_path / "sweep" / "trial-0" / "summary.json").unlink()
    (tmp_path / "sweep" / "trial-0" / "manifest.json").unlink()
    (tmp_path / "damaged" / "summary.json").write_text('{"rows": [')
    (tmp_path / "notes.txt").write_text("no run")
    return tmp_path


def listed(capsys, folder):
    assert invoke(["runs", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_run_below_is_listed_with_what_became_of_it(folder, capsys):
    """Broken: a run in a sweep's folder is missed, a damaged one hides the others, or figures are not the files'."""
    rows = {Path(row["path"]).relative_to(folder).as_posix(): row for row in listed(capsys, folder)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "finished": "finished",
        "sweep/trial-0": "unfinished",
        "damaged": "damaged",
    }
    row = json.loads((STORED / "summary.json").read_text())["rows"][0]
    assert rows["finished"]["accuracy"] == {key: row[key] for key in ("mean", "std", "n")}
    assert rows["finished"]["seed"] == 5
    assert rows["finished"]["steps"] == {"done": 3, "of": 3}
    assert rows["finished"]["bytes"] == sum(p.stat().st_size for p in STORED.rglob("*") if p.is_file())
    assert rows["sweep/trial-0"]["accuracy"] is None
    assert rows["sweep/trial-0"]["validation"] == pytest.approx(0.0979020979)
    assert "summary.json" in rows["damaged"]["problem"]


def test_the_newest_run_comes_first(folder, capsys):
    """Broken: the run that was just made stands somewhere in a long list."""
    (folder / "damaged" / "summary.json").unlink()
    os.utime(folder / "finished" / "metrics.jsonl")
    assert [Path(row["path"]).name for row in listed(capsys, folder)] == ["finished", "damaged", "trial-0"]


def test_a_run_whose_lock_is_held_is_running(folder, capsys):
    """Broken: a run at work looks like one that was stopped, and somebody removes it."""
    with (folder / "sweep" / "trial-0" / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        states = {Path(row["path"]).name: row["state"] for row in listed(capsys, folder)}
    assert states["trial-0"] == "running"


def test_people_see_a_table_and_a_warning_for_the_damaged_run(folder, capsys):
    """Broken: the table lacks the accuracy, or damage stays unsaid."""
    assert invoke(["runs", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "8.1 ± 0.8 %" in shown.out
    assert "val. 9.8 %" in shown.out
    assert "warning:" in shown.err and "summary.json" in shown.err


def test_an_empty_folder_and_a_missing_one_say_so(tmp_path, capsys):
    """Broken: silence, or an internal error."""
    assert invoke(["runs", str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out
    assert invoke(["runs", str(tmp_path / "gone")]) == 4
    assert "is missing" in capsys.readouterr().err
    assert invoke(["runs", str(STORED / "config.toml")]) == 4
    assert "is a file" in capsys.readouterr().err


def test_listing_and_comparing_load_no_torch():
    """Broken: a list of files takes seconds."""
    code = (
        "import sys; from ddfw.cli.main import invoke; "
        f"assert invoke(['runs', {str(STORED.parent)!r}]) == 0; "
        f"assert invoke(['diff', {str(STORED)!r}, {str(STORED)!r}]) == 0; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
