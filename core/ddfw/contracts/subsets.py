"""Checks of labelled images, and random choices of them class by class.

Shapes: n images, m classes, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.splits import Split


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits the numbers 0 … n − 1 in two at random, class by class.

    Args:
        labels: [n] int64, the class of each image.
        fraction: fraction of each class for the second part, in (0, 1); at least one image of each class.
        seed: seed of the random choice, an integer in [0, 2^63).

    Returns:
        Two sorted tensors of indices (int64), of n − k and k elements.
    """
    import torch

    rng = torch.Generator().manual_seed(seed)
    held = []
    for label in labels.unique(sorted=True).tolist():
        members = (labels == label).nonzero().flatten()
        count = held_back(fraction, len(members))
        held.append(members[torch.randperm(len(members), generator=rng)[:count]])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held)] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def held_back(fraction: float, count: int) -> int:
    """Number of a class's images used for validation: about the given fraction, at least one, never all."""
    return min(max(1, round(fraction * count)), count - 1)


def check_split(name: str, split: Split, num_classes: int, max_value: float) -> None:
    """Refuses images and labels that do not fit together.

    Args:
        name: the split in words, for the message.
        split: images [n, C, H, W] and labels [n].
        num_classes: number m of classes.
        max_value: the value of the brightest pixel.

    Raises:
        DataError: shapes do not fit, a label is out of range, or a pixel is not finite or out of range.
    """
    images, labels = split.images, split.labels
    if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels) or images.numel() == 0:
        raise DataError(
            f"{name}: expected images [n, C, H, W] and labels [n], none of them empty, "
            f"got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if str(labels.dtype) != "torch.int64" or not (str(images.dtype) == "torch.uint8" or images.is_floating_point()):
        raise DataError(
            f"{name}: images are {images.dtype} and labels are {labels.dtype}, expected uint8 or floating images and "
            "int64 labels"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        hint = f"; labels count from 0: save them as labels - {low}" if low > 0 else ""
        raise DataError(f"{name}: labels lie in [{low}, {high}], expected [0, {num_classes - 1}]{hint}")
    if name == "train" and low > 0:
        raise DataError(
            f"{name}: labels lie in [{low}, {high}], but count from 0: save them as labels - {low}, or take class 0 "
            "out of the class names"
        )
    # NaN fails both comparisons, so this catches it too.
    if not (float(images.min()) >= 0 and float(images.max()) <= max_value):
        raise DataError(
            f"{name}: pixels lie in [{float(images.min())}, {float(images.max())}], "
            f"expected [0, {max_value}] and no NaN"
        )
