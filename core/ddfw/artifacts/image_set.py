"""Labelled images from anywhere: a run, an export, or files that other programs made.

Shapes: n images, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
#: Largest pixel, a little below what 32 bits can hold.
_LARGEST_PIXEL = 3e38
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


def checked_image_set(found: ImageSet, path: Path) -> ImageSet:
    """The same set, after a check of its shapes, dtypes and values; the files may come from anyone.

    Raises:
        DataError: images or targets of a wrong shape, dtype or range, or impossible facts about them.
    """
    images, targets, rate = found.images, found.targets, found.step_size

    def require(holds: bool, words: str) -> None:
        if not holds:
            raise DataError(f"{path}: {words}")

    shapes = f"images {tuple(images.shape)} {images.dtype} and labels {tuple(targets.shape)} {targets.dtype}"
    require(
        images.ndim == 4 and str(images.dtype) in _FLOATS and images.numel() > 0,
        f"{shapes}; expected floating images [n, C, H, W]",
    )
    require(
        targets.ndim in (1, 2)
        and str(targets.dtype) in (_INTEGERS if targets.ndim == 1 else (*_FLOATS, *_INTEGERS))
        and len(targets) == len(images)
        and targets.numel() > 0,
        f"{shapes}; expected one label or row of probabilities for each image",
    )
    require(bool(images.isfinite().all()) and bool(targets.isfinite().all()), "images or labels are not finite numbers")
    rows = bool((targets >= 0).all()) and bool(((targets.double().sum(dim=-1) - 1).abs() < 1e-3).all())
    require(targets.ndim == 1 or rows, "a row of targets is not probabilities")
    require(targets.ndim == 2 or int(targets.min()) >= 0, f"a label is {int(targets.min())}; classes count from 0")
    words = f"{found.step_size_origin} is {rate}, expected one positive number; `ddfw eval` takes another by --lr"
    require(rate is None or 0 < rate < math.inf, words)
    names = found.class_names
    require(found.step is None or found.step >= 0, f"its outer step is {found.step}")
    require(all(isinstance(n, str) for n in names or ()), "its class names are not all texts")
    if names is not None:
        columns = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
        fits = columns == len(names) if targets.ndim == 2 else columns <= len(names)
        require(fits, f"its labels are of {columns} classes, it names {len(names)}")
    _check_space(found, require)
    return found


def _check_space(found: ImageSet, require: Callable[[bool, str], None]) -> None:
    """Checks that the training space of a set is one of such images, and that pixels of it are finite numbers."""
    images, space = found.images, found.space
    if space is None:
        return
    require(0 < space.max_value < math.inf, f"its brightest pixel is {space.max_value}, expected a positive number")
    if isinstance(space, AffineSpace):
        good = len(space.mean) == len(space.std) == images.shape[1] and all(map(math.isfinite, space.mean))
        require(good and all(1e-9 < v < math.inf for v in space.std), "its training space is none of such images")
        largest = 1.0 if found.pixels else float(images.abs().max())
        pixel = largest * max(space.std) + max(map(abs, space.mean))
        require(pixel * space.max_value < _LARGEST_PIXEL, f"its pixels are up to {pixel:.2g} times the brightest one")
    else:
        (size,) = space.tensors()["mean"].shape
        require(size == images[0].numel(), f"its training space is of {size} values, its images have others")
        if not found.pixels and isinstance(space, WhitenedSpace):
            largest = float(images.abs().max()) * float(space.inverse.abs().sum(dim=1).max())
            pixel = largest + float(space.mean.abs().max())
            words = f"its pixels are up to {pixel:.2g} times the brightest one"
            require(pixel * space.max_value < _LARGEST_PIXEL, words)
