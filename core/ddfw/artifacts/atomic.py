"""The one way in which ddfw writes files: a temporary neighbour, synced, then renamed over the target."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfw.errors import DataError, DirectoryInUseError

if TYPE_CHECKING:
    from torch import Tensor

#: The only metadata key of our safetensors files; several keys would change order between processes.
METADATA_KEY = "ddfw"


def write_bytes(path: Path, data: bytes) -> str:
    """Writes a file whole or not at all and returns the sha256 of its content.

    The file gets the permissions that an ordinary new file would get under the user's umask.
    """
    with _replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """An empty temporary neighbour; what was written to it takes the path's place in the end, or vanishes."""
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
    """Writes UTF-8 text; see `write_bytes`."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> str:
    """Writes indented JSON in the order of the mapping; NaN and infinities are refused. See `write_bytes`."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Writes a safetensors file, tensors in the order of their names; see `write_bytes`.

    Args:
        path: the target.
        tensors: named tensors on any device.
        metadata: JSON-able facts, kept under one key.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    with _replacing(path) as temporary:
        mode = temporary.stat().st_mode
        try:
            # Not `save`, which would hold every byte in memory once more, twice.
            save_file(ready, temporary, metadata={METADATA_KEY: text})
            temporary.chmod(mode)  # it makes the file anew, for its owner alone
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        digest = file_sha256(temporary)
    return digest


def file_sha256(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, sha256: str) -> None:
    """Checks a file against the hash that was noted when it was written.

    Raises:
        DataError: missing or changed.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    found = file_sha256(path)
    if found != sha256:
        raise DataError(f"{path} is damaged: its sha256 is {found[:12]}…, expected {sha256[:12]}…")


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """All tensors of a verified safetensors file.

    Raises:
        DataError: missing, changed or not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify(path, sha256)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is not a readable safetensors file: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DataError: missing, not JSON, or not an object.
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
    """Holds a folder's lock (an advisory lock on `<folder>/.lock`, released when the process ends).

    Args:
        folder: has to exist.
        what: what is being locked, in words, for the message.
        wait: wait for the other process instead of refusing.

    Raises:
        DirectoryInUseError: another process holds it and `wait` is false.
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
