"""What every method of a component promises to return, as functions that say what is wrong with an answer.

`PROMISES` has them by kind and method, `SESSION_PROMISES` those of an executor's session by method. Each gets the
component, the call's arguments by their names in the contract, and the answer; it returns "" for an answer that is
what was promised, and otherwise what came and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Given: TypeAlias = Mapping[str, Any]
Promise: TypeAlias = Callable[[Any, Given, Any], str]


def _got(value: object) -> str:
    """A value in words: shape and dtype of a tensor, the type of anything else."""
    if value is None:
        return "nothing"
    if _is_tensor(value):
        return f"a tensor {list(value.shape)} {value.dtype}"  # type: ignore[attr-defined]
    return f"{value!r:.60}" if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _returned(value: object, expected: str) -> str:
    return f"it returns {_got(value)}, expected {expected}"


def _count(at_least: int) -> Promise:
    def wrong(component: Any, given: Given, found: Any) -> str:
        fits = isinstance(found, int) and not isinstance(found, bool) and found >= at_least
        return "" if fits else _returned(found, f"a whole number of at least {at_least}")

    return wrong


def _number(component: Any, given: Given, found: Any) -> str:
    fits = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return "" if fits else _returned(found, "a number")


def _texts(component: Any, given: Given, found: Any) -> str:
    fits = isinstance(found, Sequence) and not isinstance(found, str) and all(isinstance(x, str) for x in found)
    return "" if fits else _returned(found, "a tuple of texts")


def _context(component: Any, given: Given, found: Any) -> str:
    fits = all(hasattr(type(found), name) for name in ("__enter__", "__exit__"))
    return "" if fits else _returned(found, "a context manager; decorate it with contextlib.contextmanager")


def _iterable(component: Any, given: Given, found: Any) -> str:
    return "" if isinstance(found, Iterable) else _returned(found, "an iterator")


def _instance(module: str, name: str) -> Promise:
    """The promise of an object of one class; the class is imported when something was returned."""

    def wrong(component: Any, given: Given, found: Any) -> str:
        from importlib import import_module

        cls = getattr(import_module(module), name)
        return "" if isinstance(found, cls) else _returned(found, f"a {name}")

    return wrong


def _layout(component: Any, given: Given, found: Any) -> str:
    wrong = _instance("ddfw.contracts.parameterization", "Layout")(component, given, found)
    if wrong:
        return wrong
    if found.spec != given.get("spec"):
        return "its layout is for another image shape or number of classes than it was given"
    least = {"images_per_class": 1, "samples_per_class": 1, "parameter_floats": 0, "label_floats": 0}
    for key, minimum in least.items():
        if complaint := _count(minimum)(component, given, getattr(found, key)):
            return f"{key}: {complaint.replace('it returns', 'it says')}"
    return ""


def _params(like: str) -> Promise:
    """The promise of named tensors, in the dtype and on the device of the images that an argument holds."""

    def wrong(component: Any, given: Given, found: Any) -> str:
        expected = "named tensors (a mapping from text to tensor)"
        if not isinstance(found, Mapping):
            return _returned(found, expected)
        images = given.get(like)
        images = getattr(images, "images", images)
        for key, tensor in found.items():
            if not isinstance(key, str) or not _is_tensor(tensor):
                return f"it returns {_got(tensor)} as {key!r}, expected {expected}"
            if not _is_tensor(images):
                continue
            if tensor.is_floating_point() and tensor.dtype != images.dtype:  # type: ignore[union-attr]
                return f"{key!r} has dtype {tensor.dtype}, expected that of the images, {images.dtype}"  # type: ignore[union-attr]
            if tensor.device != images.device:  # type: ignore[union-attr]
                return f"{key!r} lies on {tensor.device}, expected the images' device {images.device}"  # type: ignore[union-attr]
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                return f"{key!r} has values that are not finite"
        return ""

    return wrong


def _decoded(component: Any, given: Given, found: Any) -> str:
    import torch

    params, index = given["params"], given["index"]
    floats = [t for t in params.values() if t.is_floating_point()]
    if not _is_tensor(found) or found.ndim != 4 or len(found) != len(index):
        return _returned(found, f"images [{len(index)}, C, H, W]")
    if floats and found.dtype != floats[0].dtype:
        return _returned(found, f"the dtype of the parameters, {floats[0].dtype}")
    if torch.is_grad_enabled() and any(t.requires_grad for t in floats) and not found.requires_grad:
        return "the images do not depend on the parameters (detached?), so that nothing could be learned"
    return ""


def _targets(component: Any, given: Given, found: Any) -> str:
    index = given["index"]
    if not _is_tensor(found) or found.ndim != 2 or len(found) != len(index):
        return _returned(found, f"probabilities [{len(index)}, m]")
    return not_probabilities(found)


def not_probabilities(found: Any) -> str:
    """What is wrong with rows [B, m] that should be probabilities, "" if nothing is; one value is read per call."""
    rows = found.detach()
    rows = rows if rows.is_floating_point() else rows.float()
    fits = (rows >= 0).all() & ((rows.sum(dim=1) - 1).abs() <= 2e-3).all()
    return "" if bool(fits) else "it returns targets that are not probabilities (at least 0, each row with sum 1)"


def _groups(component: Any, given: Given, found: Any) -> str:
    from ddfw.contracts.parameterization import ParamGroup

    if not isinstance(found, tuple | list) or not all(isinstance(group, ParamGroup) for group in found):
        return _returned(found, "a tuple of ParamGroup; () if nothing is learned")
    for group in found:
        if not isinstance(group.keys, tuple | list):
            return f"the keys of a ParamGroup are {group.keys!r:.60}, expected a tuple of names"
        if group.optimiser not in ("sgd", "adam"):
            return f"a ParamGroup asks for the optimiser {group.optimiser!r:.60}, expected 'sgd' or 'adam'"
        for key, value in (("lr", group.lr), ("momentum", group.momentum)):
            if complaint := _number(component, given, value):
                return f"{key} of a ParamGroup: {complaint.replace('it returns', 'it is')}"
    keys = [key for group in found for key in group.keys]
    if twice := [key for key in keys if keys.count(key) > 1]:
        return f"{twice[0]!r} stands in two groups"
    return ""


def _directions(component: Any, given: Given, found: Any) -> str:
    gradients = given["gradients"]
    if not isinstance(found, Mapping):
        return _returned(found, "a mapping from names to directions")
    for key, direction in found.items():
        if key not in gradients:
            return f"it returns a direction for {key!r:.60}, which has no gradient"
        if not _is_tensor(direction) or (direction.shape, direction.dtype) != (
            gradients[key].shape,
            gradients[key].dtype,
        ):
            return f"{key!r}: {_returned(direction, _got(gradients[key]))}"
    return ""


def _penalty(component: Any, given: Given, found: Any) -> str:
    fits = found is None or (_is_tensor(found) and found.ndim == 0 and found.is_floating_point())
    return "" if fits else _returned(found, "a scalar tensor or None")


def _segment(component: Any, given: Given, found: Any) -> str:
    wrong = _instance("ddfw.contracts.trajectory", "Segment")(component, given, found)
    if wrong:
        return wrong
    for name in ("start", "target"):
        point = getattr(found, name)
        if not _is_tensor(point) or point.ndim != 1 or not point.is_floating_point():
            return f"{name}: {_returned(point, 'a flat tensor [P] of floats')}"
    if found.start.shape != found.target.shape or found.start.dtype != found.target.dtype:
        return f"it gave a segment with start {_got(found.start)} and target {_got(found.target)}"
    for name in ("start_epoch", "target_epoch"):
        if complaint := _number(component, given, getattr(found, name)):
            return f"{name}: {complaint}"
    return ""


def _loss(component: Any, given: Given, found: Any) -> str:
    if not _is_tensor(found) or found.ndim != 0 or not found.is_floating_point():
        return _returned(found, "a scalar tensor")
    return "" if found.requires_grad else "the scalar that it returns does not depend on the path (detached?)"


def _draws(component: Any, given: Given, found: Any) -> str:
    wrong = _instance("ddfw.contracts.augmentation", "Draws")(component, given, found)
    if wrong:
        return wrong
    count = given["shape"][0]
    for key, value in found.values.items():
        if not _is_tensor(value) or value.ndim < 1 or len(value) != count:
            return f"values[{key!r:.40}]: {_returned(value, f'a tensor whose first axis has {count} elements')}"
    return ""


def _augmented(component: Any, given: Given, found: Any) -> str:
    images = given["images"]
    if not _is_tensor(found) or (found.shape, found.dtype) != (images.shape, images.dtype):
        return _returned(found, f"{_got(images)} as it was given")
    if images.requires_grad and not found.requires_grad:
        return "what it returns does not depend on the images (detached?), so that nothing could be learned"
    return ""


def _theta(component: Any, given: Given, found: Any) -> str:
    size = sum(parameter.numel() for parameter in given["module"].parameters())
    if not _is_tensor(found) or tuple(found.shape) != (size,) or not found.is_floating_point():
        return _returned(found, f"a flat tensor [{size}] of floats, all parameters of the module")
    return "" if bool(found.isfinite().all()) else "it returns parameters that are not finite"


def _meta_gradient(component: Any, given: Given, found: Any) -> str:
    wrong = _instance("ddfw.contracts.executor", "MetaGradient")(component, given, found)
    if wrong:
        return wrong
    problem = given["problem"]
    for key, like in (("images", problem.images), ("targets", problem.targets), ("step_size", problem.step_size)):
        value = getattr(found, key)
        if not _is_tensor(value) or (value.shape, value.dtype) != (like.shape, like.dtype):
            return f"{key}: {_returned(value, _got(like))}"
    return (
        "" if _is_tensor(found.loss) and found.loss.ndim == 0 else f"loss: {_returned(found.loss, 'a scalar tensor')}"
    )


def _accuracies(component: Any, given: Given, found: Any) -> str:
    count = len(given["networks"])
    fits = isinstance(found, Sequence) and not isinstance(found, str) and len(found) == count
    fits = fits and all(isinstance(a, float | int) and 0 <= a <= 1 for a in found)
    return "" if fits else _returned(found, f"{count} fractions, one accuracy for each network")


def _evaluated(component: Any, given: Given, found: Any) -> str:
    wrong = _instance("ddfw.contracts.executor", "Evaluated")(component, given, found)
    return wrong or _accuracies(component, given, found.accuracies)


def _description(component: Any, given: Given, found: Any) -> str:
    fits = isinstance(found, Mapping) and all(isinstance(key, str) for key in found)
    return "" if fits else _returned(found, "a mapping with text keys")


PROMISES: dict[tuple[str, str], Promise] = {
    ("param", "layout"): _layout,
    ("param", "init"): _params("real"),
    ("param", "decode"): _decoded,
    ("param", "param_groups"): _groups,
    ("param", "direction"): _directions,
    ("param", "stored_floats"): _count(0),
    ("param", "penalty"): _penalty,
    ("labels", "floats_per_image"): _count(0),
    ("labels", "init"): _params("images"),
    ("labels", "targets"): _targets,
    ("labels", "param_groups"): _groups,
    ("traj", "segment"): _segment,
    ("traj", "stored_bytes"): _count(0),
    ("traj", "compact"): _instance("ddfw.contracts.trajectory", "CompactExpert"),
    ("traj", "latest_high"): _number,
    ("traj", "notes"): _texts,
    ("loss", "loss"): _loss,
    ("augment", "draw"): _draws,
    ("augment", "apply"): _augmented,
    ("model", "build"): _instance("torch.nn", "Module"),
    ("model", "init"): _theta,
    ("data", "load"): _instance("ddfw.contracts.dataset", "Splits"),
    ("data", "splits"): _instance("ddfw.contracts.dataset", "Splits"),
    ("executor", "assemble"): _context,
    ("executor", "scatter"): _iterable,
    ("executor", "open"): _context,
    ("observer", "open"): _context,
}

SESSION_PROMISES: dict[str, Promise] = {
    "device": _instance("torch", "device"),
    "describe": _description,
    "train_experts": _iterable,
    "meta_gradient": _meta_gradient,
    "evaluate": _accuracies,
    "evaluate_classes": _evaluated,
}
