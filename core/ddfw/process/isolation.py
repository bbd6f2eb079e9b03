"""What a process has only one of – random state, warning filters, the environment, PyTorch's defaults – left as it was.

ddfw draws no random numbers but its own, yet libraries that it imports for the first time, and plugins, may change such
things; and what the program around it has set must not change a result.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()
_here = threading.local()
_open = 0
_threads = 0
_put_back: list[Callable[[], None]] = []


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a public function: it neither leaves a trace in the process's global state nor depends on it."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with isolation():
            return function(*args, **kwargs)

    return inner


@contextlib.contextmanager
def isolation() -> Iterator[None]:
    """Within the block PyTorch has its defaults; afterwards the global state is what it was before.

    What belongs to a thread is put back at the end of its block, what belongs to the process at the end of the last
    block of any thread: several may run at once. A block within a block does nothing.
    """
    if getattr(_here, "inside", False):
        yield
        return
    _here.inside = True
    try:
        with _of_the_process(), _of_the_thread():
            yield
    finally:
        _here.inside = False


@contextlib.contextmanager
def _of_the_process() -> Iterator[None]:
    import torch

    global _open, _threads
    with _lock:
        _open += 1
        if _open == 1:
            _threads = torch.get_num_threads()
            _put_back.extend(_watched())
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            while not _open and _put_back:
                _put_back.pop()()


@contextlib.contextmanager
def _of_the_thread() -> Iterator[None]:
    """What a thread has for itself; a new one takes over the number of threads that another run has asked for."""
    import torch

    def as_before() -> None:
        if torch.get_num_threads() != _threads:
            torch.set_num_threads(_threads)

    as_before()
    with contextlib.ExitStack() as stack:
        stack.callback(as_before)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def _watched() -> Iterator[Callable[[], None]]:
    """For each thing that belongs to the process a function that puts it back if it was changed."""
    import numpy
    import torch

    yield _unless_equal(random.getstate, random.setstate)
    yield _unless_equal(numpy.random.get_state, numpy.random.set_state, _comparable)
    yield _unless_equal(torch.get_rng_state, torch.set_rng_state, lambda state: state.numpy().tobytes())
    yield _unless_equal(lambda: list(warnings.filters), _set_filters)
    yield _unless_equal(lambda: dict(os.environ), _set_environment)
    yield _unless_equal(_loggers, _set_loggers)
    default = torch.get_default_dtype()
    if default != torch.float32:
        torch.set_default_dtype(torch.float32)
    yield lambda: torch.set_default_dtype(default)


def _unless_equal(
    get: Callable[[], Any], put: Callable[[Any], object], key: Callable[[Any], object] = lambda state: state
) -> Callable[[], None]:
    """A function that puts back what is there now, unless it is there still; `key` makes two states comparable."""
    before = get()
    seen = key(before)

    def put_back() -> None:
        if key(get()) != seen:
            put(before)

    return put_back


def _comparable(state: Any) -> tuple[object, ...]:
    """NumPy's random state with its array as bytes, since arrays cannot be compared as a whole."""
    return tuple(part.tobytes() if hasattr(part, "tobytes") else part for part in state)


def _set_filters(filters: list[Any]) -> None:
    warnings.resetwarnings()  # so that Python forgets what it concluded from the filters
    warnings.filters[:] = filters  # type: ignore[index]


def _set_environment(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _loggers() -> dict[str, tuple[logging.Logger, int, list[logging.Handler], bool, bool]]:
    """What is set of each logger that exists."""
    known = {"": logging.getLogger(), **logging.Logger.manager.loggerDict}
    found = {name: one for name, one in known.items() if isinstance(one, logging.Logger)}
    return {name: (one, one.level, list(one.handlers), one.propagate, one.disabled) for name, one in found.items()}


def _set_loggers(before: dict[str, tuple[logging.Logger, int, list[logging.Handler], bool, bool]]) -> None:
    for logger, level, handlers, propagate, disabled in before.values():
        if logger.level != level:
            logger.setLevel(level)
        logger.handlers[:], logger.propagate, logger.disabled = handlers, propagate, disabled
