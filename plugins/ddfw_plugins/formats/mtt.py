"""`mtt`: images_best.pt, labels_best.pt and lr_best.pt, each one tensor, as MTT and DATM write them.

Labels are classes [n] where every target is one, else probabilities [n, m]. Sets of other programs are read as well:
`images*.pt` with the `labels*.pt` and, if there is one, the `lr*.pt` beside it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ddfw import DataError, ImageSet, SyntheticSet, read_torch_tensor

_NUMBER = re.compile(r"images_?([0-9]+)\.pt")


def write_mtt(learned: SyntheticSet, folder: Path) -> dict[str, Any]:
    """Writes images, labels and the learned step size to three files of one tensor each, without rounding."""
    hard = learned.targets.argmax(dim=1)
    certain = bool((learned.targets == one_hot(hard, learned.targets.shape[1])).all())
    tensors = {
        "images_best.pt": learned.images,
        "labels_best.pt": hard if certain else learned.targets,
        "lr_best.pt": torch.tensor(learned.step_size, dtype=torch.float64),
    }
    for name, tensor in tensors.items():
        buffer = io.BytesIO()  # into a path, torch would write the file's name into it
        torch.save(tensor.detach().cpu().contiguous().clone(), buffer)
        (folder / name).write_bytes(buffer.getvalue())
    return {"labels": "classes" if certain else "probabilities", "files": list(tensors)}


def read_mtt(path: Path, card: Mapping[str, Any]) -> ImageSet:
    """Reads an export, a file `images*.pt`, or a folder with such files: the best, or the last.

    Raises:
        DataError: missing, damaged or hostile files, or tensors that are no labelled images.
    """
    if card:
        _ = [card["sha256"][name] for name in ("images_best.pt", "labels_best.pt")]  # only what the card vouches for
        path = path / "images_best.pt"
    elif path.is_dir():
        path = max(path.glob("images*.pt"), key=_rank)
    rest = path.name.removeprefix("images")
    images, labels = read_torch_tensor(path), read_torch_tensor(path.with_name(f"labels{rest}"))
    if labels.is_complex() or not bool(labels.isfinite().all()):
        raise DataError(f"{path}: labels are not all finite real numbers")
    notes: tuple[str, ...] = ()
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and not _probabilities(labels.double()):
        labels, notes = labels.double().softmax(dim=1), ("labels were logits; their softmax is taken",)
    elif labels.ndim == 1 and not bool((labels == labels.double().round()).all()):
        raise DataError(f"{path}: labels [n] or [n, 1] have to be whole numbers")
    rate = path.with_name(f"lr{rest}")
    return ImageSet(
        images=images,
        targets=labels.long() if labels.ndim == 1 else labels.to(images.dtype),
        origin=f"images and labels in {path.parent}",
        step_size=_rate(rate) if rate.is_file() else None,
        step_size_origin=f"the learning rate in {rate.name}",
        notes=notes,
    )


def _rank(path: Path) -> tuple[bool, int, str]:
    """Which of several `images*.pt` is meant: the best, or the last."""
    number = _NUMBER.fullmatch(path.name)
    return path.name == "images_best.pt", int(number[1]) if number else -1, path.name


def _probabilities(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all())


def _rate(path: Path) -> float:
    """The number in a file, NaN for several; whoever takes the set checks it, since another may be named instead."""
    found = read_torch_tensor(path)
    return math.nan if found.numel() != 1 or found.is_complex() else float(found)
