"""Checks of labelled images, and random choices of them class by class.

Shapes: n images, m classes, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ddfw.errors import DataError, OptionError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.dataset import Split


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
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise DataError(
            f"{name}: labels lie in [{int(labels.min())}, {int(labels.max())}], expected [0, {num_classes - 1}]"
        )
    # NaN fails both comparisons, so this catches it too.
    if not (float(images.min()) >= 0 and float(images.max()) <= max_value):
        raise DataError(
            f"{name}: pixels lie in [{float(images.min())}, {float(images.max())}], "
            f"expected [0, {max_value}] and no NaN"
        )


def class_number(wanted: str | int, names: Sequence[str]) -> int:
    """The number of a class that a user gave by its name or its number.

    Raises:
        OptionError: there is no such class.
    """
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        return wanted
    if wanted in names:
        return names.index(str(wanted))
    hint = did_you_mean(str(wanted), names)
    known = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    raise OptionError(f"unknown class {wanted!r}.{hint} Known: {known} (or their numbers from 0)", "classes")
