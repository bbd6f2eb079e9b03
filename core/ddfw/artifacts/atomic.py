"""Atomic file writing: every file is written under a temporary name, synced to disk and renamed over the target."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfw.artifacts.opening import MAX_JSON, MAX_TEXT, opened, parse_json, read_whole
from ddfw.artifacts.temporaries import temporary_beside, tidy, tidy_below
from ddfw.artifacts.tensor_file import METADATA_KEY, load_tensors, serialised
from ddfw.errors import DataError, DirectoryInUseError

if TYPE_CHECKING:
    from torch import Tensor

#: Name of the file in a folder that its lock is on.
LOCK = ".lock"
#: What the system says when there is no room: a full disk, a quota, a limit on the size of files.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_bytes(path: Path, data: bytes) -> str:
    """Writes a file atomically: a crash leaves the old file or the whole new one.

    The file gets the permissions that an ordinary new file would get under the user's umask.

    Returns:
        The sha256 of the content, in hexadecimal.
    """
    return _write(path, (data,), len(data))


@contextlib.contextmanager
def writing(path: Path, size: int) -> Iterator[None]:
    """Makes errors of the system in the block name what is written; they often name no file, or a temporary one.

    Args:
        path: the file or folder.
        size: the bytes that it needs; 0 if they are not known.

    Raises:
        OSError: of the same number as in the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        need = f" ({size:,} bytes are needed)" if size and error.errno in _NO_ROOM else ""
        raise OSError(error.errno, f"{os.strerror(error.errno)}{need}", str(path)) from error


def _write(path: Path, pieces: Iterable[bytes | memoryview], size: int) -> str:
    """Writes the pieces to a temporary file beside `path`, renames it to `path`, and returns the content's sha256."""
    with writing(path, size):
        return _replace(path, pieces)


def _replace(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    tidy(path.parent, target=path.name)
    temporary, digest = temporary_beside(path), hashlib.sha256()
    try:
        with temporary.open("xb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> str:
    """Writes UTF-8 text atomically and returns the sha256 of the file."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> str:
    """Writes indented JSON atomically, keys in the mapping's order, and returns the file's sha256.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Writes a safetensors file atomically, tensors in the order of their names.

    Args:
        path: the file to write.
        tensors: named tensors on any device.
        metadata: JSON-able values, stored in the file's header as one JSON text.

    Returns:
        The sha256 of the file, in hexadecimal.
    """
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    size = sum(tensor.nbytes for tensor in tensors.values()) + len(text)
    return _write(path, serialised(tensors, {METADATA_KEY: text}), size)


def file_sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, sha256: str, limit: int | None = None) -> None:
    """Checks a file against the sha256 that was recorded when it was written.

    Args:
        path: the file.
        sha256: its hash, in hexadecimal.
        limit: largest size in bytes, None: any.

    Raises:
        DataError: the file is missing, was changed or is too large.
    """
    with opened(path, limit) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(f"{path} is damaged: its sha256 is {found[:12]}…, expected {sha256[:12]}…")


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Reads all tensors of a safetensors file after checking its header and its sha256.

    Raises:
        DataError: the file is missing, was changed or is not a safetensors file.
    """
    verify(path, sha256)
    return load_tensors(path)


def read_text(path: Path) -> str:
    """Reads a file of UTF-8 text that ddfw wrote.

    Raises:
        DataError: it is no plain file, too large, or no such text.
    """
    try:
        return read_whole(path, MAX_TEXT).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: byte {error.start} is no text in UTF-8") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        DataError: the file is missing, is not JSON, is too large, or holds something other than an object.
    """
    try:
        value = parse_json(read_whole(path, MAX_JSON))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


@contextlib.contextmanager
def locked(folder: Path, what: str, *, wait: bool) -> Iterator[None]:
    """Holds a folder's lock inside a `with` block: an advisory lock on `<folder>/.lock`, which names the process.

    Whoever gets the lock removes the temporary files that killed processes left in the folder and below it. The lock is
    released at the end of the block, or when the process ends.

    Args:
        folder: an existing folder.
        what: name of the locked thing in the error message, for example "run directory".
        wait: whether to wait while another process holds the lock.

    Raises:
        DirectoryInUseError: another process holds the lock and `wait` is false; the message says which one.
    """
    with _lock(folder / LOCK, wait=wait) as file:
        if file is None:
            raise DirectoryInUseError(
                f"{what} {folder} is in use by {holder(folder / LOCK)}; wait for it or choose another --out"
            )
        _name_holder(file)
        tidy_below(folder, _alone_in)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)  # nobody holds it any more, and what lies in the folder depends on no process


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Claims a piece of work inside a `with` block: yields whether it is this process's, by a lock on a file.

    The file names the process, and is removed at the end of the block. A process that ends holds no claim any more.

    Args:
        path: the file, in a folder that exists.
    """
    with _lock(path, wait=False) as file:
        if file is None:
            yield False
            return
        _name_holder(file)
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def _name_holder(file: int) -> None:
    # Written before the rest is cut off, so that another process never reads an empty file.
    said = f"{os.getpid()} {socket.gethostname()}\n".encode()
    with contextlib.suppress(OSError):  # a full disk: the lock is held all the same
        os.ftruncate(file, os.pwrite(file, said, 0))


@contextlib.contextmanager
def _lock(path: Path, *, wait: bool) -> Iterator[int | None]:
    """Yields the descriptor of a file's lock, held; None while another process holds it and `wait` is false."""
    import fcntl

    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            held, there = False, False
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                held = True
            # The holder before may have removed the file or its folder, and another process may have made it anew.
            with contextlib.suppress(FileNotFoundError):
                there = os.path.samestat(os.fstat(file), os.stat(path))
            # Outside of all handlers, or one of them would take an error of the block for its own.
            if there or not held:
                yield file if held else None
                return
        finally:
            os.close(file)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Whether no other process holds the lock of a folder below a locked one, which may have none; held meanwhile."""
    if not (folder / LOCK).exists():
        yield True
        return
    with _lock(folder / LOCK, wait=False) as file:
        yield file is not None


def tidy_unless_locked(folder: Path) -> None:
    """Removes what killed processes left unfinished in a folder and below it, unless a process holds its lock."""
    with contextlib.suppress(OSError), _alone_in(folder) as alone:
        if alone:
            tidy_below(folder, _alone_in)


def holder(path: Path) -> str:
    """The process that holds the lock on a file, as the file names it."""
    with contextlib.suppress(OSError, UnicodeDecodeError, DataError), opened(path) as file:
        if match := re.fullmatch(r"(\d{1,10}) ([\w.-]{1,64})\n", file.read(100).decode("ascii")):
            return f"process {match[1]} on {match[2]}"
    return "another process"


def require_room(folder: Path) -> None:
    """Makes a folder where another one shall lie later, and removes it; nothing is done where that one is there.

    Raises:
        OSError: no folder can be made there.
    """
    try:
        if folder.exists():
            return
        nearest = next(p for p in folder.absolute().parents if p.exists())
        tidy(nearest, target=folder.name)
        trial = temporary_beside(nearest / folder.name)
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        raise OSError(error.errno, f"no folder can be made there ({error.strerror})", str(folder)) from error
