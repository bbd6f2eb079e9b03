"""Pictures of a run on the way: what its set looked like after a few outer steps, and real images to compare with.

steps/  step-000000.safetensors  step-000040.safetensors  step-000080.safetensors  real.safetensors

They are for looking at, so they hold pixels, and of large sets the first images of each class only.

Shapes: k images of each class, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from ddfw.artifacts import atomic, run_seals
from ddfw.artifacts.tensor_file import load_tensors, read_header, refuse_not_finite
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

SNAPSHOT_SCHEMA = 1
SNAPSHOTS, REAL = "steps", "real.safetensors"
#: At most this many images of a class are kept, and at most this many numbers in one file (one image a class at least).
MAX_SHOWN, MAX_VALUES = 16, 4_000_000
_FILE = re.compile(r"step-(\d{6,})\.safetensors")


@frozen(kw_only=True, eq=False)
class Snapshot:
    """Images for looking at.

    Args:
        pixels: [m·k, C, H, W] float32 in class order: 0 is black and 1 is white; learned images may go beyond both.
        targets: [m·k, m] float32 label probabilities.
        per_class: number k of images of each class.
        of_per_class: how many images of each class there were.
        step: outer steps that were done; None for real images.
    """

    pixels: Tensor
    targets: Tensor
    per_class: int
    of_per_class: int
    step: int | None


def shown_per_class(per_class: int, num_classes: int, floats_per_image: int) -> int:
    """How many images of each class a snapshot holds: all, or as many as fit, at least one."""
    return max(1, min(per_class, MAX_SHOWN, MAX_VALUES // (num_classes * floats_per_image)))


def snapshot_name(step: int) -> str:
    """Path of the snapshot after `step` outer steps, below the run directory."""
    return f"{SNAPSHOTS}/step-{step:06d}.safetensors"


def write_snapshot(run: Path, snapshot: Snapshot) -> str:
    """Writes a snapshot into a run directory's folder `steps` and returns its path below the run directory."""
    name = f"{SNAPSHOTS}/{REAL}" if snapshot.step is None else snapshot_name(snapshot.step)
    (run / SNAPSHOTS).mkdir(exist_ok=True)
    metadata = {
        "schema": SNAPSHOT_SCHEMA,
        "per_class": snapshot.per_class,
        "of_per_class": snapshot.of_per_class,
        "step": snapshot.step,
    }
    tensors = {"pixels": snapshot.pixels.float(), "targets": snapshot.targets.float()}
    atomic.write_tensors(run / name, tensors, metadata)
    return name


def clear_snapshots(run: Path) -> None:
    """Removes what an earlier attempt left, which was a run of another configuration perhaps."""
    for path in (run / SNAPSHOTS).glob("*.safetensors"):
        path.unlink(missing_ok=True)


def snapshot_files(run: Path) -> dict[str, str]:
    """The sha256 of each file of the folder `steps`, by its path below the run directory."""
    found = sorted((run / SNAPSHOTS).glob("*.safetensors"))
    return {f"{SNAPSHOTS}/{path.name}": atomic.file_sha256(path) for path in found if not path.name.startswith(".")}


def snapshot_steps(run: Path) -> list[int]:
    """The outer steps of which a run directory holds snapshots, ascending; [] for runs of earlier versions."""
    found = (_FILE.fullmatch(path.name) for path in (run / SNAPSHOTS).glob("step-*.safetensors"))
    return sorted(int(match[1]) for match in found if match is not None)


def read_snapshot(run: Path, step: int | None) -> Snapshot:
    """Reads a snapshot.

    Args:
        run: the run directory.
        step: the outer step; None for the real images.

    Raises:
        DataError: the file is missing, was changed or is no snapshot.
    """
    import torch

    name = f"{SNAPSHOTS}/{REAL}" if step is None else snapshot_name(step)
    path = run / name
    if not path.is_file():
        raise DataError(f"{path} is missing")
    run_seals.require_file(run, name)
    facts, tensors = read_header(path).metadata, load_tensors(path)
    refuse_not_finite(path, tensors)
    try:
        pixels, targets = tensors["pixels"], tensors["targets"]
        per_class, of_per_class = int(facts["per_class"]), int(facts["of_per_class"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is no snapshot: {type(error).__name__} {error}") from error
    if pixels.ndim != 4 or targets.ndim != 2 or not len(pixels) == len(targets) == per_class * targets.shape[1]:
        raise DataError(f"{path} is no snapshot: it has {list(pixels.shape)} pixels for {list(targets.shape)} labels")
    if pixels.dtype != torch.float32 or targets.dtype != torch.float32 or pixels.numel() == 0:
        raise DataError(f"{path} is no snapshot: its pixels are {pixels.dtype}, its targets {targets.dtype}")
    return Snapshot(pixels=pixels, targets=targets, per_class=per_class, of_per_class=of_per_class, step=step)
