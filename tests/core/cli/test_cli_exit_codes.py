"""Each kind of failure has its exit code, and each is told in a few lines."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal

import pytest

from ddfw.errors import DataError, DdfwError, DirectoryInUseError, DivergedError, PluginError
from ddfw.pipeline import runner


def fail_with(monkeypatch, error):
    def run(*args, **kwargs):
        raise error

    monkeypatch.setattr(runner, "run", run)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DdfwError("it failed"), 1),
        (DirectoryInUseError("it failed"), 1),
        (PluginError("it failed"), 3),
        (DataError("it failed"), 4),
        (DivergedError("it failed", step=3), 5),
    ],
    ids=lambda v: type(v).__name__,
)
def test_each_error_of_ours_has_its_code_and_its_own_text(ddfw, tiny, monkeypatch, error, code):
    """Broken: scripts could not tell missing data from a diverged run."""
    fail_with(monkeypatch, error)
    assert ddfw(*tiny).refused(code) == "error: it failed\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_disk_that_is_full_or_broken_is_an_input_output_error(ddfw, tiny, monkeypatch, number):
    """Broken: a full disk would be reported as a bug of ddfw."""
    fail_with(monkeypatch, OSError(number, os.strerror(number), "some/file"))
    ddfw(*tiny).refused(74, os.strerror(number), "some/file")


def test_ctrl_c_is_130_and_sigterm_75(ddfw, tiny, monkeypatch):
    """Broken: a queue system would not know that a run can be resumed."""
    fail_with(monkeypatch, KeyboardInterrupt())
    ddfw(*tiny).refused(130, "interrupted")
    before = signal.getsignal(signal.SIGTERM)

    def run(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal did not stop the run")

    monkeypatch.setattr(runner, "run", run)
    ddfw(*tiny).refused(75, "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_is_told_apart_where_a_library_makes_a_plain_interrupt_of_it(ddfw, tiny, monkeypatch):
    """Broken: a signal that comes within a call of Ray's would pass for Ctrl-C, and a queue would not go on."""

    def run(*args, **kwargs):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", run)
    ddfw(*tiny).refused(75, "stopped by SIGTERM")


def test_a_bug_of_ours_is_70_with_its_place_and_the_whole_story_only_on_request(ddfw, tiny, monkeypatch):
    """Broken: users would meet pages of traceback, or developers would have none."""
    fail_with(monkeypatch, ZeroDivisionError("division\nby zero " + "x" * 5000))
    short = ddfw(*tiny)
    assert short.code == 70 and "internal error: ZeroDivisionError: division by zero" in short.err
    assert len(short.err.splitlines()) <= 6 and "Traceback" not in short.err and len(short.err) < 1500
    assert "test_cli_exit_codes.py" in short.err
    assert "Traceback" in ddfw("--traceback", *tiny).err


def test_a_run_that_diverges_exits_with_5_and_keeps_what_was_learned(ddfw, tiny, here):
    """Broken: a diverged run would look finished, or hours of learning would be lost."""
    said = ddfw(*tiny, "--out", "run", "--experts-dir", "experts", "--set", "outer.step_size=1e4", "--json")
    assert said.code == 5 and "Traceback" not in said.err and "step" in said.err
    assert said.events[-1]["event"] == "run_finished" and said.events[-1]["status"] == "diverged"
    assert not (here / "run" / "summary.json").exists()
    assert (here / "run" / "synthetic" / "card.json").is_file()
    again = ddfw(*tiny, "--out", "run", "--experts-dir", "experts", "--set", "outer.step_size=1e4", "--json")
    assert again.code == 5


def test_a_set_kept_from_a_run_that_diverged_in_a_selection_says_after_how_many_steps(ddfw, tiny, here):
    """Broken: the card would call tensors of a later step those of the start."""
    sets = ("outer.step_size=0.02", "outer.step_size_lr=1e9", "eval.every=1")
    said = ddfw(*tiny, "--out", "run", "--experts-dir", "experts", "--json", *(f"--set={s}" for s in sets))
    assert said.code == 5, said.err
    steps = [e for e in said.events if e["event"] == "step"]
    card = json.loads((here / "run" / "synthetic" / "card.json").read_text())
    assert len(steps) == 1
    assert (card["step_size"], card["selected"]["step"]) == (steps[0]["step_size"], 1)


def test_help_and_version_are_fine_everywhere(ddfw):
    """Broken: asking for help would be an error."""
    assert ddfw("--version").code == 0
    for command in ((), ("run",), ("eval",), ("list",), ("describe",), ("plugins",), ("experts",), ("experts", "rm")):
        said = ddfw(*command, "--help")
        assert said.code == 0 and said.out.startswith("Usage: ddfw") and said.err == ""
