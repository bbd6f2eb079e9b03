"""`imagefolder`: a folder of 8-bit pictures for each class, with what rounding and clipping cost.

Shapes: C channels (1 or 3), H rows, W columns.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot

from ddfw import (
    DataError,
    ImageSet,
    OptionError,
    SyntheticSet,
    class_order,
    read_json,
    require_honest,
    split_of,
)
from ddfw_plugins.picture_files import read_picture

#: Beside the folders, where labels are no classes: {"class_names": […], "targets": {picture: [probabilities]}}.
LABELS = "labels.json"
#: Values of all pictures of a folder together.
_LARGEST = 2**28
#: Values of one picture: they become floating-point numbers, of four times the bytes.
_LARGEST_PICTURE = 2**24
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def write_imagefolder(learned: SyntheticSet, folder: Path) -> dict[str, Any]:
    """Writes PNGs named by their place in the set, and returns each one's targets and what 8 bits cost.

    Where labels are not classes, labels.json holds the probabilities, since folders cannot.

    Raises:
        OptionError: images that are neither grey nor of three colours.
    """
    channels = learned.images.shape[1]
    if channels not in (1, 3):
        raise OptionError(f"a PNG holds 1 or 3 channels, these images have {channels}; take safetensors or npz")
    pixels = learned.space.decode(learned.images)
    bytes_ = pixels.clamp(0, 1).mul(255).round().byte()
    classes = learned.targets.argmax(dim=1).tolist()
    width = len(str(len(learned.class_names) - 1))
    rows = []
    for number, (image, label) in enumerate(zip(bytes_, classes, strict=True)):
        safe = re.sub(r"[^\w.-]+", "_", learned.class_names[label]) or "class"
        name = f"{label:0{width}d}-{safe}/{number:05d}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        array = image.permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == 1 else array)).save(folder / name)
        rows.append({"file": name, "target": [float(v) for v in learned.targets[number]]})
    shown = bytes_.to(learned.images.dtype) / 255
    again = learned.space.encode(shown * learned.space.max_value, learned.images.dtype)
    error, outside = (again - learned.images).abs(), (pixels < 0) | (pixels > 1)
    rounding: dict[str, Any] = {
        "what": "what 8-bit pixels cost: training-space values after a round trip against those before it",
        "largest": float(error.max()),
        "root_mean_square": float(error.square().mean().sqrt()),
        "clipped_fraction": float(outside.double().mean()),
        "clipped_values": int(outside.sum()),
        "farthest_outside": max(0.0, float(-pixels.min()), float(pixels.max()) - 1),
    }
    notes = []
    if rounding["clipped_values"]:
        notes.append(
            f"{rounding['clipped_values']:,} of {pixels.numel():,} values ({100 * rounding['clipped_fraction']:.1f} %) "
            f"lay outside the pixel range 0 … 1 and were clipped, the farthest by {rounding['farthest_outside']:.2g}"
        )
    soft = not bool((learned.targets == one_hot(learned.targets.argmax(dim=1), learned.targets.shape[1])).all())
    if soft:
        record = {
            "schema": 1,
            "class_names": list(learned.class_names),
            "targets": {r["file"]: r["target"] for r in rows},
        }
        (folder / LABELS).write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
        notes.append(f"folders hold classes; the soft labels lie beside them in {LABELS}, which ddfw reads again")
    return {"images": rows, "rounding": rounding, "notes": notes}


def read_imagefolder(path: Path, card: Mapping[str, Any]) -> ImageSet:
    """Reads an export with the targets of its card, or any folder of class folders with pictures of one size.

    Raises:
        DataError: a picture that cannot be read, pictures of several sizes, or a class folder without any.
    """
    if not card:
        return _class_folders(path)
    rows, dtype = card["export"]["images"], _DTYPES[card["export"]["dtype"]]
    if not rows:
        raise DataError(f"{path / 'card.json'} lists no images")
    _ = [card["sha256"][row["file"]] for row in rows]  # only files that the card vouches for
    return ImageSet(
        images=_pictures([path / row["file"] for row in rows], path).to(dtype),
        targets=torch.tensor([row["target"] for row in rows], dtype=torch.float64).to(dtype),
        pixels=True,
        notes=("8-bit pixels: rounded and clipped, see the card of the export",),
    )


def _class_folders(folder: Path) -> ImageSet:
    """Pictures whose class is the folder that they lie in, or with the probabilities in labels.json."""
    order, said = class_order([p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")])
    if order and all(map(split_of, order)):
        raise DataError(f"{folder} holds the splits {', '.join(order)}, not class folders; name one of them")
    classes = [folder / name for name in order]
    files: list[Path] = []
    labels = []
    for label, place in enumerate(classes):
        found = sorted(p for p in place.iterdir() if not p.is_dir() and not p.name.startswith("."))
        if not found:
            raise DataError(f"{place} holds no images")
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{folder} holds no class folders with pictures")
    images, names = _pictures(files, folder), [f"{file.parent.name}/{file.name}" for file in files]
    targets, class_names = torch.tensor(labels), list(order)
    if os.path.lexists(folder / LABELS) and not (folder / LABELS).is_dir():
        (targets, class_names), said = _soft_labels(folder / LABELS, names), ""
    return ImageSet(
        images=images,
        targets=targets,
        origin=f"pictures in {folder}",
        pixels=True,
        class_names=tuple(class_names),
        notes=(said,) if said else (),
    )


def _soft_labels(path: Path, pictures: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The probabilities [n, m] of the pictures, and the names of the m classes, as an export wrote them.

    Raises:
        DataError: not such a file, or one that names other pictures.
    """
    try:
        record = read_json(path)
        names, rows = record["class_names"], record["targets"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names are not texts")
        if different := sorted(set(rows) ^ set(pictures)):
            where = "is not there" if different[0] in rows else "has no row"
            raise ValueError(f"{different[0]!a} {where}")
        targets = torch.tensor([rows[name] for name in pictures], dtype=torch.float64)
        if targets.shape != (len(pictures), len(names)):
            raise ValueError(f"targets are {tuple(targets.shape)}, expected {(len(pictures), len(names))}")
    except (KeyError, TypeError, ValueError, OverflowError, DataError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} does not hold the labels of the pictures beside it: {said}; mend or remove it"
        ) from error
    return targets.to(torch.float32), names


def _pictures(files: Sequence[Path], folder: Path) -> Tensor:
    """Pictures of one size as [n, C, H, W] in [0, 1].

    Raises:
        DataError: as `_picture` does, or pictures that hold more values than a set has, or than their files can mean.
    """
    images: list[Tensor] = []
    packed = 0
    for file in files:
        images.append(_picture(file, images[0] if images else None))
        packed += file.stat().st_size
        values = len(images) * images[0].numel()
        if values > _LARGEST:
            raise DataError(f"{folder} holds more pictures than a set is taken to have; name a data set instead")
        require_honest(f"{folder} up to {file.name}", packed, values, "name a data set instead", times=4)
    return torch.stack(images)


def _picture(path: Path, like: Tensor | None) -> Tensor:
    """A picture [C, H, W] in [0, 1].

    Args:
        path: the file.
        like: a picture whose size and channels it has to have; None takes one channel for grey ones, else three.

    Raises:
        DataError: not readable, too large, or of another size.
    """
    found = read_picture(path, None, "grey" if like is not None and len(like) == 1 else "auto")
    if found.ndim == 2 and like is not None and len(like) == 3:
        found = np.stack([found] * 3, axis=2)
    if found.size > _LARGEST_PICTURE:
        raise DataError(
            f"{path} has {found.size:,} values, at most {_LARGEST_PICTURE:,} in a set; name a data set instead"
        )
    array = np.array(found, dtype=np.float32) / 255
    tensor = torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    if like is not None and tensor.shape != like.shape:
        raise DataError(f"{path} is {tuple(tensor.shape)}, the pictures before it {tuple(like.shape)}")
    return tensor
