"""Sets of labelled images as they lie about: tensors that other programs saved, folders of pictures.

Shapes: n images, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ddfw.artifacts import torch_file
from ddfw.artifacts.picture_files import read_picture
from ddfw.contracts.space import AffineSpace
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.space import TrainingSpace

#: Values of all pictures of a folder together.
_LARGEST = 2**28
_NUMBER = re.compile(r"images_?([0-9]+)\.pt")


@frozen(kw_only=True, eq=False)
class ImageSet:
    """A set of labelled images from anywhere.

    Args:
        images: [n, C, H, W] floating: in training space, or pixels in [0, 1] where `pixels` says so.
        targets: classes [n] (int64) or probabilities [n, m].
        origin: what it is and where it lies, in words.
        pixels: whether the images are pixels.
        step_size: the learning rate that it was learned for, None if nobody says.
        step: the outer step, where there is one.
        space: the training space that it was learned in, None if nobody says.
        class_names: in the order of the classes, None if nobody says.
        floats: what it stores, {strict, pixels}, None for what its tensors hold.
        card: of an export or a run, {} where there is none.
        notes: what a reader of its figures has to know.
    """

    images: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    origin: str
    pixels: bool = False
    step_size: float | None = None
    step: int | None = None
    space: TrainingSpace | None = None
    class_names: tuple[str, ...] | None = None
    floats: Mapping[str, int] | None = None
    card: Mapping[str, Any] = field(factory=dict)
    notes: tuple[str, ...] = ()


def checked(found: ImageSet, path: Path) -> ImageSet:
    """The set, if it is one: whatever a file says is looked at here, once.

    Raises:
        DataError: images or targets that are none, or facts that cannot be.
    """
    images, targets, rate = found.images, found.targets, found.step_size

    def require(holds: bool, words: str) -> None:
        if not holds:
            raise DataError(f"{path}: {words}")

    shapes = f"images {tuple(images.shape)} {images.dtype} and labels {tuple(targets.shape)} {targets.dtype}"
    require(
        images.ndim == 4 and images.is_floating_point() and images.numel() > 0,
        f"{shapes}; expected floating images [n, C, H, W]",
    )
    require(
        targets.ndim in (1, 2) and len(targets) == len(images) and targets.numel() > 0 and not targets.is_complex(),
        f"{shapes}; expected one label or row of probabilities for each image",
    )
    require(bool(images.isfinite().all()) and bool(targets.isfinite().all()), "images or labels are not finite numbers")
    require(targets.ndim == 1 or _probabilities(targets), "a row of targets is not probabilities")
    require(targets.ndim == 2 or int(targets.min()) >= 0, f"a label is {int(targets.min())}; classes count from 0")
    require(rate is None or 0 < rate < math.inf, f"its step size is {rate}, expected a positive number")
    names = found.class_names
    require(names is None or all(isinstance(n, str) for n in names), "its class names are not all texts")
    space = found.space
    if isinstance(space, AffineSpace):
        good = len(space.mean) == len(space.std) == images.shape[1] and all(map(math.isfinite, space.mean))
        require(good and all(0 < v < math.inf for v in space.std), "its training space is none of such images")
    elif space is not None:
        (size,) = space.tensors()["mean"].shape
        require(size == images[0].numel(), f"its training space is of {size} values, its images have others")
    return found


def rank(path: Path) -> tuple[bool, int, str]:
    """Which of several `images*.pt` is meant: the best, or the last."""
    number = _NUMBER.fullmatch(path.name)
    return path.name == "images_best.pt", int(number[1]) if number else -1, path.name


def read_tensors(path: Path) -> ImageSet:
    """`images*.pt` with its labels and, where there is one, its learning rate.

    Raises:
        DataError: missing, damaged, hostile, or something else.
    """
    if not path.name.startswith("images"):
        raise DataError(f"{path}: expected a file images*.pt, with labels*.pt beside it")
    images = _tensor(path)
    labels = _tensor(path.with_name("labels" + path.name.removeprefix("images")))
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise DataError(f"{path} holds {tuple(images.shape)} {images.dtype}, expected floating images [n, C, H, W]")
    if len(labels) != len(images) or labels.ndim not in (1, 2):
        raise DataError(f"{path}: {len(images)} images, but labels {tuple(labels.shape)}; expected [n] or [n, m]")
    if labels.is_complex() or not (images.isfinite().all() and labels.isfinite().all()):
        raise DataError(f"{path}: images or labels are not all finite real numbers")
    notes: tuple[str, ...] = ()
    if labels.ndim == 2 and not _probabilities(labels):
        labels, notes = labels.double().softmax(dim=1), ("labels were logits; their softmax is taken",)
    elif labels.ndim == 1 and not bool((labels == labels.double().round()).all()):
        raise DataError(f"{path}: labels [n] have to be whole numbers")
    rate = path.with_name("lr" + path.name.removeprefix("images"))
    return ImageSet(
        images=images,
        targets=labels.long() if labels.ndim == 1 else labels.to(images.dtype),
        origin=f"images and labels in {path.parent}",
        step_size=_rate(rate) if rate.is_file() else None,
        notes=notes,
    )


def _probabilities(labels: Tensor) -> bool:
    rows = labels.double()
    return bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all())


def _tensor(path: Path) -> Tensor:
    import torch

    torch_file.check_archive(path)
    found = torch_file.read_torch_file(path, "a file of one tensor")
    if (
        not isinstance(found, torch.Tensor)
        or found.layout != torch.strided
        or found.is_quantized
        or found.device.type != "cpu"
        # A few bytes can be told to stand for any number of elements.
        or found.numel() * found.element_size() > found.untyped_storage().nbytes()
    ):
        raise DataError(f"{path} holds a {type(found).__name__} of some kind, expected one ordinary tensor with values")
    return torch_file.plain(found).clone()


def _rate(path: Path) -> float:
    found = _tensor(path)
    if found.numel() != 1 or not 0 < float(found) < float("inf"):
        raise DataError(f"{path} holds no positive learning rate")
    return float(found)


def read_folder(folder: Path) -> ImageSet:
    """A folder of class folders with pictures of one size.

    Raises:
        DataError: no such folder, a picture that cannot be read, or pictures of several sizes.
    """
    import torch

    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    images: list[Tensor] = []
    labels = []
    for label, place in enumerate(classes):
        files = sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files:
            raise DataError(f"{place} holds no images")
        for file in files:
            images.append(picture(file, images[0] if images else None))
            labels.append(label)
            if len(images) * images[0].numel() > _LARGEST:
                raise DataError(f"{folder} holds more pictures than a set is taken to have; name a data set instead")
    if not images:
        raise DataError(f"{folder} is no set of images: no images*.pt, no card.json and no class folders in it")
    return ImageSet(
        images=torch.stack(images),
        targets=torch.tensor(labels),
        origin=f"pictures in {folder}",
        pixels=True,
        class_names=tuple(p.name for p in classes),
    )


def picture(path: Path, like: Tensor | None) -> Tensor:
    """A picture [C, H, W] in [0, 1].

    Args:
        path: the file.
        like: a picture whose size and channels it has to have; None takes one channel for grey ones, else three.

    Raises:
        DataError: not readable, too large, or of another size.
    """
    import numpy as np
    import torch

    found = read_picture(path, None, "grey" if like is not None and len(like) == 1 else "auto")
    if found.ndim == 2 and like is not None and len(like) == 3:
        found = np.stack([found] * 3, axis=2)
    array = np.array(found, dtype=np.float32) / 255
    tensor = torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    if like is not None and tensor.shape != like.shape:
        raise DataError(f"{path} is {tuple(tensor.shape)}, the pictures before it {tuple(like.shape)}")
    return tensor
