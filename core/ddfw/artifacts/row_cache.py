"""Figures of an evaluation that were found before, kept beside the experts and found again by what they depend on.

experts/rows/  <key>.json {schema, key, row, about, sha256}

The name of a file is the hash of its `key`, which holds everything that shapes the row. A file whose content does not
fit its `sha256` is damaged; it is passed over and written again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from ddfw.artifacts import seal
from ddfw.errors import DataError

logger = logging.getLogger(__name__)

ROW_SCHEMA = 1
#: Name of the folder below that of the expert stores.
ROWS = "rows"


@frozen(kw_only=True)
class CachedRow:
    """Accuracies of networks that were trained on real images, and which run measured them.

    Args:
        accuracies: test accuracy of each network, fractions.
        lr: learning rate of the networks.
        selected_by: which split chose the learning rate: `validation` or `nothing`.
        run: path of the run that read the test split for it.
    """

    accuracies: tuple[float, ...]
    lr: float
    selected_by: str
    run: str


@frozen(kw_only=True)
class RowFile:
    """One file of the cache.

    Args:
        path: the file.
        row: its figures; None for a damaged file.
        about: what it is, for people: `subject`, `data`, `network`.
        written: when, in seconds since 1970.
        bytes: size of the file.
    """

    path: Path
    row: CachedRow | None
    about: Mapping[str, str]
    written: float
    bytes: int


def row_path(experts: Path, key: Mapping[str, Any]) -> Path:
    """The file of a key; `experts` is the folder of expert stores."""
    return experts / ROWS / f"{seal.digest(key)[:32]}.json"


def read_row(experts: Path, key: Mapping[str, Any]) -> CachedRow | None:
    """The row of this key; None if there is none, or only a damaged one, which a warning names.

    Args:
        experts: the folder of expert stores.
        key: everything that the row depends on, JSON-able.
    """
    path = row_path(experts, key)
    if not path.is_file():
        return None
    try:
        content = _content(path)
        if content["key"] != json.loads(json.dumps(key)):
            return None  # another key of the same hash, or a file that was renamed
        return _row(content)
    except (DataError, KeyError, TypeError, ValueError) as error:
        logger.warning("%s is damaged and its row is measured again: %s", path, error)
        return None


def write_row(experts: Path, key: Mapping[str, Any], row: CachedRow, about: Mapping[str, str]) -> None:
    """Keeps a row, whole or not at all.

    Args:
        experts: the folder of expert stores.
        key: everything that the row depends on, JSON-able.
        row: its figures.
        about: what it is, for people: `subject`, `data`, `network`.
    """
    path = row_path(experts, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {
        "accuracies": list(row.accuracies),
        "lr": row.lr,
        "selected_by": row.selected_by,
        "run": row.run,
    }
    content = {"schema": ROW_SCHEMA, "key": dict(key), "row": figures, "about": dict(about), "written": time.time()}
    seal.write_sealed(path, content, entry="sha256")


def list_rows(experts: Path) -> list[RowFile]:
    """All files of the cache, the newest first."""
    found = []
    for path in sorted((experts / ROWS).glob("*.json")):
        size = path.stat().st_size
        try:
            content = _content(path)
            about = {str(name): str(value) for name, value in content["about"].items()}
            found.append(
                RowFile(path=path, row=_row(content), about=about, written=float(content["written"]), bytes=size)
            )
        except (DataError, KeyError, TypeError, ValueError, AttributeError):
            found.append(RowFile(path=path, row=None, about={}, written=path.stat().st_mtime, bytes=size))
    return sorted(found, key=lambda file: -file.written)


def clear_rows(experts: Path) -> int:
    """Removes all rows and returns how many there were; other files stay."""
    files = [*(experts / ROWS).glob("*.json"), *(experts / ROWS).glob(".*.tmp")]
    for path in files:
        path.unlink(missing_ok=True)
    return sum(path.suffix == ".json" for path in files)


def _content(path: Path) -> dict[str, Any]:
    return seal.read_sealed(path, since=ROW_SCHEMA, newest=ROW_SCHEMA, entry="sha256")


def _row(content: Mapping[str, Any]) -> CachedRow:
    row = content["row"]
    accuracies = tuple(float(value) for value in row["accuracies"])
    if not accuracies or not all(0 <= value <= 1 for value in accuracies):
        raise ValueError("accuracies that are no fractions")
    return CachedRow(
        accuracies=accuracies, lr=float(row["lr"]), selected_by=str(row["selected_by"]), run=str(row["run"])
    )
