"""What every data set has to hold before a run uses it, and what its user has to know about it.

Shapes: n images, m classes, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ddfw.contracts.subsets import check_split
from ddfw.errors import DataError

if TYPE_CHECKING:
    from ddfw.contracts.splits import Split

#: Pixel ranges are called different if the brightest pixel of one split is more than so many times that of another.
RANGES_DIFFER = 4
#: Images are called dark if their brightest pixel is less than `max_value` divided by this.
DARK = 10
#: Copies of images are told of if more than this fraction of a split are copies.
COPIES = {"train": 0.1, "other": 0.01}


def check_splits(parts: dict[str, Split], class_names: Sequence[str], max_value: float) -> None:
    """Refuses splits from which no run can learn, or which contradict each other.

    Args:
        parts: the splits by their names, the training split first.
        class_names: the names of the m classes.
        max_value: the value of the brightest pixel.

    Raises:
        DataError: fewer than two classes, two of one name, or a split that `check_split` refuses; splits of different
            shapes; a class without a training image; training images that are all the same.
    """
    m = len(class_names)
    if m < 2:
        raise DataError(f"the data have {m} class{'es' * (m != 1)}; a network needs two or more to tell apart")
    if twice := [name for name, count in Counter(class_names).items() if count > 1]:
        raise DataError(f"two classes are named {twice[0]!a}; give each class a name of its own")
    check_parts(parts, m, max_value)
    train = parts["train"]
    if missing := _missing(train, class_names):
        raise DataError(f"no training image of {_listed(missing)}; add some, or leave these classes out (data.classes)")
    if len(train.labels) > 1 and not any(bool((image != train.images[0]).any()) for image in train.images):
        raise DataError(f"all {len(train.labels):,} training images are the same; there is nothing to learn from them")


def check_parts(parts: dict[str, Split], num_classes: int, max_value: float) -> None:
    """Refuses splits that `check_split` refuses, and splits of different shapes.

    Args:
        parts: the splits by their names, the training split first.
        num_classes: number m of classes.
        max_value: the value of the brightest pixel.

    Raises:
        DataError: a split does not hold such images and labels, or has images of another shape than the first.
    """
    for name, split in parts.items():
        check_split(name, split, num_classes, max_value)
        shape, first = tuple(split.images.shape[1:]), tuple(parts["train"].images.shape[1:])
        if shape != first:
            raise DataError(
                f"train images are {first} but {name} images {shape} (channels, height, width); both splits need one "
                "shape"
            )


def data_notes(parts: dict[str, Split], class_names: Sequence[str], max_value: float) -> tuple[str, ...]:
    """One line for each thing about checked splits that makes figures mean something else than they seem to.

    Args:
        parts: the splits by their names, the training split first.
        class_names: the names of the m classes.
        max_value: the value of the brightest pixel.
    """
    return (
        *_missing_notes(parts, class_names),
        *_range_notes(parts, max_value),
        *_copy_notes(parts),
    )


def _missing(split: Split, class_names: Sequence[str]) -> list[str]:
    """The names of the classes without an image."""
    counts = split.labels.bincount(minlength=len(class_names)).tolist()
    return [name for name, count in zip(class_names, counts, strict=True) if not count]


def _listed(names: Sequence[str]) -> str:
    return f"class{'es' * (len(names) > 1)} {', '.join(names[:5])}" + (", …" if len(names) > 5 else "")


def _missing_notes(parts: dict[str, Split], class_names: Sequence[str]) -> Iterator[str]:
    for name, split in parts.items():
        if missing := _missing(split, class_names):
            yield (
                f"{len(missing)} of {len(class_names)} classes have no {name} image ({_listed(missing)}): {name} "
                "accuracies tell nothing about them"
            )


def _range_notes(parts: dict[str, Split], max_value: float) -> Iterator[str]:
    brightest = {name: float(split.images.max()) for name, split in parts.items()}
    train = brightest.pop("train")
    for name, value in brightest.items():
        if max(value, train) > RANGES_DIFFER * min(value, train):
            yield (
                f"the brightest {name} pixel is {value:g}, the brightest training pixel {train:g}: if these splits "
                "were scaled differently, their accuracies mean nothing"
            )
    if DARK * train < max_value:
        yield (
            f"the brightest training pixel is {train:g} of {max_value:g}: if that is white, say so by data.max_value, "
            "or scale the images"
        )


def _copy_notes(parts: dict[str, Split]) -> Iterator[str]:
    known: dict[int, int] = {}
    for name, split in parts.items():
        found = list(zip(_contents(split), split.labels.tolist(), strict=True))
        copies, contrary = _copies(found, known)
        if copies > COPIES["train" if name == "train" else "other"] * len(found):
            of = "others" if name == "train" else "training images"
            yield f"{copies:,} of the {len(found):,} {name} images are copies of {of}"
        if contrary:
            yield f"{contrary:,} {name} images are copies of training images of another class"


def _copies(found: Iterable[tuple[int, int]], known: dict[int, int]) -> tuple[int, int]:
    """How many of some images are copies of known ones, and how many of those have another label.

    Args:
        found: hash and label of each image.
        known: hash and label of the training images; empty for the training images themselves, and then filled.
    """
    fill, copies, contrary = not known, 0, 0
    for content, label in found:
        there = known.get(content)
        copies += there is not None
        contrary += there is not None and there != label
        if fill:
            known.setdefault(content, label)
    return copies, contrary


def _contents(split: Split) -> Iterator[int]:
    """A hash of each image, for comparisons within this process."""
    import torch

    rows = split.images.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    return (hash(row.tobytes()) for row in rows)
