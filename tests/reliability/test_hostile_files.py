"""Files from strangers: whatever is in them, they are read soundly or refused in words, fast and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("hostile_files.py")
#: Memory that one hostile file may take, and seconds.
MEGABYTES, SECONDS = 200, 10
GROUPS = ("headers", "npz", "others")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read in /proc"
)


@pytest.fixture(scope="module")
def told(size, tmp_path_factory):
    """What a process that reads every hostile file says of each group of them."""
    counts = {"headers": size(120, 20_000), "npz": size(30, 1_000), "others": size(60, 400)}
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), json.dumps(counts)],
        cwd=folder,  # where relative names of a hostile file would lead
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=size(120, 3600),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("group", GROUPS)
def test_hostile_files_are_refused_in_our_own_words_or_read_soundly(told, figures, group):
    """Broken: a stranger's file could end ddfw with a traceback, or its NaN would enter a computation."""
    found = told[group]
    kept = ("cases", "calls", "read", "refused", "num_foreign", "slowest_s", "slowest", "peak_mb", "peak")
    figures(group=group, **{key: found[key] for key in kept})
    assert found["foreign"] == [] and found["num_foreign"] == 0
    assert found["refused"] > found["cases"] / 4 and found["read"] > 0


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_in_a_hostile_file_is_executed_and_nothing_is_written_elsewhere(told, group):
    """Broken: a pickle, a picture of another format or an archive could run code or place files."""
    assert told[group]["canaries"] == []


@pytest.mark.parametrize("group", GROUPS)
def test_a_hostile_file_takes_little_memory_and_time(told, group):
    """Broken: six megabytes could unpack to six gigabytes, and a pipe or a file without end could hang a command."""
    assert told[group]["peak_mb"] < MEGABYTES, told[group]["peak"]
    assert told[group]["slowest_s"] < SECONDS, told[group]["slowest"]
