"""Whether to stop now, asked inside of long computations: between two inner steps, batches or pieces of a data set.

A computation that stops has changed nothing: what it would have returned is computed anew the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ddfw.errors import Interrupted

Wanted = Callable[[], bool]

_wanted: ContextVar[Wanted | None] = ContextVar("stop wanted", default=None)
_wanted_in_shares: ContextVar[Wanted | None] = ContextVar("stop wanted in shares", default=None)


@contextmanager
def interruptible(wanted: Wanted, processes: int = 1) -> Iterator[None]:
    """Within the block, and in this thread, computations stop as soon as `wanted` says so.

    Args:
        wanted: asked often, so it has to be quick.
        processes: how many work together; of several, one stops by itself only inside `share_of_work`.
    """
    place = _wanted if processes == 1 else _wanted_in_shares
    token = place.set(wanted)
    try:
        yield
    finally:
        place.reset(token)


@contextmanager
def share_of_work() -> Iterator[None]:
    """Within the block this process does its share; whoever waits for the others afterwards tells them of a stop."""
    token = _wanted.set(_wanted_in_shares.get() or _wanted.get())
    try:
        yield
    finally:
        _wanted.reset(token)


def stop_if_wanted() -> None:
    """Ends the computation if a stop was asked for.

    Raises:
        Interrupted: it was.
    """
    wanted = _wanted.get()
    if wanted is not None and wanted():
        raise Interrupted
