"""Stopping in order, between two outer steps: because time is over, or because a signal came."""

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
from ddfw.errors import StoppedError

#: Why to stop: the number of a signal, or that time is over.
Reason = int | Literal["time"]

_STAGES = ("experts", "distill", "evaluate")


def now() -> float:
    """Seconds of a clock that is never put back."""
    return time.monotonic()


class Stopping:
    """Whether a run should stop, asked between its steps; all processes of a crew get the same answer.

    Args:
        crew: everybody asks at the same places.
        seconds: from now until time is over, None for never.
    """

    def __init__(self, crew: Crew, seconds: float | None = None) -> None:
        self._crew = crew
        self._deadline = None if seconds is None else now() + seconds
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def timed(self) -> bool:
        """Whether there is a time to look at."""
        return self._deadline is not None

    @property
    def time_is_over(self) -> bool:
        """Of this process alone."""
        return self._deadline is not None and now() >= self._deadline

    def wanted(self) -> Reason | None:
        """Why to stop now; a signal comes before the time."""
        mine: Reason | None = self._signal
        if mine is None and self.time_is_over:
            mine = "time"
        if self._crew.size == 1:
            return mine
        reasons: list[Reason] = [reason for reason in self._crew.gather(mine) if reason is not None]
        return next((r for r in reasons if isinstance(r, int)), reasons[0] if reasons else None)

    def stop(self, reason: Reason, message: str) -> None:
        """Stops: raises, or does what the signal does where nobody listens for it.

        Args:
            reason: from `wanted`.
            message: for a stop because time is over.

        Raises:
            StoppedError: time is over.
            KeyboardInterrupt: or whatever else the signal's own handler raises.
        """
        if reason == "time":
            raise StoppedError(message)
        self._signal = None
        self._put_back()
        signal.raise_signal(reason)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Until the end of the block, the first SIGTERM or SIGINT is noted; a second one does what it always does.

        Outside the main thread, which alone can set handlers, nothing changes.
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
        if self._signal is not None:  # it came after the last look
            late, self._signal = self._signal, None
            signal.raise_signal(late)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._put_back()
        if self._crew.size > 1:
            return  # a launcher also sends signals because another process is gone
        with contextlib.suppress(OSError):  # no stream: it may be in the middle of a write
            os.write(2, b"\n" * os.isatty(2) + b"stopping after this step; once more stops at once\n")

    def _put_back(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


class StageTimer:
    """Seconds of each stage, over all parts of a run.

    Args:
        before: seconds of earlier parts.
    """

    def __init__(self, before: Mapping[str, float]) -> None:
        self._seconds = dict(before)
        self._running: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds of the block to a stage."""
        self._running[stage] = now()
        try:
            yield
        finally:
            self._seconds = self.seconds
            del self._running[stage]

    @property
    def seconds(self) -> dict[str, float]:
        """By stage, with those of a stage that is not over."""
        at, found = now(), dict(self._seconds)
        for stage, began in self._running.items():
            found[stage] = found.get(stage, 0.0) + at - began
        return dict(sorted(found.items(), key=lambda item: _STAGES.index(item[0])))
