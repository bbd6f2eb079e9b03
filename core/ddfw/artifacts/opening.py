"""The one way in which files that may come from anyone are opened: plain files only, and of bounded size.

A small file can ask for very much memory. What it asks for is therefore compared with its own size before the memory is
taken: up to `FREE` bytes are given to any file, more only to files that hold a hundredth of it themselves.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ddfw.errors import DataError

#: Bytes of memory that any file may ask for, however small it is.
FREE = 1 << 26
#: How many bytes of memory each byte of a file may ask for beyond that; photographs and packed arrays take 2 to 30.
RATIO = 100
#: Largest size of a JSON file in bytes; the card of 10,000 pictures in 200 classes has half of it.
MAX_JSON = 1 << 27
#: Largest size of a text in bytes, such as a configuration; a complete one has 4,000.
MAX_TEXT = 1 << 24
#: How many lists and objects of a JSON text may lie within each other.
MAX_DEPTH = 64
#: Bytes that are read at once at most; only the directory of a zip archive is read in one piece.
MAX_PIECE = 1 << 24
#: Roughly the bytes of memory that a list or an object, two quotation marks, and a comma of a JSON text stand for.
_PER_BRACKET, _PER_TEXT, _PER_VALUE = 72, 64, 32


class PlainFile(io.BufferedReader):
    """An open plain file, which refuses to read more than `MAX_PIECE` bytes at once.

    Libraries read an archive's directory in one piece, which would take ten times its size of memory.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads up to `size` bytes.

        Raises:
            DataError: a size larger than `MAX_PIECE`, or none although that much is left.
        """
        left = os.fstat(self.fileno()).st_size - self.tell()
        if min(left, left if size is None or size < 0 else size) > MAX_PIECE:
            raise DataError(f"{self.name} asks for more than {MAX_PIECE >> 20} MiB in one piece")
        return super().read(size)


def opened(path: Path, limit: int | None = None) -> PlainFile:
    """Opens a plain file for reading; nothing else is opened, since a pipe blocks and a device has no end.

    Args:
        path: the file, or a link to it.
        limit: largest size of the file in bytes; None: any.

    Raises:
        DataError: the path does not exist, is not a plain file, cannot be read, or is larger than the limit.
    """
    try:
        _require_plain(path, os.stat(path).st_mode)
        # Between the two looks the file may become a pipe, on which opening would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} is missing") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte, or a character that no name of a file can have
        raise DataError(f"{str(path)!a} is no name of a file") from error
    try:
        found = os.fstat(descriptor)
        _require_plain(path, found.st_mode)
        if limit is not None and found.st_size > limit:
            raise DataError(f"{path} has {found.st_size:,} bytes, at most {limit:,} are read")
        return PlainFile(_Named(descriptor, path))
    except BaseException:
        os.close(descriptor)
        raise


class _Named(io.FileIO):
    """A file of an open descriptor that knows its path."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "rb")
        self.name = str(path)


def _require_plain(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is not a file but a folder")
    if not stat.S_ISREG(mode):
        kind = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}.get(stat.S_IFMT(mode), "a device")
        raise DataError(f"{path} is not a plain file but {kind}; put a file in its place")


def read_whole(path: Path, limit: int) -> bytes:
    """The content of a plain file of at most `limit` bytes.

    Raises:
        DataError: as `opened` does.
    """
    with opened(path, limit) as file:
        try:
            return io.BufferedReader.read(file, limit + 1)[:limit]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def require_honest(where: object, packed: int, unpacked: int, way_out: str, *, times: int = 1) -> None:
    """Refuses what takes far more memory than its own bytes can mean.

    Args:
        where: the file, for the error text.
        packed: bytes that the file or its part has on the disk.
        unpacked: bytes of memory that it asks for.
        way_out: what to do about a file that is right all the same.
        times: by how many bytes of memory each unpacked byte is replaced afterwards, 4 for pixels that become floats.

    Raises:
        DataError: it asks for more than `FREE` bytes and more than `RATIO` times its own.
    """
    if times * unpacked > FREE and unpacked > RATIO * packed:
        raise DataError(
            f"{where} has {packed:,} bytes and unpacks to {unpacked:,}; more than {RATIO} times its own size is read "
            f"up to {FREE >> 20} MiB only; if the file is right, {way_out}"
        )


def require_memory(where: object, needed: int, way_out: str) -> None:
    """Refuses what this machine has no memory for, before it is taken.

    Args:
        where: the file, for the error text.
        needed: bytes that are about to be taken.
        way_out: what to do about it.

    Raises:
        DataError: fewer bytes are free; where the system does not say how many are, nothing is refused.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return
    if needed > free:
        raise DataError(f"{where} needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; {way_out}")


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Parses a JSON text that may come from anyone.

    Args:
        text: the text, or its bytes in UTF-8.
        finite: whether NaN and infinite numbers are refused.

    Raises:
        ValueError: not JSON, or a text whose values would take far more memory than itself, that is nested too deeply,
            names a key twice, or holds an infinite number or half of a character.
    """
    data = text.encode() if isinstance(text, str) else text
    brackets, quotes, commas = data.count(b"[") + data.count(b"{"), data.count(b'"'), data.count(b",")
    needed = _PER_BRACKET * brackets + _PER_TEXT * (quotes // 2) + _PER_VALUE * commas
    if needed > FREE + 6 * len(data):
        raise ValueError(f"its {brackets:,} lists and objects and {commas:,} commas would fill the memory")
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deeply") from None
    _require_sound(value, finite)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON text; two readers of a key that stands there twice could read different values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(n for n in names if names.count(n) > 1)[:80]!a} twice")
    return found


def _require_sound(value: object, finite: bool) -> None:
    """Walks through a parsed JSON text level by level; see `parse_json` for what is refused."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                if not item.isascii():
                    item.encode()  # half of a surrogate pair: a UnicodeEncodeError, which is a ValueError
            elif isinstance(item, float) and finite and not math.isfinite(item):
                raise ValueError(f"it holds the number {item}, which is not finite")
        if not below:
            return
        level = below
    raise ValueError("its lists and objects are nested too deeply")
