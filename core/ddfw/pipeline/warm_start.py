"""Starts a run from a learned set (`outer.init_from`) instead of real images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen

from ddfw.artifacts import synthetic
from ddfw.artifacts.seal import digest
from ddfw.config.fingerprints import sha256_of
from ddfw.contracts.dataset import RealImages, Split
from ddfw.contracts.space import same_space
from ddfw.errors import OptionError, option_errors_at
from ddfw.pipeline.adopt import given
from ddfw.pipeline.prepare import Plan
from ddfw.pipeline.sets import read_images

if TYPE_CHECKING:
    from ddfw.artifacts.image_set import ImageSet
    from ddfw.contracts.parameterization import Params


@frozen(kw_only=True)
class WarmStart:
    """The learned set that `outer.init_from` names.

    Args:
        images: its images, used instead of real ones.
        params: its stored parameters, {} if it was not learned with this run's parameterisation and training space.
        label_params: its stored label parameters, {} if it was not learned with this run's label strategy.
        step_size: its learned step size, None if it was not learned with this run's parameterisation.
        hashes: of it as a whole and of its images and targets, as `set_hashes` gives them.
    """

    images: RealImages
    params: Params
    label_params: Params
    step_size: float | None
    hashes: Mapping[str, str]

    def to(self, device: torch.device) -> WarmStart:
        """A copy with all tensors on a device."""

        def moved(tensors: Params) -> Params:
            return {key: tensor.to(device) for key, tensor in tensors.items()}

        real = self.images
        images = evolve(real, images=real.images.to(device), labels=real.labels.to(device))
        return evolve(self, images=images, params=moved(self.params), label_params=moved(self.label_params))

    def fits(self, params: Params) -> bool:
        """Whether the stored parameters have the names, shapes and dtypes of `params`, and can replace them."""
        return bool(self.params) and same_form(self.params, params)


def set_hashes(path: Path) -> dict[str, str]:
    """The hashes of the set at a path, as they stand in the manifest of a run that starts from it.

    Raises:
        DataError: there is no readable set at the path.
    """
    return _hashes(read_images(path))


def _hashes(found: ImageSet) -> dict[str, str]:
    """Hashes of a set: of its images and targets, and of everything that a run can take from it."""
    images = sha256_of(Split(images=found.images, labels=found.targets))
    whole = {
        "images": images,
        "step_size": found.step_size,
        "class_names": found.class_names,
        "space": None if found.space is None else found.space.record(),
        "files": dict(found.card.hashes) if found.card else {},  # stored parameters among them
        "components": [found.card.component(kind) for kind in ("param", "labels")],
    }
    return {"init_from_sha256": images, "init_from_set_sha256": digest(whole)}


def _decodes_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two tables name the same parameterisation with equal options, learning rates and initialisation aside."""
    rates = ("lr", "lr_mappers", "lr_coefficients", "momentum", "source", "from")
    return {k: v for k, v in one.items() if k not in rates} == {k: v for k, v in other.items() if k not in rates}


def same_form(some: Params, others: Params) -> bool:
    """Whether two sets of tensors have the same names, shapes and dtypes."""
    return {k: (t.shape, t.dtype) for k, t in some.items()} == {k: (t.shape, t.dtype) for k, t in others.items()}


def warm_start(plan: Plan) -> WarmStart | None:
    """Reads the learned set that `outer.init_from` names; None if the option is empty.

    Raises:
        ConfigError: the set has no image of some class.
        DataError: the set cannot be read, or its images have another shape than those of the data set.
    """
    config = plan.config
    if not config.outer.init_from:
        return None
    path = Path(config.outer.init_from)
    found = read_images(path)
    data = given(plan, found)
    labels, m = data.targets.argmax(dim=1), plan.splits.spec.num_classes
    with option_errors_at("outer.init_from"):
        if missing := [
            n for n, count in zip(plan.splits.class_names, labels.bincount(minlength=m), strict=True) if not count
        ]:
            raise OptionError(f"{found.origin} has no image of class {', '.join(missing[:5])}")
    images = RealImages(images=data.images, labels=labels, num_classes=m)
    hashes = _hashes(found)
    # Parameters mean the same images only in the same space; options such as ranks show in the shapes.
    same = found.space is not None and same_space(found.space, plan.space) and not found.card.format
    same = same and found.class_names == plan.splits.class_names
    if not same or not _decodes_alike(found.card.component("param") or {}, plan.run.component_key("param")):
        return WarmStart(images=images, params={}, label_params={}, step_size=None, hashes=hashes)
    params, label_params = synthetic.read_learned(path)
    strategy = found.card.component("labels") or {}
    kept = label_params if strategy.get("name") == config.labels.name else {}
    return WarmStart(images=images, params=params, label_params=kept, step_size=found.step_size, hashes=hashes)
