"""Sets of images from anywhere, made fit for the data set, the training space and the precision of a run.

Shapes: n images, m classes.
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
    """The set's images in the run's training space with probabilities [n, m] in the order of the data set's classes.

    Raises:
        DataError: images or classes that are not those of the data set.
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
    """Refuses images of another shape than the data set's.

    Raises:
        DataError: they are.
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
        return targets  # folders may be named as they like; their order counts
    return targets[:, torch.tensor([there.index(name) for name in names])]
