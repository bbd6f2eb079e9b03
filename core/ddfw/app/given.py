"""Sets of images from anywhere, made fit for the data set, the training space and the precision of a run.

Shapes: n images, m classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import one_hot

from ddfw.app.plan import Ground
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.space import same_space
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.artifacts.image_set import ImageSet


def given(ground: Ground, found: ImageSet) -> LabelledImages:
    """The set's images in the run's training space with probabilities [n, m] in the order of the data set's classes.

    Raises:
        DataError: images or classes that are not those of the data set.
    """
    require_shape(ground, found)
    space = ground.space
    images = found.images.to(ground.dtype)
    if found.pixels:
        images = space.encode(images * space.max_value, ground.dtype)
    elif found.space is not None and not same_space(found.space, space):
        images = space.encode(found.space.decode(images) * space.max_value, ground.dtype)
    return LabelledImages(images=images, targets=_targets(ground, found).to(ground.dtype))


def require_shape(ground: Ground, found: ImageSet) -> None:
    """Refuses images of another shape than the data set's.

    Raises:
        DataError: they are.
    """
    shape, expected = tuple(found.images.shape[1:]), ground.splits.spec.shape
    if shape != expected:
        raise DataError(
            f"{found.origin}: images are {shape}, those of {ground.config.data.name} are {expected} "
            "(channels, height, width)"
        )


def _targets(ground: Ground, found: ImageSet) -> Tensor:
    names, m = ground.splits.class_names, ground.splits.spec.num_classes
    targets = found.targets
    if targets.ndim == 1:
        if int(targets.max()) >= m:
            raise DataError(f"{found.origin}: a label is {int(targets.max())}, but there are {m} classes, from 0")
        targets = one_hot(targets, m)
    if targets.shape[1] != m:
        raise DataError(f"{found.origin}: targets of {targets.shape[1]} classes, {ground.config.data.name} has {m}")
    there = found.class_names
    if there is None or there == names:
        return targets
    if len(there) != m:
        raise DataError(f"{found.origin}: it has {len(there)} classes, {ground.config.data.name} has {m}")
    if set(there) != set(names):
        if found.card:
            strange = ", ".join(sorted(set(there) - set(names))[:3])
            raise DataError(f"{found.origin}: its classes ({strange}, …) are not those of {ground.config.data.name}")
        return targets  # folders may be named as they like; their order counts
    return targets[:, torch.tensor([there.index(name) for name in names])]
