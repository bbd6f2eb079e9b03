"""Starts of torchrun: two processes on this machine, which talk through the loopback interface."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest


@attrs.frozen
class Ended:
    """A start of torchrun that is over."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        """The lines in which ddfw, and not torchrun, says what is wrong."""
        return [line for line in self.stderr.splitlines() if line.startswith(("error: ", "ddfw: "))]


class Start:
    """A running torchrun with two ranks."""

    def __init__(self, cwd: Path, *arguments: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def torchrun(self) -> int:
        """The process of torchrun itself."""
        return self._process.pid

    def pid(self, rank: int) -> int | None:
        """The process of a rank, None if there is none."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                mine = parent == self._process.pid and f"RANK={rank}".encode() in (
                    (process / "environ").read_bytes().split(b"\0")
                )
            except (OSError, ValueError):  # it ended meanwhile
                continue
            if mine:
                return int(process.name)
        return None

    def running(self) -> bool:
        return self._process.poll() is None

    def end(self, timeout: float) -> Ended:
        """Waits for the end; ends the processes if it does not come."""
        pids = [self.pid(rank) for rank in range(2)]
        try:
            out, err = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for pid in (*pids, self._process.pid):
                if pid is not None:
                    os.kill(pid, 9)
            out, err = self._process.communicate()
            pytest.fail(f"torchrun did not end within {timeout:g} s:\n{out}\n{err}")
        return Ended(self._process.returncode, out, err)


@pytest.fixture
def start_torchrun():
    """`start_torchrun(cwd, *arguments, **environment)` gives a running start."""
    return Start


@pytest.fixture
def torchrun():
    """The same, waited for."""

    def run(cwd: Path, *arguments: str, **environment: str) -> Ended:
        return Start(cwd, *arguments, **environment).end(180)

    return run
