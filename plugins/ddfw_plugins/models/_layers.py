"""Layers that several networks use: normalisations, activations and poolings by name.

Shapes: B images in a batch, C channels, a map of height × width.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from ddfw import OptionError

Norm = Literal["instance", "group", "layer", "batch", "none"]
Activation = Literal["relu", "leakyrelu", "sigmoid", "silu"]
Pooling = Literal["avg", "max", "none"]
NORMS: tuple[Norm, ...] = ("instance", "group", "layer", "batch", "none")
#: The layer of each activation. None works in place, since steps are differentiated twice.
ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}
POOLINGS: tuple[Pooling, ...] = ("avg", "max", "none")

NORM_HELP = (
    "normalisation after each convolution. instance: of each channel; group: of each of `groups` groups of channels; "
    "layer: of all channels together; batch: of each channel over the current batch, also in evaluation"
)
GROUPS_HELP = "norm = group only: number of groups; must divide the number of channels"


def norm_layers(norm: Norm, channels: int, height: int, width: int, groups: int) -> list[nn.Module]:
    """The layers that normalise maps [B, C, height, width], with a scale and a shift per channel.

    Args:
        norm: name of the normalisation.
        channels: number C of channels.
        height: rows of a map.
        width: columns of a map.
        groups: number of groups of channels, used by `group` only.

    Returns:
        One layer; no layer for `none`.

    Raises:
        OptionError: the groups do not divide the channels, or a single value would be normalised.
    """
    if norm == "none":
        return []
    if norm == "batch":
        # The statistics are those of the current batch; running ones would be state, which a repeated step changes.
        return [nn.BatchNorm2d(channels, track_running_stats=False)]
    # Instance normalisation is one group per channel; nn.InstanceNorm2d has no scale and shift by default.
    count = {"instance": channels, "group": groups, "layer": 1}[norm]
    require_divides(count, channels)
    if channels // count * height * width == 1:
        raise OptionError(
            f"norm {norm} would normalise single values, since maps shrink to {height}×{width}, and give zeros; take "
            f"larger images, or norm {'layer' if channels > 1 else 'none'}",
            "norm",
        )
    return [nn.GroupNorm(count, channels)]


def require_divides(groups: int, channels: int) -> None:
    """Checks that the number of groups divides the number of channels.

    Raises:
        OptionError: the number of groups does not divide the number of channels.
    """
    if channels % groups:
        raise OptionError(
            f"{groups} groups do not divide {channels} channels; {math.gcd(groups, channels)} would", "groups"
        )


def pooling_layers(pooling: Pooling) -> list[nn.Module]:
    """A 2×2 pooling layer, which drops an odd last row and column; no layer for `none`."""
    layers: dict[str, list[nn.Module]] = {"avg": [nn.AvgPool2d(2)], "max": [nn.MaxPool2d(2)], "none": []}
    return layers[pooling]
