"""Seals: the hash of what a file holds, kept where it is read again, so that damage and edits are found.

A JSON file carries its own seal. A file that is only appended to is sealed as far as it was written at some moment.
Whoever edits a file and seals it again leaves no trace: hashes find damage and edits, not forgeries.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddfw.artifacts import atomic
from ddfw.errors import DataError

logger = logging.getLogger(__name__)

#: Bytes of a file that are hashed at once.
_PIECE = 1 << 20
#: Name of the last entry of a sealed JSON file.
SEAL = "seal"
#: The seal of a file in which nothing stands yet, as `part_of` makes it.
EMPTY_PART = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}


def digest(value: Mapping[str, Any]) -> str:
    """The sha256 of a JSON-able value in hexadecimal, whatever the order of its keys is."""
    plain = json.loads(json.dumps(value))  # keys as they are read again, which are text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def json_text(value: Mapping[str, Any]) -> str:
    """The text of a JSON file with this content, exactly as `atomic.write_json` writes it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def json_sha256(value: Mapping[str, Any]) -> str:
    """The sha256 of the JSON file that `atomic.write_json` would write with this content."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()


def spelt_alike(raw: bytes, value: Mapping[str, Any]) -> bool:
    """Whether the numbers of a JSON text are spelt as we write them, in which other digits are never the same number.

    Args:
        raw: the text, which may have other spaces and line ends than ours.
        value: what it holds.
    """
    return bool(json.loads(raw, parse_float=str) == json.loads(json_text(value), parse_float=str))


def sealed(value: Mapping[str, Any], *, entry: str = SEAL) -> dict[str, Any]:
    """The content of a sealed JSON file.

    Args:
        value: the content, JSON-able.
        entry: name of the entry for the seal.
    """
    return {**value, entry: digest(value)}


def write_sealed(path: Path, value: Mapping[str, Any], *, entry: str = SEAL) -> str:
    """Writes a JSON file with its seal atomically, and returns the file's sha256.

    Args:
        path: the file.
        value: its content, JSON-able, with the number of its `schema`.
        entry: name of the entry for the seal.
    """
    return atomic.write_json(path, sealed(value, entry=entry))


def read_sealed(path: Path, *, since: int, newest: int, entry: str = SEAL) -> dict[str, Any]:
    """Reads a sealed JSON file, and returns its content without the seal.

    Not only the content has to be what was sealed but also its spelling, so that no byte of the file can change.

    Args:
        path: the file.
        since: the first schema whose files are sealed; files of earlier ones may have no seal.
        newest: the newest schema that is known.
        entry: name of the entry for the seal.

    Raises:
        DataError: the file is missing, damaged or was edited, or a newer version of ddfw wrote it.
    """
    value, raw = _read(path)
    schema, seal = value.get("schema"), value.pop(entry, None)
    if seal is None and type(schema) is int and 0 < schema < since:
        return value
    if seal is None:
        raise DataError(f"{path} is damaged or was edited: it has lost its {entry}")
    if seal != digest(value) or raw != json_text({**value, entry: seal}).encode():
        raise DataError(f"{path} is damaged or was edited: its content does not fit its {entry}")
    if type(schema) is not int or not 0 < schema <= newest:
        raise DataError(f"{path} has schema {schema}, expected {newest} at most; a newer version of ddfw reads it")
    return value


def warn_if_damaged(path: Path, newest: int) -> None:
    """Warns of a sealed JSON file that is about to be made again from other files, where it was damaged or edited.

    Args:
        path: the file, which may be missing; it is sealed since schema 2.
        newest: the newest schema that is known.
    """
    try:
        if path.is_file():
            read_sealed(path, since=2, newest=newest)
    except DataError as error:
        logger.warning("%s; it is made again", error)


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """A JSON file's content and its bytes, both of the same file where another process replaces it meanwhile."""
    for _ in range(3):
        value = atomic.read_json(path)
        raw = path.read_bytes()
        if value == json.loads(raw or b"null"):
            break
    return value, raw


def part_of(path: Path) -> dict[str, Any]:
    """The seal of a file as it is now: its number of bytes and their sha256."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def require_part(path: Path, part: Mapping[str, Any], *, whole: bool = True) -> None:
    """Checks a file against what `part_of` said of it.

    Args:
        path: the file.
        part: its seal.
        whole: whether the file may hold no more than what was sealed.

    Raises:
        DataError: the file is missing, damaged or was edited.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    size, expected = int(part["bytes"]), str(part["sha256"])
    digest, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
        more = whole and file.read(1)
    found = digest.hexdigest()
    if found != expected or more:
        what = "its" if whole else f"of its first {size} bytes the"
        raise DataError(f"{path} is damaged or was edited: {what} sha256 is {found[:12]}…, expected {expected[:12]}…")
