"""Runs the preset's sections in a process of their own, which is replaced when it dies, and yields rows as they come.

A fault of CUDA can end a process or leave its device useless. So this process never touches the device: it only reads
rows from a worker, says what became of it, and gives what is left to the next one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import IO, Any

from attrs import define, field, frozen

from ddfw_plugins.commands.bench.gpu.sections import GPU_SCHEMA, GPU_SECTIONS, LOST

Row = dict[str, Any]
WORKER = (sys.executable, "-P", "-m", "ddfw_plugins.commands.bench.gpu.worker")


@frozen(kw_only=True)
class GpuPreset:
    """The preset with its limits.

    Args:
        seconds: no section starts that would take longer, and one that still runs then is ended.
        pretend: whether to run tiny work on the CPU instead of a GPU.
        names: the sections to run.
        assignments: options of the executor, as users give them to `--set`.
        command: what starts a worker.
    """

    seconds: float
    pretend: bool
    names: tuple[str, ...] = tuple(GPU_SECTIONS)
    assignments: tuple[str, ...] = ()
    command: tuple[str, ...] = WORKER

    def rows(self) -> Generator[Row, None, None]:
        """Runs all sections that fit and yields each row as soon as it is known; the last one says what was left out.

        A section that fails gives an error row, and the others go on.
        """
        watched = _Watched(preset=self, pending=[name for name in GPU_SECTIONS if name in self.names])
        while watched.pending and watched.left() > 0:
            yield from watched.one_worker()
        for name in watched.pending:
            watched.leave_out(name, "", f"no time was left of {self.seconds:g} s")
        yield watched.row("", "end", left_out=watched.left_out, errors=watched.errors, seconds=watched.spent())


@define(kw_only=True)
class _Watched:
    """The sections that are still to be run, and what happened until now."""

    preset: GpuPreset
    pending: list[str]
    left_out: list[Row] = field(factory=list)
    errors: int = 0
    began: float = field(factory=time.monotonic)
    _current: str = ""
    _ended_at_limit: bool = False

    def spent(self) -> float:
        return round(time.monotonic() - self.began, 2)

    def left(self) -> float:
        return self.preset.seconds - (time.monotonic() - self.began)

    def leave_out(self, section: str, case: str, reason: str) -> None:
        self.left_out.append({"section": section, "case": case, "reason": reason})

    def row(self, section: str, kind: str, **facts: Any) -> Row:
        pretend = self.preset.pretend
        return {
            "schema": GPU_SCHEMA, "pretend": pretend, "t": self.spent(), "section": section, "kind": kind, **facts
        }  # fmt: skip

    def one_worker(self) -> Iterator[Row]:
        """Starts a worker, yields its rows, and then what its end means."""
        order = {
            "sections": self.pending,
            "until": time.time() + self.left(),  # the one clock that two processes share
            "pretend": self.preset.pretend,
            "assignments": list(self.preset.assignments),
        }
        self._current = ""
        with (
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
            subprocess.Popen(
                [*self.preset.command, json.dumps(order)],
                stdin=subprocess.PIPE,  # never written to: its end tells the worker that nobody listens any more
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "KINETO_LOG_LEVEL": "99"},  # the profiler talks at every start and stop
                start_new_session=True,  # so that it can be ended together with the runs that it starts
                text=True,
                encoding="utf-8",
            ) as worker,
        ):
            timer = threading.Timer(max(self.left(), 0), self._end, [worker])
            timer.start()
            try:
                assert worker.stdout is not None
                for line in worker.stdout:
                    if line.endswith("\n"):  # not so of the row in the midst of which it was killed
                        yield from self._received(json.loads(line))
                code = worker.wait()
            finally:
                timer.cancel()
                _kill(worker)
            yield from self._explained(code, errors)

    def _end(self, worker: subprocess.Popen[str]) -> None:
        self._ended_at_limit = True
        _kill(worker)

    def _received(self, message: Row) -> Iterator[Row]:
        section = message["section"]
        match message["kind"]:
            case "began":
                self._current = section
                return
            case "left_out":
                self.leave_out(section, message["case"], message["reason"])
                if not message["case"]:
                    self.pending.remove(section)
                return
            case "finished":
                self.pending.remove(section)
                self._current = ""
            case "error":
                self.errors += 1
        yield self.row(**message)

    def _explained(self, code: int, errors: IO[str]) -> Iterator[Row]:
        """An error row if the worker died of itself; what it did not finish is left out or goes to the next one."""
        if self._ended_at_limit:
            if self._current:
                self.leave_out(self._current, "", f"still running after {self.preset.seconds:g} s, ended")
                self.pending.remove(self._current)
        elif code != LOST and (code or self.pending):
            name = self._current or self.pending[0]  # it may die while it loads its libraries
            errors.seek(0)
            said = [line.rstrip() for line in errors.read()[-4000:].splitlines() if line.strip()]
            self.pending.remove(name)
            self.errors += 1
            error = {"class": "WorkerDied", "message": _end_of(code), "traceback": said[-6:]}
            yield self.row(name, "error", case="", given={}, error=error)


def end_with_parent() -> None:
    """Waits in a worker until nobody holds the other end of its standard input, then ends it and what it has started.

    The worker has to lead its process group.
    """
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def _kill(worker: subprocess.Popen[str]) -> None:
    """Ends a worker and whatever it has started."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)


def _end_of(code: int) -> str:
    if code >= 0:
        return f"the process of this section ended with exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"the process of this section was ended by {known.get(-code, f'signal {-code}')}"
