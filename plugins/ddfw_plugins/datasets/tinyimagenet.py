"""`tinyimagenet`: the folder that the official tiny-imagenet-200.zip unpacks to."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import ClassVar, final

from attrs import frozen

from ddfw import AbstractDataset, DataError, OptionError, Split, Splits
from ddfw_plugins.datasets import _official, _pictures

_FOLDER = "tiny-imagenet-200"
_ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_TEXT = _official.OfficialFile(None, 1 << 24)


@final
@frozen(kw_only=True)
class TinyImageNet(AbstractDataset):
    """110,000 colour photographs of 64×64 pixels in 200 classes.

    The official validation images are the test split.
    The images are read from `<data root>/tiny-imagenet-200`. The official test images have no labels and are not used;
    the validation split is taken from the training images. A folder with fewer classes or images is accepted if all
    classes have the same number of images; the card then says so. There is no download, since torchvision has none.
    """

    name: ClassVar[str] = "tinyimagenet"
    citation: ClassVar[str] = """@techreport{le2015tiny,
  title = {Tiny {ImageNet} Visual Recognition Challenge},
  author = {Le, Ya and Yang, Xuan},
  institution = {Stanford University},
  note = {CS 231N},
  year = {2015}
}"""

    def load(self, root: Path | None) -> Splits:
        """Reads every picture, which takes minutes for the whole data set."""
        root = _official.below(root, self.name, _FOLDER)
        folder, way_out = root / _FOLDER, f"unpack {_ADDRESS} in {root}"
        wnids = _wnids(folder, way_out)
        train = [(path, label) for label, wnid in enumerate(wnids) for path in _of_class(folder, wnid, way_out)]
        test = _annotated(folder, wnids, way_out)
        for what, rows in (("training", train), ("validation", test)):
            counts = Counter(label for _, label in rows)
            if len(set(counts.values())) != 1 or len(counts) != len(wnids):
                least = min(range(len(wnids)), key=lambda n: counts[n])
                raise DataError(
                    f"{folder} is not complete: {wnids[least]} has {counts[least]} {what} images, others have "
                    f"{max(counts.values(), default=0)}; {way_out} again"
                )
        # Both splits are read into one tensor, so that no picture is in memory twice.
        both = _pictures.read_all(
            [*train, *test], self.name, size=(64, 64), resize=False, colour="rgb", way_out=way_out
        )
        whole = (len(train), len(test)) == (100_000, 10_000)
        part = "" if whole else f"; a part: {len(train):,} training and {len(test):,} test images"
        return Splits.carve(
            Split(images=both.images[: len(train)], labels=both.labels[: len(train)]),
            Split(images=both.images[len(train) :], labels=both.labels[len(train) :]),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=_class_names(folder, wnids, way_out),
            source=f"Tiny ImageNet (Stanford CS 231N), the official validation images for testing{part}",
            licence="ImageNet's terms: non-commercial research and education",
        )

    def download(self, root: Path) -> None:
        """Raises an error that says where the archive is, since torchvision has no download for it.

        Raises:
            OptionError: always.
        """
        raise OptionError(f"{self.name} is not downloaded; unpack {_ADDRESS} in {root} and leave --download out")


def _lines(path: Path, way_out: str) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = _official.read(path, _TEXT, way_out).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file; {way_out} again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _wnids(folder: Path, way_out: str) -> list[str]:
    """The identifiers (wnids) of the classes, which are also names of folders, in the order of the labels."""
    path = folder / "wnids.txt"
    wnids = _lines(path, way_out)
    if any(not re.fullmatch(r"n[0-9]{8}", w) for w in wnids) or len(set(wnids)) != len(wnids) or len(wnids) < 2:
        raise DataError(f"{path} is not a list of different identifiers like n01443537; {way_out} again")
    return wnids


def _class_names(folder: Path, wnids: list[str], way_out: str) -> list[str]:
    """The first word of each class's description, followed by the identifier if two classes have the same word."""
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt", way_out) if "\t" in line)
    first = [words.get(w, "").split(",")[0].strip() for w in wnids]
    first = [name if name and name.isprintable() else wnid for name, wnid in zip(first, wnids, strict=True)]
    shared = Counter(first)
    return [name if shared[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(first, wnids, strict=True)]


def _of_class(folder: Path, wnid: str, way_out: str) -> list[Path]:
    """The training images of a class, in the order of their numbers."""
    place = folder / "train" / wnid / "images"
    try:
        found = [(re.fullmatch(rf"{wnid}_([0-9]{{1,6}})\.JPEG", p.name), p) for p in place.iterdir()]
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror or error}; {way_out}") from error
    return [_inside(p, folder, way_out) for _, p in sorted((int(match[1]), p) for match, p in found if match)]


def _annotated(folder: Path, wnids: list[str], way_out: str) -> list[tuple[Path, int]]:
    """The official validation images with their labels, in the order of their annotation file."""
    path, numbers = folder / "val" / "val_annotations.txt", {w: n for n, w in enumerate(wnids)}
    rows = []
    for line in _lines(path, way_out):
        file, wnid, *_ = (*line.split("\t"), "", "")
        if not re.fullmatch(r"val_[0-9]{1,6}\.JPEG", file) or wnid not in numbers:
            raise DataError(f"{path} has the line {line[:80]!a}, expected an image val_N.JPEG and a class; {way_out}")
        rows.append((_inside(folder / "val" / "images" / file, folder, way_out), numbers[wnid]))
    if len({file for file, _ in rows}) != len(rows):
        raise DataError(f"{path} names an image twice; {way_out} again")
    return rows


def _inside(path: Path, folder: Path, way_out: str) -> Path:
    """The path; an error if links lead out of the folder, so that no other file of the disk becomes an image."""
    if not os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep):
        raise DataError(f"{path} leads out of {folder}; {way_out}")
    return path
