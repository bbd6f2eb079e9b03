"""`imagefolder`: your own pictures, in one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import attrs
import torch
from attrs import frozen
from attrs.validators import gt, in_, lt

from ddfw import AbstractDataset, DataError, Splits, Stream, option, required_option
from ddfw.contracts.classes import class_order, split_of
from ddfw.contracts.dataset import stratified_split
from ddfw.randomness import derive_seed
from ddfw_plugins.datasets import _official, _pictures
from ddfw_plugins.picture_files import SUFFIXES

_LAYOUT = "expected one folder of pictures for each class, or train/ and test/ (and val/) with such folders in each"


def _positive(instance: object, attribute: attrs.Attribute[Any], value: int | tuple[int, int] | None) -> None:
    sides = value if isinstance(value, tuple) else (value, value)
    if value is not None and not (len(sides) == 2 and all(isinstance(n, int) and 1 <= n <= 4096 for n in sides)):
        raise ValueError(f"must be one or two integers from 1 to 4096, got {value}")


@final
@frozen(kw_only=True)
class ImageFolder(AbstractDataset):
    """Your own pictures: a folder with one folder of pictures for each class.

    The folders' names are the classes' names; names that differ in a number alone are in the order of their numbers,
    others in the order of their text.
    If there are folders `train` and `test`, each holds the class folders of that split, as `val` does for validation
    (and for testing where there is no `test`); other spellings such as `Training` or `valid` mean the same. Otherwise a
    part of all images becomes the test split. Pictures (JPEG, PNG, WebP, GIF, BMP, TIFF, PNM) may be at any depth below
    a class folder; hidden files and files with other suffixes are ignored. Pictures are turned upright as their EXIF
    data say, transparency becomes white, 16-bit values become 8-bit values, and the first frame of an animation is
    used.
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
        parts, notes = _parts(folder)
        names, said = class_order(_classes(parts["train"], folder))
        for part in parts.values():
            _require_same(names, _classes(part, folder), parts["train"], part)
        rows = {
            split: [(p, n) for n, name in enumerate(names) for p in _pictures_in(part / name, folder)]
            for split, part in parts.items()
        }
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        every = _pictures.read_all(
            [row for part in rows.values() for row in part],
            str(folder),
            size=size,
            resize=size is not None,
            colour=self.colour,
            way_out="set data.size to bring all images to one size",
        )
        if len(parts) > 1:
            places = torch.arange(len(every.labels)).split([len(part) for part in rows.values()])
            found = {split: every.take(place) for split, place in zip(rows, places, strict=True)}
        else:
            kept, held = stratified_split(every.labels, self.test, derive_seed(self.split_seed, Stream.TEST_SPLIT))
            found = {"train": every.take(kept), "test": every.take(held)}
        return Splits.carve(
            found["train"],
            found["test"],
            validation=found.get("validation"),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=names,
            source=f"the user's folder {folder.name}",
            licence="not stated",
            notes=(*notes, *([said] if said else ())),
        )


def _parts(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The folders of the splits, or the one folder (`train`) from which all are taken, with notes about them.

    Raises:
        DataError: folders of splits that are not complete, or of which two may be the same split.
    """
    folders = [_inside(path, folder) for path in _entries(folder) if os.path.isdir(path)]
    named: dict[str, list[Path]] = {}
    for path in folders:
        if split := split_of(path.name):
            named.setdefault(split, []).append(path)
    inner = {path: {p.name for p in _entries(path) if os.path.isdir(p)} for path in folders}
    if "train" not in named or len(named) < 2 or not any(inner[path] for path in named["train"]):
        _require_classes(folder, inner)
        return {"train": folder}, []
    for split, paths in named.items():
        if len(paths) > 1:
            raise DataError(
                f"{folder}: {paths[0].name}/ and {paths[1].name}/ may both be the {split} split; rename one"
            )
    parts = {split: paths[0] for split, paths in named.items()}
    notes = []
    if "test" not in parts:
        parts["test"] = parts.pop("validation")
        notes.append(f"{parts['test'].name}/ is the test split, since there is no folder test/")
    elif "validation" in parts:
        notes.append(f"{parts['validation'].name}/ is the validation split; data.validation is not used")
    if other := [path.name for path in folders if not split_of(path.name)]:
        notes.append(f"folders beside those of the splits are passed over: {', '.join(other[:5])}")
    return {split: parts[split] for split in ("train", "validation", "test") if split in parts}, notes


def _require_classes(folder: Path, inner: Mapping[Path, set[str]]) -> None:
    """Refuses folders that are not classes: splits, or other parts with the same class folders in each.

    Args:
        folder: the folder that the user named.
        inner: the names of the subfolders of each of its folders.

    Raises:
        DataError: they are not classes.
    """
    if len(inner) < 2:
        return
    splits = [path.name for path in inner if split_of(path.name)]
    same = set.intersection(*inner.values())
    if len(splits) == len(inner) or len(same) > 1 or any(map(split_of, same)) or _shared(inner):
        shown = ", ".join(f"{path.name}/" for path in list(inner)[:3]) + (", …" if len(inner) > 3 else "")
        held = f"each of which has {', '.join(f'{name}/' for name in sorted(same)[:3])} …" if same else "some as splits"
        raise DataError(f"{folder} holds {shown} ({held}), which are no classes; {_LAYOUT}")


def _shared(inner: Mapping[Path, set[str]]) -> bool:
    """Whether a folder that is named as a split has several subfolders that another folder has too."""
    return any(
        split_of(path.name) and len(names & other) > 1
        for path, names in inner.items()
        for place, other in inner.items()
        if place != path
    )


def _classes(part: Path, folder: Path) -> list[str]:
    """The names of the class folders."""
    names = [path.name for path in _entries(part) if os.path.isdir(path) and _inside(path, folder)]
    if len(names) < 2:
        there = f"only the folder {names[0]!a}" if names else "no folder"
        raise DataError(f"{part} has {there}; {_LAYOUT}, and at least two classes")
    return names


def _require_same(train: Sequence[str], other: Sequence[str], first: Path, part: Path) -> None:
    different = sorted(set(train) ^ set(other))
    if different:
        there, lacks = (first.name, part.name) if different[0] in train else (part.name, first.name)
        where = f"in {there}/ but not in {lacks}/"
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
