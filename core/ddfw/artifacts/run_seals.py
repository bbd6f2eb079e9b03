"""What a run's files are checked against when they are read.

A finished run is sealed by its manifest.json, which seals itself and holds the hashes of config.toml, summary.json,
eval/*.json, steps/, synthetic/, images/ and metrics.jsonl. An unfinished one is sealed by checkpoints/latest.json, as
far as it had come when the checkpoint was written. Runs of earlier versions have fewer hashes, and are checked as far
as these go.

Nothing here imports torch, so that a folder of runs is listed at once.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ddfw.artifacts import atomic, checkpoint, seal
from ddfw.errors import DataError
from ddfw.plain import printable_json

logger = logging.getLogger(__name__)

CONFIG, MANIFEST, SUMMARY = "config.toml", "manifest.json", "summary.json"
#: The file that holds a run's events; it is only appended to.
METRICS = "metrics.jsonl"
#: More bytes than the last line of metrics.jsonl has.
_LONGEST_LINE = 1 << 20
#: Manifests seal themselves since schema 2, evaluations that are added to a finished run likewise.
MANIFEST_SCHEMA = EVAL_FILE_SCHEMA = 2


def read_manifest(run: Path) -> dict[str, Any]:
    """The content of a run's manifest.json, {} where there is none yet.

    Raises:
        DataError: it is damaged or was edited, or it is missing though the run is finished.
    """
    path = run / MANIFEST
    if not path.is_file() and not (run / SUMMARY).is_file():
        return {}
    return seal.read_sealed(path, since=2, newest=MANIFEST_SCHEMA)


def files_sealed_by(manifest: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The sha256 of each file of a finished run, by its path below the run directory.

    Args:
        manifest: the content of manifest.json.
        path: where it lies, for messages.

    Raises:
        DataError: the manifest has none, though manifests of its schema do.
    """
    if manifest.get("schema") == 1 and "outputs" not in manifest:
        return {}
    try:
        return {str(name): str(sha256) for name, sha256 in manifest["outputs"].items()}
    except (KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path} lacks or garbles {error}") from error


def require_file(run: Path, name: str) -> None:
    """Checks one file of a run; nothing is checked where nothing is known of it.

    Args:
        run: the run directory.
        name: path of the file below it.

    Raises:
        DataError: the file is missing, damaged or was edited, or what it is checked against is.
    """
    if (run / SUMMARY).is_file():
        if (sha256 := files_sealed_by(read_manifest(run), run / MANIFEST).get(name)) is not None:
            atomic.verify(run / name, sha256)
    elif (pointer := checkpoint.latest(run / "checkpoints")) is not None and name in pointer.files:
        seal.require_part(run / name, pointer.files[name])


def require_config(run: Path) -> None:
    """Checks config.toml.

    Raises:
        DataError: it is damaged or was edited since the run was begun.
    """
    known, pointer = set[str](), checkpoint.latest(run / "checkpoints")
    if pointer is not None:  # also while a run is being made longer: its configuration stands there first
        known |= set(pointer.configs)
    if (run / SUMMARY).is_file() and (run / MANIFEST).is_file():
        known.add(str(read_manifest(run).get("config_sha256", "")))
    known.discard("")
    if known and (found := atomic.file_sha256(run / CONFIG)) not in known:
        raise DataError(
            f"{run / CONFIG} is damaged or was edited: its sha256 is {found[:12]}…, "
            f"expected {' or '.join(f'{k[:12]}…' for k in sorted(known))}; put it back as it was, or "
            f"{'choose another --out' if (run / SUMMARY).is_file() else checkpoint.way_out(run / 'checkpoints')}"
        )


def require_metrics(run: Path) -> None:
    """Checks metrics.jsonl, of a finished run as a whole and of an unfinished one up to its checkpoint.

    Raises:
        DataError: it is missing, damaged or was edited.
    """
    finished = (run / SUMMARY).is_file()
    if finished:
        part = read_manifest(run).get(METRICS)
    else:
        pointer = checkpoint.latest(run / "checkpoints")
        part = None if pointer is None else pointer.files.get(METRICS)
    if not isinstance(part, Mapping):
        return
    path = run / METRICS
    try:
        seal.require_part(path, part, whole=False)
        if finished:
            _require_end(path, int(part["bytes"]))
    except DataError:
        if not _is_being_extended(run, part):
            raise


def _require_end(path: Path, size: int) -> None:
    """Checks what stands in a finished run's metrics.jsonl after the lines that the manifest seals: the last line.

    Raises:
        DataError: something else stands there. A process that died before it wrote the line left none.
    """
    with path.open("rb") as file:
        file.seek(size)
        rest = file.read(_LONGEST_LINE)
    if rest and not is_last_line(rest):
        raise DataError(f"{path} is damaged or was edited: its last line does not fit its {seal.SEAL}")


def is_last_line(rest: bytes) -> bool:
    """Whether bytes are one whole line that says that the run is finished, as it was sealed."""
    try:
        event = json.loads(rest)
        found = event.pop(seal.SEAL, "")
        whole = printable_json(seal.sealed(event)).encode() + b"\n"
        return bool(event["event"] == "run_finished" and found == seal.digest(event) and rest == whole)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def cut_line(run: Path) -> int | None:
    """Where the last line of a finished run's metrics.jsonl begins, if the process died, or the disk was full, in it.

    Returns:
        The number of bytes before that line; None where the last line is whole, or there is none.
    """
    path, part = run / METRICS, read_manifest(run).get(METRICS)
    if not (run / SUMMARY).is_file() or not isinstance(part, Mapping) or not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(size := int(part["bytes"]))
        rest = file.read(_LONGEST_LINE)
    return size if rest and b"\n" not in rest else None


def remove_cut_line(run: Path) -> None:
    """Removes the line that `cut_line` finds."""
    if (size := cut_line(run)) is not None:
        logger.warning("%s was cut within its last line, which is removed", run / METRICS)
        os.truncate(run / METRICS, size)


def _is_being_extended(run: Path, part: Mapping[str, Any]) -> bool:
    """Whether a longer run has begun to write metrics.jsonl while the shorter one is kept in `earlier`."""
    own = (run / METRICS).read_bytes() if (run / METRICS).is_file() else b""
    for kept in (run / "earlier").glob(f"step-*/{METRICS}"):
        try:
            seal.require_part(kept, part, whole=False)
        except DataError:
            continue
        if _goes_on(own, kept.read_bytes()[: int(part["bytes"])]):
            return True
    return False


def _goes_on(own: bytes, kept: bytes) -> bool:
    """Whether lines are the first ones of `kept`, and what follows was written by a run that went on from there."""
    for line, other in zip_longest(own.splitlines(True), kept.splitlines(True)):
        if line is None or line != other:
            try:
                return line is None or json.loads(line)["event"] == "run_started"
            except (ValueError, KeyError, TypeError, RecursionError):
                return False
    return True


def require_figures(run: Path) -> None:
    """Checks the files that a run's figures stand in: manifest, configuration, summary, evaluations and metrics.

    Raises:
        DataError: one of them is missing, damaged or was edited.
    """
    manifest = read_manifest(run)
    require_config(run)
    require_metrics(run)
    if not (run / SUMMARY).is_file():
        return
    known = files_sealed_by(manifest, run / MANIFEST)
    for name in (SUMMARY, *sorted(name for name in known if name.startswith("eval/"))):
        if name in known:
            atomic.verify(run / name, known[name])
    for path in sorted((run / "eval").glob("again-*.json")):
        seal.read_sealed(path, since=2, newest=EVAL_FILE_SCHEMA)


def require_whole(run: Path) -> None:
    """Checks every file of a finished run, and of the shorter runs that it was before it was extended.

    Raises:
        DataError: one of them is missing, damaged or was edited.
    """
    require_figures(run)
    for name, sha256 in files_sealed_by(read_manifest(run), run / MANIFEST).items():
        atomic.verify(run / name, sha256)
    for earlier in sorted((run / "earlier").glob(f"step-*/{CONFIG}")):
        require_whole(earlier.parent)
