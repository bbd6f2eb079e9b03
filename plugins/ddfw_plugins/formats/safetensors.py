"""`safetensors`: set.safetensors with `images` [n, C, H, W] in training space and `targets` [n, m]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddfw import ImageSet, SyntheticSet, read_tensors, write_tensors

_FILE = "set.safetensors"


def write_safetensors(learned: SyntheticSet, folder: Path) -> dict[str, Any]:
    """Writes images and targets, exactly."""
    tensors = {"images": learned.images, "targets": learned.targets}
    write_tensors(folder / _FILE, tensors, {"schema": 1, "what": "set"})
    return {"file": _FILE}


def read_safetensors(path: Path, card: Mapping[str, Any]) -> ImageSet:
    """Reads an export."""
    found = read_tensors(path / _FILE, card["sha256"][_FILE])
    return ImageSet(images=found["images"], targets=found["targets"])
