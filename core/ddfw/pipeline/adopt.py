"""Converts image sets from files to the classes, the training space and the precision of a run.

Shapes: n images, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import one_hot

from ddfw.contracts.classes import match_classes
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.space import same_space
from ddfw.errors import DataError
from ddfw.pipeline.prepare import Setup

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.artifacts.image_set import ImageSet


def given(setup: Setup, found: ImageSet) -> LabelledImages:
    """Converts an image set to training data of a run.

    Args:
        setup: the run's data, training space and precision.
        found: the set as it was read.

    Returns:
        Images [n, C, H, W] in the run's training space, and targets [n, m]: probabilities in the order of the data
        set's classes; both in the run's precision.

    Raises:
        DataError: the images have another shape, or the classes are others, than those of the data set.
    """
    require_shape(setup, found)
    space = setup.space
    images = found.images.to(setup.dtype)
    if found.pixels:
        images = space.encode(images * space.max_value, setup.dtype)
    elif found.space is not None and not same_space(found.space, space):
        images = space.encode(found.space.decode(images) * space.max_value, setup.dtype)
    return LabelledImages(images=images, targets=_targets(setup, found).to(setup.dtype))


def require_shape(setup: Setup, found: ImageSet) -> None:
    """Refuses an image set whose images have another shape than those of the data set.

    Args:
        setup: the run's data.
        found: the set as it was read.

    Raises:
        DataError: the shapes differ.
    """
    shape, expected = tuple(found.images.shape[1:]), setup.splits.spec.shape
    if shape != expected:
        raise DataError(
            f"{found.origin}: images are {shape}, those of {setup.config.data.name} are {expected} "
            "(channels, height, width)"
        )


def matching_notes(setup: Setup, found: ImageSet) -> tuple[str, ...]:
    """How the classes of a set belong to those of the data set, where that is not plain from equal names.

    Args:
        setup: the run's data.
        found: the set as it was read.

    Raises:
        DataError: the classes are others than those of the data set.
    """
    _, words = _matched(setup, found)
    return (words,) if words else ()


def _matched(setup: Setup, found: ImageSet) -> tuple[list[int], str]:
    """The number in the set of each class of the data set, and how they were matched, in words.

    Raises:
        DataError: the classes are others than those of the data set.
    """
    names, there, data = setup.splits.class_names, found.class_names, setup.config.data.name
    if there is None:
        return list(range(len(names))), ""
    if len(there) != len(names):
        raise DataError(f"{found.origin}: it has {len(there)} classes, {data} has {len(names)}")
    if found.card and set(there) != set(names):
        strange = ", ".join(sorted(set(there) - set(names))[:3])
        raise DataError(f"{found.origin}: its classes ({strange}, …) are not those of {data}")
    try:
        return match_classes(there, names)
    except DataError as error:
        raise DataError(f"{found.origin}: {error}") from error


def _targets(setup: Setup, found: ImageSet) -> Tensor:
    """Probabilities [n, m] in the order of the data set's classes.

    Raises:
        DataError: labels or classes that are not those of the data set.
    """
    m, targets, data = setup.splits.spec.num_classes, found.targets, setup.config.data.name
    if targets.ndim == 1:
        first, last = int(targets.min()), int(targets.max())
        if last >= m or (first > 0 and not found.card):
            way_out = f"save them as labels - {first}, or" if first > 0 else "name its own data set, or"
            raise DataError(
                f"{found.origin}: its labels are {first} … {last}, those of {data} 0 … {m - 1}; {way_out} save "
                f"probabilities [n, {m}]"
            )
        targets = one_hot(targets, m)
    if targets.shape[1] != m:
        raise DataError(f"{found.origin}: targets of {targets.shape[1]} classes, {data} has {m}")
    order, _ = _matched(setup, found)
    return targets if order == list(range(m)) else targets[:, torch.tensor(order)]
