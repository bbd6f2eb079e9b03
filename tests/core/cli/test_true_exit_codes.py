"""An exit code of 0 means that all was written: full disks, closed pipes and damaged files of our own are told."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from attrs import frozen

from ddfw import AbstractObserver, ObserverSession
from ddfw.artifacts import atomic
from ddfw.contracts.observer import ProgressReport, RunStarted, StepReport
from ddfw.errors import DataError
from ddfw.pipeline import runner
from ddfw.pipeline.observers import Announcer
from ddfw_plugins.observers.metrics import Metrics, _Named

STARTED = RunStarted(recipe="r", seed=0, directory=Path("d"), steps=2, experts=1)
STEP = StepReport(step=1, steps=2, loss=0.25, step_size=0.01, start_epoch=0.5, window_high=1, grad_norm_images=2.0)
DISK = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS]


def fail_with(monkeypatch, error):
    def run(*args, **kwargs):
        raise error

    monkeypatch.setattr(runner, "run", run)


@pytest.mark.parametrize("number", DISK)
def test_a_disk_that_takes_no_more_is_74_even_if_nobody_knows_the_file(ddfw, tiny, monkeypatch, number):
    """Broken: a full disk would be called a bug of ours where a library's error names no file."""
    fail_with(monkeypatch, OSError(number, os.strerror(number)))
    ddfw(*tiny).refused(74, os.strerror(number))


def test_a_pipe_that_breaks_elsewhere_is_no_success(ddfw, tiny, monkeypatch):
    """Broken: a run whose worker went away would look finished to a script."""
    fail_with(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    ddfw(*tiny).refused(74, "Broken pipe", "other end")


def in_a_shell(here: Path, words: str) -> subprocess.CompletedProcess[str]:
    command = words.replace("ddfw", f"{sys.executable} -m ddfw")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=here, timeout=120)


@pytest.mark.extended
def test_a_reader_of_standard_output_may_go_away(here):
    """Broken: `ddfw list | head -1` would print errors or fail."""
    done = in_a_shell(here, "ddfw list --json | head -1; echo ${PIPESTATUS[0]}")
    assert done.stdout.split()[-1] == "0" and done.stderr == ""


@pytest.mark.extended
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_standard_output_on_a_full_disk_is_74(here):
    """Broken: a script would take an empty list for the whole one."""
    done = in_a_shell(here, "ddfw list --json > /dev/full")
    assert done.returncode == 74 and done.stderr.count("\n") == 1
    assert "standard output" in done.stderr and "No space left" in done.stderr


@frozen(kw_only=True)
class Failing(AbstractObserver):
    """Fails at a step, with the given error."""

    name: ClassVar[str] = "failing"
    error: Exception

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        error = self.error

        class Session(ObserverSession):
            def step_finished(self, report):
                raise error

        yield Session()


@pytest.mark.parametrize("number", DISK)
def test_an_observer_that_meets_a_full_disk_ends_the_run(tmp_path, number):
    """Broken: the record of a run would end in its middle, and the run would look whole."""
    with Announcer().opened([("failing", Failing(error=OSError(number, "x")))], tmp_path) as announce:
        announce(STARTED)
        with pytest.raises(OSError) as caught:
            announce(STEP)
        assert caught.value.errno == number
        announce(STEP)  # the end can still be told to the others


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        OSError(errno.ECONNREFUSED, "x"),
        PermissionError(errno.EACCES, "x", "/elsewhere/log"),
        OSError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_observer_with_a_fault_of_its_own_is_only_disabled(tmp_path, error, caplog):
    """Broken: an observer that reports to somewhere else could end runs."""
    with Announcer().opened([("failing", Failing(error=error))], tmp_path) as announce:
        announce(STEP)
        announce(STEP)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["observer failing failed and is disabled"]


def test_a_metrics_file_that_cannot_be_written_ends_the_run_and_is_named(tmp_path):
    """Broken: a run would go on without its history."""
    (tmp_path / "metrics.jsonl").mkdir()
    with Announcer().opened([("metrics", Metrics())], tmp_path) as announce:
        with pytest.raises(IsADirectoryError) as caught:
            announce(STARTED)
        assert caught.value.filename == str(tmp_path / "metrics.jsonl")
        announce(ProgressReport(stage="x", done=1, total=1))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_line_of_metrics_without_room_names_file_and_bytes(tmp_path):
    """Broken: nobody would know which disk is full, and how much is missing."""
    with pytest.raises(OSError), open("/dev/full", "ab") as full:
        with pytest.raises(OSError, match=r"7 bytes are needed") as caught:
            _Named(full, encoding="utf-8").write("a line\n")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_errors_of_writes_name_the_file_and_the_bytes_and_leave_the_old_file(tmp_path, monkeypatch):
    """Broken: the error would name a temporary file, or none; or the old file would be gone."""
    path = tmp_path / "a.json"
    atomic.write_text(path, "old")
    for name in ("fsync", "replace"):

        def refuse(*args):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with pytest.raises(OSError, match=r"1,000 bytes are needed") as caught:
                atomic.write_text(path, "x" * 1000)
        assert caught.value.filename == str(path)
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "old"


@pytest.mark.parametrize("what", ["bytes", "tensors"])
def test_a_limit_on_the_size_of_files_is_told_with_the_bytes(tmp_path, what):
    """Broken: EFBIG would be an unknown error of a library, or kill the process."""
    import torch

    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            if what == "bytes":
                atomic.write_bytes(tmp_path / "a", bytes(10_000))
            else:
                atomic.write_tensors(tmp_path / "a", {"x": torch.zeros(2_500)}, {})
        except OSError as error:
            named = error.filename == str(tmp_path / "a") and "bytes are needed" in str(error)
            os._exit(7 if error.errno == errno.EFBIG and named else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"\xff\xfe[run]", b"[run\n", b"\x00", b"[outer]\nsteps = 10000000000000000000\xe9"]
)
@pytest.mark.parametrize("words", ["run", "eval", "report", "show", "diff", "extend", "runs", "export"])
def test_a_damaged_config_of_a_run_is_called_so(ddfw, here, finished, content, words):
    """Broken: it would be called a bug, or the advice would be to remove a good run."""
    shutil.copytree(finished.out, here / "run")
    (here / "run" / "config.toml").write_bytes(content)
    arguments = {
        "run": [*finished.arguments[:-4], "--out", "run", "--experts-dir", finished.experts],
        "diff": ["diff", "run", "run"],
        "extend": ["extend", "run", "--steps", "9", "--experts-dir", finished.experts],
        "export": ["export", "run", "--format", "npz", "--out", "x"],
        "runs": ["runs", "."],
        "eval": ["eval", "run", "-q"],
    }.get(words, [words, "run"])
    said = ddfw(*arguments)
    if words == "export":  # it reads the card
        assert said.code == 0, said.err
        return
    assert said.code == (0 if words in ("report", "runs") else 4), (said.code, said.err)
    if words == "report":
        assert "damaged" in (here / "run" / "report.html").read_text()
    else:
        assert str(Path("run", "config.toml")) in said.err and "rm -r" not in said.err and "remove" not in said.err


def test_text_of_ours_that_is_no_text_is_damaged(tmp_path):
    """Broken: a flipped bit would be an internal error."""
    (tmp_path / "a").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match="damaged: byte 2 is no text"):
        atomic.read_text(tmp_path / "a")
    with pytest.raises(DataError, match="missing"):
        atomic.read_text(tmp_path / "b")
    with pytest.raises(DataError, match="not a file but a folder"):
        atomic.read_text(tmp_path)
