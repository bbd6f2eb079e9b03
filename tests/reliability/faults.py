"""A fault at a chosen operation on files: each create, write, fsync, rename, mkdir and remove below a folder counts.

Each attempt runs in a child process of its own, forked from this one, so that nothing is imported again. The child
counts its operations; at a chosen number it meets an error of the system, or is killed where it stands:

    for fault in at_each_operation(command, folder, action=errno.ENOSPC, most=200):
        fault.operation   # number, kind and path
        fault.ended       # exit code (negative: killed by that signal), what was printed

What is counted are the calls that ddfw and its libraries make in Python. Of compiled code, safetensors' `save_file`
is replaced by one that writes the same bytes in Python.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import os
import signal
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import attrs

#: The kinds that a full disk can refuse, and those at which a process can be killed.
WRITING = ("create", "write", "fsync", "rename", "mkdir", "link")
ALL = (*WRITING, "remove")
#: As action: the process is killed at the operation, as by `kill -9`.
KILL = "kill"


@attrs.frozen
class Operation:
    """One operation on a file.

    Args:
        number: its place among those that are counted, from 0.
        kind: create, write, fsync, rename, mkdir, link or remove.
        path: the file's absolute path; of a rename the new one.
    """

    number: int
    kind: str
    path: str


@attrs.frozen
class Ended:
    """How a child process ended.

    Args:
        code: its exit code, or the signal's number with a minus.
        out: what it printed on standard output, empty if it was killed.
        err: what it printed on standard error, empty if it was killed.
        operations: what it counted, up to and with the one that failed; of a killed child none.
    """

    code: int
    out: str = ""
    err: str = ""
    operations: tuple[Operation, ...] = ()


@attrs.frozen
class Fault:
    """An operation that failed, and how the process ended after it."""

    operation: Operation
    ended: Ended


def command_line(arguments: Collection[object]) -> Callable[[], int]:
    """A call of ddfw's command line, to run in a child."""
    words = [str(word) for word in arguments]

    def call() -> int:
        from ddfw.cli.main import invoke

        return invoke(words)

    return call


def unbroken(call: Callable[[], int], folder: Path, kinds: Collection[str] = WRITING) -> Ended:
    """Runs `call` in a child without a fault; its operations below the folder are counted."""
    return _forked(call, folder, kinds, None, KILL, lasting=False)


def broken_at(
    call: Callable[[], int],
    folder: Path,
    number: int,
    action: int | str,
    *,
    kinds: Collection[str] = WRITING,
    lasting: bool = False,
) -> Ended:
    """Runs `call` in a child whose operation `number` fails with the errno `action`, or at which it is killed.

    A write is half done before it fails, as on a disk that fills up. If the fault is lasting, all later operations
    fail too.
    """
    return _forked(call, folder, kinds, number, action, lasting)


def at_each_operation(
    call: Callable[[], int],
    folder: Path,
    action: int | str,
    most: int,
    *,
    kinds: Collection[str] = WRITING,
    lasting: bool = False,
    before: Callable[[], object] = lambda: None,
) -> Iterator[Fault]:
    """Runs `call` again and again, each time with a fault at another operation.

    Args:
        call: what a child does; it returns an exit code.
        folder: operations on files below it count.
        action: an errno that the operation fails with, or KILL.
        most: so many of the operations are tried, spread evenly over all of them.
        kinds: the kinds of operations that count.
        lasting: whether all later operations fail too.
        before: makes the folder what it is before each attempt; it also precedes the one that only counts.
    """
    before()
    counted = unbroken(call, folder, kinds)
    assert counted.code == 0, counted.err
    total = len(counted.operations)
    for number in sorted({place * total // min(most, total) for place in range(min(most, total))}):
        before()
        ended = broken_at(call, folder, number, action, kinds=kinds, lasting=lasting)
        yield Fault(counted.operations[number], ended)


def _forked(
    call: Callable[[], int],
    folder: Path,
    kinds: Collection[str],
    number: int | None,
    action: int | str,
    lasting: bool,
) -> Ended:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(call, _Counter(folder.resolve(), frozenset(kinds), number, action, lasting), writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Ended(-os.WTERMSIG(status))
    code, out, err, operations = json.loads(told)
    return Ended(code, out, err, tuple(Operation(*operation) for operation in operations))


def _child(call: Callable[[], int], counter: _Counter, pipe: int) -> None:
    """What the forked process does: it never returns."""
    out, err = io.StringIO(), io.StringIO()
    code = 70
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), counter.watching():
            try:
                code = call()
            except BaseException:
                err.write(traceback.format_exc())
        with os.fdopen(pipe, "wb") as file:
            operations = [(o.number, o.kind, o.path) for o in counter.operations]
            file.write(json.dumps((code, out.getvalue(), err.getvalue(), operations)).encode())
    finally:
        os._exit(0)


class _Counter:
    """Numbers the operations of this process, and lets one of them fail."""

    def __init__(
        self, folder: Path, kinds: frozenset[str], number: int | None, action: int | str, lasting: bool
    ) -> None:
        self.operations: list[Operation] = []
        self._folder = f"{folder}{os.sep}"
        self._kinds = kinds
        self._number = number
        self._action = action
        self._lasting = lasting
        self._halved = False

    def meets(self, kind: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """Counts an operation; at the chosen number it raises OSError or kills the process.

        Args:
            kind: its kind.
            path: the file.
            half: does half of it, before the process is killed.
        """
        if kind not in self._kinds or not f"{path}{os.sep}".startswith(self._folder):
            return
        operation = Operation(len(self.operations), kind, path)
        self.operations.append(operation)
        if self._number is None or operation.number < self._number:
            return
        if operation.number > self._number and not self._lasting:
            return
        if isinstance(self._action, int):
            raise OSError(self._action, os.strerror(self._action), path)
        half()
        os.kill(os.getpid(), signal.SIGKILL)

    def takes_half(self, path: str) -> bool:
        """Whether a disk that is about to be full takes a part of a write, before it refuses the rest."""
        due = len(self.operations) == self._number and isinstance(self._action, int) and not self._halved
        if due and "write" in self._kinds and path.startswith(self._folder):
            self._halved = True
            return True
        return False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Replaces the functions by which files are changed, inside the block."""
        real = {name: getattr(os, name) for name in _OF_OS}
        real_open = io.open
        saved = _safetensors()
        for name, (kind, place) in _OF_OS.items():
            setattr(os, name, self._counted(real[name], kind, place))
        os.open, opened = self._os_open(os.open), os.open
        io.open = builtins.open = self._io_open(real_open)
        if saved is not None:
            import safetensors.torch

            safetensors.torch.save_file = _save_file
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(os, name, function)
            os.open = opened
            io.open = builtins.open = real_open
            if saved is not None:
                safetensors.torch.save_file = saved

    def _counted(self, function: Callable[..., Any], kind: str, place: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = _path(args[place], kwargs.get("dir_fd"))
            # The system refuses to make a folder that is there before it needs room for it.
            if kind != "mkdir" or not os.path.lexists(path):
                self.meets(kind, path)
            return function(*args, **kwargs)

        return call

    def _os_open(self, function: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_CREAT:
                self.meets("create", _path(path, kwargs.get("dir_fd")))
            return function(path, flags, *args, **kwargs)

        return call

    def _io_open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        counter = self

        class Raw(io.FileIO):
            """A file whose writes are counted as the system sees them."""

            def write(self, data: Any) -> int:
                view, path = memoryview(data).cast("B"), _path(self.fileno())
                if len(view) > 1 and counter.takes_half(path):
                    return super().write(view[: len(view) // 2])
                counter.meets("write", path, lambda: super(Raw, self).write(view[: len(view) // 2]))
                return super().write(view)

            def truncate(self, size: int | None = None) -> int:
                counter.meets("write", _path(self.fileno()))
                return super().truncate(size)

        def call(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            changes = set(mode) & set("wax+")
            if isinstance(file, int) or not changes or kwargs.get("opener") is not None:
                return function(file, mode, buffering, *args, **kwargs)
            path = _path(file)
            if not os.path.exists(path):
                counter.meets("create", path)
            raw = Raw(file, "".join(c for c in mode if c in "rwax+"))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            text = io.TextIOWrapper(buffered, *args, line_buffering=buffering == 1, **kwargs)
            text.mode = mode
            return text

        return call


#: Functions of `os` that change files: the kind of each, and which argument is the path (or a file's number).
_OF_OS = {
    "fsync": ("fsync", 0),
    "replace": ("rename", 1),
    "rename": ("rename", 1),
    "mkdir": ("mkdir", 0),
    "link": ("link", 1),
    "unlink": ("remove", 0),
    "remove": ("remove", 0),
    "rmdir": ("remove", 0),
    "write": ("write", 0),
    "sendfile": ("write", 0),
}


def _path(file: Any, folder: int | None = None) -> str:
    """The absolute path of a file that is given by its name or its number; "" for what is no file with a name."""
    if isinstance(file, int):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{file}")
        return ""
    start = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
    path = os.path.join(start, os.fsdecode(os.fspath(file)))
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _safetensors() -> Callable[..., None] | None:
    try:
        from safetensors.torch import save_file
    except ImportError:
        return None
    return save_file


def _save_file(
    tensors: dict[str, Any], filename: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """As safetensors' own, in Python: the file is its owner's only, and errors are those of safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    data = save(tensors, metadata=metadata)
    try:
        with open(filename, "wb", buffering=0) as file:
            os.chmod(filename, 0o600)
            left = memoryview(data)
            while left:  # in two writes; a disk that fills up takes a part of one
                left = left[file.write(left[: max(len(data) // 2, 1)]) :]
    except OSError as error:
        raise SafetensorError(
            f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
        ) from error
