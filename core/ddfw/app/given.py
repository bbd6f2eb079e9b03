"""Sets of images from anywhere, made fit for the data set, the training space and the precision of a run.

Shapes: n images, m classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import one_hot

from ddfw.app.plan import Ground
from ddfw.contracts.executor import LabelledImages
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.artifacts.exchange import ImageSet


def given(ground: Ground, found: ImageSet) -> LabelledImages:
    """The set's images in the run's training space with probabilities [n, m] in the order of the data set's classes.

    Raises:
        DataError: images or classes that are not those of the data set.
    """
    spec, space = ground.splits.spec, ground.space
    if tuple(found.images.shape[1:]) != spec.shape:
        raise DataError(
            f"{found.origin}: images are {tuple(found.images.shape[1:])}, those of {ground.config.data.name} are "
            f"{spec.shape} (channels, height, width)"
        )
    images = found.images.to(ground.dtype)
    if found.pixels:
        images = space.encode(images * space.max_value, ground.dtype)
    elif found.space is not None and found.space is not space and found.space.record() != space.record():
        images = space.encode(found.space.decode(images) * space.max_value, ground.dtype)
    return LabelledImages(images=images, targets=_targets(ground, found).to(ground.dtype))


def _targets(ground: Ground, found: ImageSet) -> Tensor:
    names, m = ground.splits.class_names, ground.splits.spec.num_classes
    targets = found.targets
    if targets.ndim == 1:
        if int(targets.min()) < 0 or int(targets.max()) >= m:
            raise DataError(f"{found.origin}: labels up to {int(targets.max())}, but there are {m} classes")
        targets = one_hot(targets, m)
    if targets.shape[1] != m:
        raise DataError(f"{found.origin}: targets of {targets.shape[1]} classes, {ground.config.data.name} has {m}")
    there = found.class_names
    if there is None or there == names or set(there) != set(names):
        return targets
    return targets[:, torch.tensor([there.index(name) for name in names])]
