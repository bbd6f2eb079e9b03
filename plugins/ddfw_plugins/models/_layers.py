"""What the networks are made of: normalisations, activations and poolings by name.

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
ACTIVATIONS: tuple[Activation, ...] = ("relu", "leakyrelu", "sigmoid", "silu")
POOLINGS: tuple[Pooling, ...] = ("avg", "max", "none")

NORM_HELP = (
    "normalisation after each convolution: of each channel, of each of `groups` groups of channels, of all channels "
    "together, or of each channel over the batch at hand (batch; also when the network is judged)"
)
GROUPS_HELP = "groups of channels with norm = group; divides the channels"


def norm_layers(norm: Norm, channels: int, height: int, width: int, groups: int) -> list[nn.Module]:
    """The normalisation of maps [B, C, height, width] with a scale and a shift per channel; empty for `none`.

    Raises:
        OptionError: groups that do not divide the channels, or a normalisation of a single value.
    """
    if norm == "none":
        return []
    if norm == "batch":
        # Statistics of the batch at hand: running ones would be state, which a replayed step cannot have.
        return [nn.BatchNorm2d(channels, track_running_stats=False)]
    # One group per channel; nn.InstanceNorm2d would come without scale and shift, and with other defaults.
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
    """Refuses groups of unequal size.

    Raises:
        OptionError: they do not divide the channels.
    """
    if channels % groups:
        raise OptionError(
            f"{groups} groups do not divide {channels} channels; {math.gcd(groups, channels)} would", "groups"
        )


def activation_layer(activation: Activation) -> nn.Module:
    """The activation; never in place, since steps are differentiated twice and stacked."""
    layers: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "leakyrelu": nn.LeakyReLU,
        "sigmoid": nn.Sigmoid,
        "silu": nn.SiLU,
    }
    return layers[activation]()


def pooling_layers(pooling: Pooling) -> list[nn.Module]:
    """The 2×2 pooling, which drops an odd last row and column; empty for `none`."""
    layers: dict[str, list[nn.Module]] = {"avg": [nn.AvgPool2d(2)], "max": [nn.MaxPool2d(2)], "none": []}
    return layers[pooling]
