"""Converts image sets from files to the classes, the training space and the precision of a run.

Shapes: n images, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import one_hot

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


def _targets(setup: Setup, found: ImageSet) -> Tensor:
    names, m = setup.splits.class_names, setup.splits.spec.num_classes
    targets = found.targets
    if targets.ndim == 1:
        if int(targets.max()) >= m:
            raise DataError(f"{found.origin}: a label is {int(targets.max())}, but there are {m} classes, from 0")
        targets = one_hot(targets, m)
    if targets.shape[1] != m:
        raise DataError(f"{found.origin}: targets of {targets.shape[1]} classes, {setup.config.data.name} has {m}")
    there = found.class_names
    if there is None or there == names:
        return targets
    if len(there) != m:
        raise DataError(f"{found.origin}: it has {len(there)} classes, {setup.config.data.name} has {m}")
    if set(there) != set(names):
        if found.card:
            strange = ", ".join(sorted(set(there) - set(names))[:3])
            raise DataError(f"{found.origin}: its classes ({strange}, …) are not those of {setup.config.data.name}")
        return targets  # folders of pictures may have any names: the order of the names decides
    return targets[:, torch.tensor([there.index(name) for name in names])]
