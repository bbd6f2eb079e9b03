"""One case after another: each gives a row, whatever happens in it."""

from __future__ import annotations

import gc
import logging
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from attrs import frozen

from ddfw_plugins.commands.bench.gpu.sections import GpuSection
from ddfw_plugins.commands.bench.gpu.stage import Stage

Found = Mapping[str, Any]
T = TypeVar("T")
#: So many messages of libraries stand in a row, and so many characters of each.
SAID, LONGEST = 4, 300


class DeviceLost(Exception):
    """The device does not answer any more after an error; only another process can go on."""


@frozen(kw_only=True)
class Cases:
    """The cases of one section.

    Args:
        section: the section.
        stage: the device, or its stand-in.
        until: the time (seconds since 1970) after which no case starts.
        emit: called with the section's name, the kind of a row, and its facts.
    """

    section: GpuSection
    stage: Stage
    until: float
    emit: Callable[..., None]

    def case(self, title: str, work: Callable[[], Found], *, needs: float = 1.0, **given: Any) -> Found:
        """Does some work and emits the figures that it returns, or its error.

        Args:
            title: the case in words, unique in its section.
            work: returns figures by name.
            needs: seconds that it takes about on a GPU; the case is left out if fewer are left.
            given: options and sizes that make the case what it is.

        Returns:
            The figures; none if it failed or was left out.

        Raises:
            DeviceLost: it failed and left the device useless.
        """
        left = self.until - time.time()
        if left < (0 if self.stage.pretend else needs):
            reason = f"{max(left, 0):.0f} s were left, it takes about {needs:g}"
            self.emit(self.section.name, "left_out", case=title, reason=reason)
            return {}

        def measured() -> Found:
            began = time.monotonic()
            with _messages() as said:
                found = work()
            facts = {"case": title, "given": given, "found": found, "said": said[:SAID]}
            self.emit(self.section.name, "measured", **facts, seconds=time.monotonic() - began)
            return found

        return self.guarded(title, given, measured) or {}

    def guarded(self, title: str, given: Mapping[str, Any], work: Callable[[], T]) -> T | None:
        """Calls a function; if it fails, emits one error row and gives the memory of the device back.

        Raises:
            DeviceLost: it failed and left the device useless.
        """
        try:
            return work()
        except DeviceLost:
            raise
        except Exception as error:
            where = [line.strip() for line in traceback.format_tb(error.__traceback__)[-6:]]
            message = " ".join(str(error).split())[:LONGEST]
            about = {"class": type(error).__name__, "message": message, "traceback": where}
            self.emit(self.section.name, "error", case=title, given=given, error=about)
            del error
        gc.collect()
        if not self.stage.usable():
            raise DeviceLost
        return None


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Collects what is logged or warned of in the block, each message once."""
    found: list[str] = []

    def add(text: str) -> None:
        line = " ".join(text.split())[:LONGEST]
        if line not in found:
            found.append(line)

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            add(record.getMessage())

    root, handler = logging.getLogger(), Collecting(logging.WARNING)
    root.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("default")
            yield found
        for warning in seen:
            add(str(warning.message))
    finally:
        root.removeHandler(handler)
