"""`imagefolder`: your own pictures, in one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import attrs
import torch
from attrs import frozen
from attrs.validators import gt, in_, lt

from ddfw import AbstractDataset, DataError, Split, Splits, Stream, option, required_option
from ddfw.contracts.dataset import stratified_split
from ddfw.randomness import derive_seed
from ddfw_plugins.datasets import _official, _pictures
from ddfw_plugins.picture_files import SUFFIXES

_LAYOUT = "expected one folder of pictures for each class, or train/ and test/ (or val/) with such folders in each"


def _positive(instance: object, attribute: attrs.Attribute[Any], value: int | tuple[int, int] | None) -> None:
    sides = value if isinstance(value, tuple) else (value, value)
    if value is not None and not (len(sides) == 2 and all(isinstance(n, int) and 1 <= n <= 4096 for n in sides)):
        raise ValueError(f"must be one or two integers from 1 to 4096, got {value}")


@final
@frozen(kw_only=True)
class ImageFolder(AbstractDataset):
    """Your own pictures: a folder with one folder of pictures for each class.

    The folders' names are the classes' names.
    If there are folders `train` and `test` (or `val`), each holds the class folders of that split; otherwise a part of
    all images becomes the test split. Pictures (JPEG, PNG, WebP, GIF, BMP, TIFF, PNM) may be at any depth below a class
    folder; hidden files and files with other suffixes are ignored. Pictures are turned upright as their EXIF data say,
    transparency becomes white, 16-bit values become 8-bit values, and the first frame of an animation is used.
    """

    name: ClassVar[str] = "imagefolder"

    path: str = required_option(help="the folder; relative to the data root, or else to the current folder")
    size: int | tuple[int, int] | None = option(
        None,
        validator=_positive,
        help="height and width, or one number for both; pictures are cropped around the centre to that shape and "
        "scaled (Lanczos); default: their own size, which must be the same for all",
    )
    colour: Literal["auto", "grey", "rgb"] = option(
        "auto", validator=in_(("auto", "grey", "rgb")), help="colour channels; auto: grey if every picture is grey"
    )
    test: float = option(
        0.2,
        validator=[gt(0.0), lt(1.0)],
        help="fraction of each class's images in the test split (random, seeded), unless there is a folder for it",
    )

    def load(self, root: Path | None) -> Splits:
        """Finds all pictures, sorted by their names, and reads them."""
        # Links below the folder must lead to files inside it, so the folder's own links are resolved first.
        folder = _official.find(root, self.path, os.path.isdir, "folder", f"set data.path ({_LAYOUT})").resolve()
        parts = _parts(folder)
        names = _classes(parts[0], folder)
        for part in parts[1:]:
            _require_same(names, _classes(part, folder), part)
        rows = [[(p, n) for n, name in enumerate(names) for p in _pictures_in(part / name, folder)] for part in parts]
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        every = _pictures.read_all(
            [row for part in rows for row in part],
            str(folder),
            size=size,
            resize=size is not None,
            colour=self.colour,
            way_out="set data.size to bring all images to one size",
        )
        if len(parts) == 2:
            kept, held = torch.arange(len(every.labels)).split([len(part) for part in rows])
        else:
            kept, held = stratified_split(every.labels, self.test, derive_seed(self.split_seed, Stream.TEST_SPLIT))
        return Splits.carve(
            Split(images=every.images[kept], labels=every.labels[kept]),
            Split(images=every.images[held], labels=every.labels[held]),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=names,
            source=f"the user's folder {folder.name}",
            licence="not stated",
        )


def _parts(folder: Path) -> list[Path]:
    """The folders of the training and the test split, or the one folder from which both are taken."""
    for test in ("test", "val"):
        if os.path.isdir(folder / "train") and os.path.isdir(folder / test):
            return [_inside(folder / "train", folder), _inside(folder / test, folder)]
    return [folder]


def _classes(part: Path, folder: Path) -> list[str]:
    """The names of the class folders, sorted."""
    names = [path.name for path in _entries(part) if os.path.isdir(path) and _inside(path, folder)]
    if len(names) < 2:
        there = f"only the folder {names[0]!a}" if names else "no folder"
        raise DataError(f"{part} has {there}; {_LAYOUT}, and at least two classes")
    return names


def _require_same(train: Sequence[str], test: Sequence[str], part: Path) -> None:
    different = sorted(set(train) ^ set(test))
    if different:
        where = f"in train/ but not in {part.name}/" if different[0] in train else f"in {part.name}/ but not in train/"
        raise DataError(f"{part.parent}: class {different[0]!a} is {where}; both need the same class folders")


def _pictures_in(place: Path, folder: Path) -> list[Path]:
    """The pictures at any depth below a class's folder, sorted by their paths."""
    found, other, waiting = [], [], [place]
    while waiting:
        for path in _entries(waiting.pop()):
            _inside(path, folder)
            if os.path.isdir(path):
                waiting.append(path)
            elif path.suffix.lower() in SUFFIXES:
                found.append(path)
            else:
                other.append(path.name)
    if not found:
        more = f" ({len(other)} other files were passed over, such as {other[0]!a})" if other else ""
        raise DataError(f"{place} holds no picture{more}; put pictures there, or take the folder away")
    return sorted(found, key=lambda p: p.relative_to(place).parts)


def _entries(place: Path) -> list[Path]:
    """The entries of a folder that are not hidden, sorted."""
    try:
        names = sorted(name for name in os.listdir(place) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}") from error
    for name in names:
        if not name.isprintable():
            raise DataError(f"{place} holds {name!a}, a name that cannot be printed; rename it")
    return [place / name for name in names]


def _inside(path: Path, folder: Path) -> Path:
    """The path; an error if it is a link that leads out of the folder, to nothing, or to a folder."""
    if not os.path.islink(path):
        return path
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} is a link that leads nowhere; take it out") from error
    if not target.is_relative_to(folder):
        raise DataError(f"{path} is a link out of {folder}; put what it leads to in its place")
    if os.path.isdir(target):
        raise DataError(f"{path} is a link to a folder; put a real folder in its place")
    return path
