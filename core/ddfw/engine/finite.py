"""Refuses what is not finite in an outer step, or cannot become finite, and names the options to change.

Shapes: n images, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import attrs

from ddfw.errors import DivergedError, config_error
from ddfw.options import LARGEST_FLOAT

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.executor import MetaGradient
    from ddfw.contracts.parameterization import ParamGroup
    from ddfw.contracts.trajectory import Segment

#: Parameters that move by less than this share of their norm stand still: what they moved by is rounding.
STILL = 1e-6


def rates(table: str, component: Any) -> str:
    """The learning rates of a component by their paths, in words: `param.lr or param.lr_mappers`.

    Args:
        table: its table in the configuration.
        component: the component; options that are None are left out.
    """
    cls = type(component)
    fields = attrs.fields(cls) if attrs.has(cls) else ()
    names = [f.name for f in fields if f.name in ("lr", "step_size_lr") or f.name.startswith("lr_")]
    given = [f"{table}.{name}" for name in names if getattr(component, name) is not None]
    return " or ".join(given) or f"the learning rates of {table}"


def require_usable(group: ParamGroup, options: str) -> None:
    """Refuses a learning rate that is beyond float32, as the product of an option and the number of images may be.

    Args:
        group: tensors that are learned together.
        options: the options that the rate comes from.

    Raises:
        ConfigError: the rate is too large.
    """
    if not group.lr <= LARGEST_FLOAT:
        what = ", ".join(group.keys) or "the step size"
        raise config_error(options, f"{what} would be learned at the rate {group.lr:g}, beyond float32; lower it")


def require_finite_images(images: Tensor, options: str, step: int | None, what: str = "image") -> None:
    """Refuses decoded images [n, C, H, W], or targets [n, m], that are not finite.

    Raises:
        DivergedError: they are not, although what they are decoded from may be.
    """
    if not bool(images.isfinite().all()):
        when = "" if step is None else f" after outer step {step}"
        raise DivergedError(f"a decoded {what} is not finite{when}; lower {options}", step=step)


def require_finite_gradients(found: MetaGradient, step: int, options: str) -> None:
    """Refuses a loss or a gradient that is not finite.

    Args:
        found: what an outer step found.
        step: its number, from 0.
        options: what to lower, in words.

    Raises:
        DivergedError: one is not finite.
    """
    for what, tensor in (
        ("matching loss", found.loss),
        ("image gradient", found.images),
        ("label gradient", found.targets),
        ("step-size gradient", found.step_size),
    ):
        if not bool(tensor.isfinite().all()):
            raise DivergedError(f"the {what} is not finite at outer step {step + 1}; lower {options}", step=step)


def stands_still(start: Tensor, end: Tensor) -> bool:
    """Whether parameters [P] are where they were, but for rounding."""
    return not bool((end - start).norm() > STILL * start.norm())


def require_length(segments: Iterable[Segment], step: int) -> None:
    """Refuses segments that end where they start: matching losses divide by their length.

    Raises:
        DivergedError: a segment has no length.
    """
    for segment in segments:
        if stands_still(segment.start, segment.target):
            raise DivergedError(
                f"expert {segment.expert} stands still from epoch {segment.start_epoch:g} to {segment.target_epoch:g}, "
                f"so there is nothing to follow at outer step {step + 1}; raise experts.lr",
                step=step,
            )
