"""Sends what plugins print to standard error; standard output belongs to what the user asked for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_lock = threading.Lock()
#: What `sys.stdout` was before the first of the blocks that are open now, in any thread.
_before: list[TextIO] = []
_depth = 0


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Has `print` write to standard error inside a `with` block; blocks may be nested, and open in several threads.

    `contextlib.redirect_stdout` would leave the wrong stream where blocks of two threads overlap.
    """
    global _depth
    with _lock:
        if _depth == 0:
            _before.append(sys.stdout)
            sys.stdout = sys.stderr
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                sys.stdout = _before.pop()
