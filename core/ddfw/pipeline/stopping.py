"""Stops a run between two steps, outer or inner, because of a time limit or a signal, and measures its time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, Literal

from ddfw.contracts.executor import Crew
from ddfw.engine.interruption import interruptible
from ddfw.errors import Interrupted, StoppedError

#: Why to stop: the number of a signal, or "time" if the time limit is reached.
Reason = int | Literal["time"]

_STAGES = ("experts", "distill", "evaluate")
#: Seconds past the time limit that the first expert, the first outer step and the evaluation may take.
_FIRST_S = 5.0


def now() -> float:
    """Seconds of a monotonic clock, which is never set back."""
    return time.monotonic()


class Stopping:
    """Whether a run should stop, asked between its steps; all processes of a crew get the same answer.

    Args:
        crew: the processes of the run; all of them must ask at the same points of the run.
        seconds: time limit in seconds from now, None for none.
    """

    def __init__(self, crew: Crew, seconds: float | None = None) -> None:
        self._crew = crew
        self._deadline = None if seconds is None else now() + seconds
        self._first_s = 0.0
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def timed(self) -> bool:
        """Whether there is a time limit."""
        return self._deadline is not None

    @property
    def time_is_over(self) -> bool:
        """Whether the deadline has passed in this process."""
        return self._deadline is not None and now() >= self._deadline

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block, computations raise `Interrupted` between two inner steps once there is a reason to stop.

        Until `progressed` is called in the block, they go on for five seconds after the time limit, so that a run which
        is started again and again with a short limit gets on.
        """
        self._first_s = _FIRST_S
        with interruptible(self._urgent, self._crew.size):
            yield

    @contextlib.contextmanager
    def ending(self, where: str) -> Iterator[None]:
        """Within the block, computations end once the time limit is reached, and the block with a StoppedError."""
        try:
            with self.interrupting():
                yield
        except Interrupted:
            raise StoppedError(f"time is over: stopped {where}; the same command goes on from there") from None

    def progressed(self) -> None:
        """Notes that an expert or an outer step is finished."""
        self._first_s = 0.0

    def _urgent(self) -> bool:
        return self._signal is not None or (self._deadline is not None and now() >= self._deadline + self._first_s)

    def wanted(self) -> Reason | None:
        """The reason to stop now, None to continue; if both a signal and the time limit are reasons, the signal."""
        mine: Reason | None = self._signal
        if mine is None and self.time_is_over:
            mine = "time"
        if self._crew.size == 1:
            return mine
        reasons: list[Reason] = [reason for reason in self._crew.gather(mine) if reason is not None]
        return next((r for r in reasons if isinstance(r, int)), reasons[0] if reasons else None)

    def stop(self, reason: Reason, message: str) -> None:
        """Stops the run: raises an error if the time limit is reached, or raises the signal again with its own handler.

        Args:
            reason: the reason, as `wanted` returned it.
            message: text of the error if the time limit is reached.

        Raises:
            StoppedError: the time limit is reached.
            KeyboardInterrupt: the reason is SIGINT. Other handlers may raise other exceptions.
        """
        if reason == "time":
            raise StoppedError(message)
        self._signal = None
        self._put_back()
        signal.raise_signal(reason)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, the first SIGTERM or SIGINT only asks the run to stop; a second one has its usual effect.

        In threads other than the main one signals keep their usual effect, since Python allows handlers there only.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                handler = signal.getsignal(number)
                if handler not in (None, signal.SIG_IGN):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        try:
            yield
        finally:
            self._put_back()
        if self._signal is not None:  # it came after the last call of `wanted`
            late, self._signal = self._signal, None
            signal.raise_signal(late)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._put_back()
        if self._crew.size > 1:
            return  # no message, since a launcher also sends signals when another process has ended
        with contextlib.suppress(OSError):  # not sys.stderr, which the signal may have interrupted in a write
            os.write(2, b"\n" * os.isatty(2) + b"stopping at the next inner step; once more stops at once\n")

    def _put_back(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


class StageTimer:
    """Measures the seconds of each stage, summed over the first start of a run and all resumptions.

    Args:
        before: seconds of each stage before the run was resumed, {} for a new run.
    """

    def __init__(self, before: Mapping[str, float]) -> None:
        self._seconds = dict(before)
        self._running: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds that the block takes to a stage (`experts`, `distill`, `evaluate`)."""
        self._running[stage] = now()
        try:
            yield
        finally:
            self._seconds = self.seconds
            del self._running[stage]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, including the time so far of a stage that is still running."""
        at, found = now(), dict(self._seconds)
        for stage, began in self._running.items():
            found[stage] = found.get(stage, 0.0) + at - began
        return dict(sorted(found.items(), key=lambda item: _STAGES.index(item[0])))
