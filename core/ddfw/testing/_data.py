"""The conformance check of data sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from attrs import evolve
from torch import Tensor

from ddfw.contracts.dataset import AbstractDataset, SealedSplit, Split, Splits
from ddfw.testing._common import Checked, same
from ddfw.testing._component import checking


def check_data(data: AbstractDataset, root: Path | None = None, *, official_validation: bool = False) -> None:
    """Checks a data set's `load`.

    Args:
        data: the data set, with the options to check.
        root: the data root; None for data sets that need none.
        official_validation: whether the data come with a validation split, so that `split_seed` draws none.

    Raises:
        ConformanceError: the data set breaks its contract; the text tells the first fault found.
    """
    with checking("data", data, AbstractDataset) as subject:
        hint = "pass the data root that it needs as `root`" if root is None else ""
        splits = subject.once("load", data.splits, root, hint=hint)
        wrong = f"load has to return Splits, got {type(splits).__name__}; Splits.carve makes them"
        subject.require(isinstance(splits, Splits), wrong)
        _check_facts(subject, splits)
        parts = _parts(splits)
        for name, split in parts.items():
            _check_split(subject, name, split, splits)
        _check_disjoint(subject, parts)
        _check_seeds(subject, data, root, parts, official_validation)


def _parts(splits: Splits) -> dict[str, Split]:
    return {"train": splits.train, "validation": splits.validation, "test": splits.test.read()}


def _check_facts(subject: Checked, splits: Splits) -> None:
    subject.require(isinstance(splits.test, SealedSplit), "the test split is not a SealedSplit; readings are counted")
    wrong = f"load reads the test split ({splits.test.reads} times); it is read once, at the very end of a run"
    subject.require(splits.test.reads == 0, wrong)
    names = splits.class_names
    subject.require(
        isinstance(names, tuple) and len(names) == splits.spec.num_classes and len(set(names)) == len(names),
        f"class_names has to be a tuple of {splits.spec.num_classes} different names, got {names!r}",
    )
    subject.require(splits.max_value > 0, f"max_value is {splits.max_value}; it is what the brightest pixel holds")
    notes = isinstance(splits.notes, tuple) and all(isinstance(note, str) for note in splits.notes)
    subject.require(notes, f"notes has to be a tuple of texts, got {splits.notes!r}")
    for fact in ("licence", "source"):
        wrong = f"load names no {fact}; the card of a learned set needs it, 'not stated' if that is the case"
        subject.require(str(getattr(splits, fact)).strip(), wrong)


def _check_split(subject: Checked, name: str, split: Split, splits: Splits) -> None:
    images, labels, spec = split.images, split.labels, splits.spec
    shape = (len(labels), *spec.shape)
    subject.require(
        tuple(images.shape) == shape and labels.ndim == 1 and len(labels),
        f"the {name} split has images {tuple(images.shape)} and labels {tuple(labels.shape)}, expected {shape} and "
        f"({len(labels)},), none of them empty",
    )
    kind = images.dtype == torch.uint8 or images.is_floating_point()
    subject.require(kind, f"the {name} images are {images.dtype}, expected uint8 or floating")
    subject.require(labels.dtype == torch.int64, f"the {name} labels are {labels.dtype}, expected int64")
    for what, part in (("images", images), ("labels", labels)):
        subject.require(part.device.type == "cpu", f"the {name} {what} are on {part.device}, not CPU")
    values = (
        ("pixels", images, splits.max_value, " (max_value) and no NaN"),
        ("labels", labels, spec.num_classes - 1, ""),
    )
    for what, part, most, hint in values:
        low, high = part.min().item(), part.max().item()
        wrong = f"the {name} {what} lie in [{low}, {high}], expected [0, {most}]{hint}"
        subject.require(low >= 0 and high <= most, wrong)
    missing = sorted(set(range(spec.num_classes)) - set(labels.tolist()))
    wrong = f"the {name} split has no image of class {missing[:5]}; every class has to be in train and validation"
    subject.require(name == "test" or not missing, wrong)


def _contents(images: Tensor) -> Counter[bytes]:
    return Counter(image.tobytes() for image in images.contiguous().numpy())


def _check_disjoint(subject: Checked, parts: dict[str, Split]) -> None:
    """Checks that two splits share few images; splits that repeat over a tenth of their own images are not compared."""
    contents = {name: _contents(split.images) for name, split in parts.items()}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        unique = all(len(contents[name]) > 0.9 * contents[name].total() for name in (a, b))
        shared = sum(count for image, count in contents[b].items() if image in contents[a])
        subject.require(
            not unique or shared <= 0.5 * contents[b].total(),
            f"{shared} of {contents[b].total()} images of the {b} split are {a} images too; splits have to be disjoint",
        )


def _check_seeds(
    subject: Checked, data: AbstractDataset, root: Path | None, parts: dict[str, Split], official_validation: bool
) -> None:
    """Checks that equal `split_seed`s give equal splits and different ones different validation splits."""

    def load(component: AbstractDataset) -> dict[str, Split]:
        return _parts(component.splits(root))

    other = subject.once("load", load, evolve(data, split_seed=data.split_seed + 1))
    subject.require(
        official_validation or not same(parts["validation"].images, other["validation"].images),
        "load gives the same validation split for another split_seed; carve it with Splits.carve (or pass "
        "official_validation=True if the data come with one)",
    )
    subject.require(
        same(parts, subject.once("load", load, data, seed=2)),
        "load gives other splits when it is called again: they are a function of the files and of split_seed alone, "
        "without state between calls and without global generators, or runs are not reproducible",
    )
