"""Checkpoints of a run; only the newest is kept.

checkpoints/  step-000500.safetensors (tensors; the rest as JSON in its metadata)
              latest.json {schema, file, sha256, step, configs, files, seal}

The new checkpoint is written first, then latest.json, then the old checkpoint is removed. So latest.json names a
complete file whenever the process dies.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, field, frozen

from ddfw.artifacts import atomic, seal
from ddfw.artifacts.tensor_file import read_header
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT_SCHEMA = 1
#: Of the JSON files beside a checkpoint, which seal themselves since schema 2.
LATEST_SCHEMA = 2
LATEST = "latest.json"
#: File in a run's folder that counts how often the final evaluation, which reads the test split, was begun.
EVALUATION = "evaluation.json"
_FILE = re.compile(r"step-\d{6,}\.safetensors")


@frozen(kw_only=True)
class Pointer:
    """The content of latest.json.

    Args:
        file: name of the checkpoint file.
        sha256: hash of the checkpoint file, in hexadecimal.
        step: number of outer steps that were done when it was written.
        configs: hashes that the run's config.toml may have: two while a run is being made longer, () if unknown.
        files: by their paths below the run directory, files that the run had written: their bytes and sha256 then.
    """

    file: str
    sha256: str
    step: int
    configs: tuple[str, ...] = ()
    files: Mapping[str, Mapping[str, Any]] = field(factory=dict)


@frozen(kw_only=True)
class Checkpoint:
    """A checkpoint read from disk.

    Args:
        step: number of outer steps that were done when it was written.
        tensors: named tensors on the CPU, with the strides that they had when they were written.
        record: JSON-able values that were written with the tensors.
    """

    step: int
    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


def write_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
    *,
    configs: tuple[str, ...] = (),
    files: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes a checkpoint and removes the previous one.

    Args:
        folder: the `checkpoints` folder of a run; created if it does not exist.
        step: number of outer steps that are done.
        tensors: named tensors on any device; their strides are kept, since the last bit of a sum can depend on them.
        record: JSON-able values to store with the tensors.
        configs: hash of the run's config.toml.
        files: seals of what the run has written so far, as `seal.part_of` makes them, by path below the run directory.
    """
    folder.mkdir(exist_ok=True)
    name = f"step-{step:06d}.safetensors"
    if (newest := latest(folder)) is not None and newest.file == name:
        name = f"step-{step:07d}.safetensors"  # a file that latest.json names is never overwritten
    strides = {key: list(t.stride()) for key, t in sorted(tensors.items()) if not t.is_contiguous()}
    metadata = {"schema": CHECKPOINT_SCHEMA, "step": step, "strides": strides, "record": record}
    digest = atomic.write_tensors(folder / name, tensors, metadata)
    _point(folder, Pointer(file=name, sha256=digest, step=step, configs=configs, files=files or {}))
    keep_only(folder, name)


def _point(folder: Path, pointer: Pointer) -> None:
    content = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(pointer).items()}
    seal.write_sealed(folder / LATEST, {"schema": LATEST_SCHEMA, **content})


def allow_config(folder: Path, sha256: str) -> None:
    """Records, before a run's config.toml is replaced by that of a longer run, which hash it will have."""
    if (pointer := latest(folder)) is not None and pointer.configs and sha256 not in pointer.configs:
        _point(folder, evolve(pointer, configs=(*pointer.configs, sha256)))


def latest(folder: Path) -> Pointer | None:
    """The pointer to the newest checkpoint, read from latest.json; None if there is no checkpoint.

    Raises:
        DataError: latest.json is damaged, or was written by another version of ddfw.
    """
    path = folder / LATEST
    if not path.exists():
        return None
    with _way_out_of(path):
        value = seal.read_sealed(path, since=2, newest=LATEST_SCHEMA)
        pointer = Pointer(
            file=value["file"],
            sha256=value["sha256"],
            step=value["step"],
            configs=tuple(value.get("configs", ())),
            files=dict(value.get("files", {})),
        )
        if type(pointer.step) is not int or not isinstance(pointer.sha256, str) or not _FILE.fullmatch(pointer.file):
            raise DataError(f"{path} names no checkpoint")
        return pointer


def read_checkpoint(folder: Path, pointer: Pointer) -> Checkpoint:
    """Reads a checkpoint after checking its hash.

    Raises:
        DataError: the checkpoint is missing or damaged.
    """
    path = folder / pointer.file
    with _way_out_of(path):
        tensors = atomic.read_tensors(path, pointer.sha256)
        metadata = read_header(path).metadata
        if (metadata["schema"], metadata["step"]) != (CHECKPOINT_SCHEMA, pointer.step):
            raise DataError(f"{path} is not the checkpoint that {LATEST} describes")
        for key, strides in metadata["strides"].items():
            tensors[key] = _strided(tensors[key], strides)
        return Checkpoint(step=pointer.step, tensors=tensors, record=dict(metadata["record"]))


def begin_evaluation(folder: Path) -> int:
    """Records, before the test split is read, that a final evaluation begins; returns how many had begun before."""
    folder.mkdir(parents=True, exist_ok=True)
    before = begun_evaluations(folder)
    seal.write_sealed(folder / EVALUATION, {"schema": LATEST_SCHEMA, "begun": before + 1})
    return before


def begun_evaluations(folder: Path) -> int:
    """How many final evaluations, which read the test split, were begun.

    Raises:
        DataError: the file that counts them is damaged or was edited.
    """
    path = folder / EVALUATION
    with _way_out_of(path):
        begun = seal.read_sealed(path, since=2, newest=LATEST_SCHEMA).get("begun") if path.is_file() else 0
    return begun if isinstance(begun, int) and begun >= 0 else 0


def remove(folder: Path) -> None:
    """Removes the checkpoints of a finished run; files that ddfw did not write stay."""
    if not folder.is_dir():
        return
    (folder / LATEST).unlink(missing_ok=True)
    (folder / EVALUATION).unlink(missing_ok=True)
    keep_only(folder, None)
    with contextlib.suppress(OSError):  # the folder is not empty, or another process has removed it already
        folder.rmdir()


def way_out(folder: Path) -> str:
    """The end of an error message: how to start the run over, or what to do instead of extending a finished one."""
    if (folder.parent / "summary.json").exists():
        name = shlex.quote(str(folder.parent))
        return f"the run is finished and stays so; a new one can start from its set by --init-from {name}"
    return f"`rm -r {shlex.quote(str(folder))}` and the same command start over"


@contextlib.contextmanager
def _way_out_of(path: Path) -> Iterator[None]:
    """Turns errors about a file of checkpoints into DataErrors that also say how to start over."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; {way_out(path.parent)}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        text = f"{path} is no checkpoint: {type(error).__name__} {error}"
        raise DataError(f"{text}; {way_out(path.parent)}") from error


def _strided(tensor: Tensor, strides: list[int]) -> Tensor:
    """The tensor with other strides, which say how its elements lie in memory without gaps.

    Raises:
        TypeError, ValueError: strides of another number of elements.
    """
    import torch

    if sum((n - 1) * stride for n, stride in zip(tensor.shape, strides, strict=True)) >= max(1, tensor.numel()):
        raise ValueError(f"strides {strides} for a tensor {list(tensor.shape)}")
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def keep_only(folder: Path, keep: str | None) -> None:
    """Removes all checkpoints but the file `keep`, and unfinished files of a killed process."""
    for path in folder.iterdir():
        left = path.name.startswith(".") and path.name.endswith(".tmp")
        if left or (path.name != keep and _FILE.fullmatch(path.name)):
            path.unlink(missing_ok=True)
