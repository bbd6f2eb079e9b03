"""Atomic file writing: every file is written under a temporary name, synced to disk and renamed over the target."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ddfw.errors import DataError, DirectoryInUseError

if TYPE_CHECKING:
    from torch import Tensor

#: What the system says when there is no room: a full disk, a quota, a limit on the size of files.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: The only metadata key of our safetensors files, because several keys would be written in a random order.
METADATA_KEY = "ddfw"


def write_bytes(path: Path, data: bytes) -> str:
    """Writes a file atomically: a crash leaves the old file or the whole new one.

    The file gets the permissions that an ordinary new file would get under the user's umask.

    Returns:
        The sha256 of the content, in hexadecimal.
    """
    with _replacing(path, len(data)) as temporary, temporary.open("wb") as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


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


@contextlib.contextmanager
def _replacing(path: Path, size: int) -> Iterator[Path]:
    """Yields a temporary file beside `path`, then renames it to `path`, or removes it if the block raised."""
    with writing(path, size), _renamed(path) as temporary:
        yield temporary


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Path]:
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
    with _replacing(path, sum(tensor.nbytes for tensor in ready.values()) + len(text)) as temporary:
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


def verify(path: Path, sha256: str) -> None:
    """Checks a file against the sha256 that was recorded when it was written.

    Raises:
        DataError: the file is missing or was changed.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    found = file_sha256(path)
    if found != sha256:
        raise DataError(f"{path} is damaged: its sha256 is {found[:12]}…, expected {sha256[:12]}…")


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Reads all tensors of a safetensors file after checking its sha256.

    Raises:
        DataError: the file is missing, was changed or is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify(path, sha256)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is not a readable safetensors file: {error}") from error


def metadata_of(header: Mapping[str, str] | None) -> dict[str, Any]:
    """The JSON-able values that `write_tensors` stored in a safetensors header.

    Raises:
        KeyError, TypeError, ValueError: the header holds none, or garbled ones.
    """
    return dict(json.loads((header or {})[METADATA_KEY]))


def read_text(path: Path) -> str:
    """Reads a file of UTF-8 text that ddfw wrote.

    Raises:
        DataError: it is no file, or no such text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is damaged: byte {error.start} is no text in UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        DataError: the file is missing, is not JSON, or holds something other than an object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, expected a file") from error
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
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
