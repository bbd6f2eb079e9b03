"""Labelled images from anywhere: a run, an export, or files that other programs made.

Shapes: n images, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from ddfw.contracts.records import Card, as_card
from ddfw.contracts.space import AffineSpace, WhitenedSpace
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.space import TrainingSpace

#: Largest size in bytes of one file of a set, and of its images: that of 200 images of each class of TinyImageNet.
MAX_SET = 1 << 32
_FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
_INTEGERS = ("torch.uint8", "torch.int8", "torch.int16", "torch.int32", "torch.int64")


@frozen(kw_only=True, eq=False)
class ImageSet:
    """A set of labelled images from anywhere.

    Args:
        images: [n, C, H, W] floating: in training space, or pixels in [0, 1] where `pixels` says so.
        targets: classes [n] (int64) or probabilities [n, m].
        origin: what it is and where it lies, in words.
        pixels: whether the images are pixels.
        step_size: the learning rate that it was learned for, None if nobody says.
        step_size_origin: what and where that is, in words.
        step: the outer step, where there is one.
        space: the training space that it was learned in, None if nobody says.
        class_names: in the order of the classes, None if nobody says.
        floats: what it stores, {strict, pixels}, None for what its tensors hold.
        card: the card of an export or a run, empty for other sets.
        notes: what a reader of its figures has to know.
    """

    images: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    origin: str = "a set of images"
    pixels: bool = False
    step_size: float | None = None
    step_size_origin: str = "its step size"
    step: int | None = None
    space: TrainingSpace | None = None
    class_names: tuple[str, ...] | None = None
    floats: Mapping[str, int] | None = None
    card: Card = field(factory=Card, converter=as_card)
    notes: tuple[str, ...] = ()


def checked_image_set(found: ImageSet, path: Path, *, labels: Path | None = None, card: Path | None = None) -> ImageSet:
    """The same set, after a check of its shapes, dtypes and values; the files may come from anyone.

    Args:
        found: the set.
        path: where its images lie, for error texts.
        labels: where its labels lie, for error texts; None: there as well.
        card: where everything else of it is said, for error texts; None: there as well.

    Raises:
        DataError: images or targets of a wrong shape, dtype or range, or impossible facts about them.
    """
    checks = (path, _check_images), (labels, _check_targets), (card, _check_facts), (card, _check_space)
    for where, check in checks:
        for holds, words in check(found):
            if not holds:
                raise DataError(f"{where or path}: {words}")
    return found


def _shapes(found: ImageSet) -> str:
    images, targets = found.images, found.targets
    return f"images {tuple(images.shape)} {images.dtype} and labels {tuple(targets.shape)} {targets.dtype}"


def _check_images(found: ImageSet) -> Iterator[tuple[bool, str]]:
    """What has to hold of a set's images, each with what is wrong if it does not."""
    images = found.images
    fits = images.ndim == 4 and str(images.dtype) in _FLOATS and images.numel() > 0
    yield fits, f"{_shapes(found)}; expected floating images [n, C, H, W]"
    yield bool(images.isfinite().all()), "images are not finite numbers"


def _check_targets(found: ImageSet) -> Iterator[tuple[bool, str]]:
    """What has to hold of a set's labels beside its images."""
    images, targets = found.images, found.targets
    yield (
        targets.ndim in (1, 2)
        and str(targets.dtype) in (_INTEGERS if targets.ndim == 1 else (*_FLOATS, *_INTEGERS))
        and len(targets) == len(images)
        and targets.numel() > 0,
        f"{_shapes(found)}; expected one label or row of probabilities for each image",
    )
    yield bool(targets.isfinite().all()), "labels are not finite numbers"
    rows = bool((targets >= 0).all()) and bool(((targets.double().sum(dim=-1) - 1).abs() < 1e-3).all())
    yield targets.ndim == 1 or rows, "a row of targets is not probabilities"
    yield targets.ndim == 2 or int(targets.min()) >= 0, f"a label is {int(targets.min())}; classes count from 0"


def _check_facts(found: ImageSet) -> Iterator[tuple[bool, str]]:
    """What has to hold of what is said about a set, its training space apart."""
    targets, names, rate = found.targets, found.class_names, found.step_size
    words = f"{found.step_size_origin} is {rate}, expected one positive number; `ddfw eval` takes another by --lr"
    yield rate is None or 0 < rate < math.inf, words
    yield found.step is None or found.step >= 0, f"its outer step is {found.step}"
    yield all(isinstance(n, str) for n in names or ()), "its class names are not all texts"
    if names is not None:
        columns = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
        fits = columns == len(names) if targets.ndim == 2 else columns <= len(names)
        yield fits, f"its labels are of {columns} classes, it names {len(names)}"


def _check_space(found: ImageSet) -> Iterator[tuple[bool, str]]:
    """What has to hold of a set's training space: it is one of such images, and gives pixels that are numbers."""
    import torch

    images, space = found.images, found.space
    if space is None:
        return
    yield 0 < space.max_value < math.inf, f"its brightest pixel is {space.max_value}, expected a positive number"
    gain, offset = 1.0, 0.0
    if isinstance(space, AffineSpace):
        good = len(space.mean) == len(space.std) == images.shape[1] and all(map(math.isfinite, space.mean))
        yield good and all(1e-9 < v < math.inf for v in space.std), "its training space is none of such images"
        gain, offset = max(space.std), max(map(abs, space.mean))
    else:
        (size,) = space.tensors()["mean"].shape
        yield size == images[0].numel(), f"its training space is of {size} values, its images have others"
        if isinstance(space, WhitenedSpace):
            gain, offset = float(space.inverse.abs().sum(dim=1).max()), float(space.mean.abs().max())
    pixel = (1.0 if found.pixels else float(images.abs().max())) * gain + offset
    fits = pixel * max(1.0, space.max_value) < torch.finfo(images.dtype).max
    yield fits, f"its pixels are up to {pixel:.2g} times the brightest one"
