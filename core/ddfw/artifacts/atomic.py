"""Atomic file writing: every file is written under a temporary name, synced to disk and renamed over the target."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ddfw.artifacts.opening import MAX_JSON, opened, parse_json, read_whole
from ddfw.artifacts.tensor_file import METADATA_KEY, load_tensors
from ddfw.errors import DataError, DirectoryInUseError

if TYPE_CHECKING:
    from torch import Tensor


def write_bytes(path: Path, data: bytes) -> str:
    """Writes a file atomically: a crash leaves the old file or the whole new one.

    The file gets the permissions that an ordinary new file would get under the user's umask.

    Returns:
        The sha256 of the content, in hexadecimal.
    """
    with _replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path`, then renames it to `path`, or removes it if the block raised."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # 0666 is masked by the umask, as for any file that a program creates.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        with temporary.open("rb") as file:
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
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    with _replacing(path) as temporary:
        mode = temporary.stat().st_mode
        try:
            # `save` would need two more copies of all tensors in memory.
            save_file(ready, temporary, metadata={METADATA_KEY: text})
            temporary.chmod(mode)  # save_file creates the file anew, readable by its owner only
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        digest = file_sha256(temporary)
    return digest


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
    """Holds a folder's lock inside a `with` block: an advisory lock on `<folder>/.lock`.

    The lock is released at the end of the block, or when the process ends.

    Args:
        folder: an existing folder.
        what: name of the locked thing in the error message, for example "run directory".
        wait: whether to wait while another process holds the lock.

    Raises:
        DirectoryInUseError: another process holds the lock and `wait` is false.
    """
    import fcntl

    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise DirectoryInUseError(
                f"{what} {folder} is in use by another process; wait for it or choose another --out"
            ) from None
        yield


def require_room(folder: Path) -> None:
    """Makes a folder where another one shall lie later, and removes it; nothing is done where that one is there.

    Raises:
        OSError: no folder can be made there.
    """
    try:
        if folder.exists():
            return
        nearest = next(p for p in folder.absolute().parents if p.exists())
        with TemporaryDirectory(prefix=".", suffix=".tmp", dir=nearest):
            pass
    except OSError as error:
        raise OSError(error.errno, f"no folder can be made there ({error.strerror})", str(folder)) from error
