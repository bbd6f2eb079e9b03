"""`npz`: your own images and labels, in one NumPy archive."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from attrs import frozen
from attrs.validators import gt, optional

from ddfw import AbstractDataset, DataError, Split, Splits, option, required_option
from ddfw_plugins.datasets import _official

#: For each of the four arrays its possible names in the archive; the first that exists is used.
ALIASES = {
    "train_images": ("train_images", "x_train"),
    "train_labels": ("train_labels", "y_train"),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}
#: The same for the two arrays of a validation split, which an archive may have.
_VALIDATION = ("val", "valid", "validation", "dev")
OPTIONAL = {
    "validation_images": tuple(name for v in _VALIDATION for name in (f"{v}_images", f"x_{v}")),
    "validation_labels": tuple(name for v in _VALIDATION for name in (f"{v}_labels", f"y_{v}")),
}


#: Exceptions besides ValueError and OSError that reading a damaged archive can raise.
DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, MemoryError)


@final
@frozen(kw_only=True)
class Npz(AbstractDataset):
    """Your own images from a NumPy .npz file.

    Its arrays are train_images, train_labels, test_images, test_labels (or x_train, y_train, x_test, y_test), and
    val_images and val_labels (or x_val, y_val) if it has a validation split of its own.
    Images are [n, H, W], [n, H, W, C] or [n, C, H, W] with C = 1 or 3, uint8 or floating point; labels are integers
    from 0. Nothing in the file is executed; arrays of Python objects are an error.
    """

    name: ClassVar[str] = "npz"

    path: str = required_option(help="the file; relative to the data root, or else to the current folder")
    max_value: float | None = option(
        None, validator=optional(gt(0.0)), help="value of the brightest pixel; default: 255 for uint8, 1 for floats"
    )
    class_names: tuple[str, ...] | None = option(None, help="one name per class; default: 0, 1, 2, …")

    def load(self, root: Path | None) -> Splits:
        """Reads the arrays of the archive."""
        path = _official.find(root, self.path, Path.is_file, "data file", "set data.path")
        arrays, other = _read(path)
        train, test = _split(arrays, "train", path), _split(arrays, "test", path)
        own = "validation_images" in arrays
        validation = _split(arrays, "validation", path) if own else None
        for name, split in (("validation", validation), ("test", test)):
            if self.max_value is None and split is not None and train.images.dtype != split.images.dtype:
                raise DataError(
                    f"{path}: train images are {arrays['train_images'].dtype}, {name} images "
                    f"{arrays[f'{name}_images'].dtype}, and the brightest pixel of one is not that of the other; save "
                    "both in one dtype, or say by data.max_value what the brightest pixel of both is"
                )
        brightest = self.max_value or (255.0 if train.images.dtype == torch.uint8 else 1.0)
        if self.max_value is None and (most := float(train.images.max())) > brightest:
            raise DataError(
                f"{path}: train pixels are floats up to {most:g}, expected 0 … 1; save pixels / {most:g}, or say by "
                "data.max_value what the brightest pixel is"
            )
        first = int(train.labels.min())
        if first > 0:
            raise DataError(
                f"{path}: train labels are {first} … {int(train.labels.max())}, but labels count from 0; "
                f"save them as labels - {first}"
            )
        classes = int(train.labels.max()) + 1
        if classes > len(train.labels):
            raise DataError(
                f"{path} has a label {classes - 1}, but only {len(train.labels)} training images; count from 0"
            )
        if self.class_names is not None and len(self.class_names) < classes:
            raise DataError(f"{path} has {classes} classes, but class_names names {len(self.class_names)}")
        notes = [f"{path.name} has a validation split, which is used; data.validation is not"] if own else []
        notes += [f"other arrays of {path.name} are passed over: {', '.join(map(ascii, other[:5]))}"] if other else []
        return Splits.carve(
            train,
            test,
            validation=validation,
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=brightest,
            class_names=self.class_names or [str(i) for i in range(classes)],
            source=f"the user's file {path.name}{', with its own validation split' if own else ''}",
            licence="not stated",
            notes=notes,
        )


def _read(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of the archive, and the names of others; anything but a .npz file of plain numbers is an error."""
    try:
        # The file is opened here, because numpy does not close a file that it opened itself if the archive is damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array; expected an .npz archive with {', '.join(ALIASES)}")
            with archive:
                used = {key: _member(archive, names, path) for key, names in _wanted(archive.files).items()}
                other = [name for name in archive.files if name not in used.values()]
                return {key: archive[name] for key, name in used.items()}, other
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, *DAMAGED) as error:
        # numpy's error text is dropped where it recommends a way of loading that would run code.
        reason = "" if "unsafe" in str(error) else f": {error}"
        raise DataError(f"{path} is not a readable .npz archive of plain numbers{reason}") from error


def _wanted(there: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The possible names of the arrays to read: those of a validation split if one of them is there."""
    own = any(name in there for names in OPTIONAL.values() for name in names)
    return ALIASES | (OPTIONAL if own else {})


def _member(archive: np.lib.npyio.NpzFile, names: tuple[str, ...], path: Path) -> str:
    """The name of an array in the archive."""
    present = [name for name in names if name in archive.files]
    if not present:
        there = ", ".join(archive.files[:8]) or "nothing"
        raise DataError(f"{path} has no array {' or '.join(names)}; it holds {there}")
    return present[0]


def _split(arrays: dict[str, np.ndarray], which: str, path: Path) -> Split:
    images, labels = arrays[f"{which}_images"], arrays[f"{which}_labels"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise DataError(
            f"{path}: {which} labels are {labels.shape}, expected [n] class numbers; of rows with a one for the class "
            "save labels.argmax(axis=1)"
        )
    if labels.ndim != 1 or images.ndim not in (3, 4) or len(labels) != len(images) or images.size == 0:
        raise DataError(
            f"{path}: {which}: expected images [n, C, H, W] and labels [n] (or images [n, H, W], [n, H, W, C]) with "
            f"1 or 3 channels, none of them empty; got {images.shape} and {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: {which} labels are {labels.dtype}, expected integers, class numbers from 0")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise DataError(
            f"{path}: {which} images are {images.dtype}, expected uint8 or floats; save them as floats, divided by the "
            "value of white"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"{path}: {which} images have shape {images.shape}, expected [n, H, W], [n, H, W, C] or [n, C, H, W] "
            "with 1 or 3 channels"
        )
    pixels = images if images.dtype == np.uint8 else images.astype(np.float32)
    return Split(
        images=torch.from_numpy(np.ascontiguousarray(pixels)), labels=torch.from_numpy(labels.astype(np.int64))
    )
