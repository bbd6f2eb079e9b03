"""`convnet`: the ConvNet of most papers on dataset distillation.

D blocks of [3×3 convolution, normalisation, activation, 2×2 average pooling], then a linear layer.
"""

from __future__ import annotations

from typing import ClassVar, final

from attrs import frozen
from attrs.validators import ge, in_, le
from torch import nn

from ddfw import AbstractModel, ImageSpec, OptionError, option
from ddfw_plugins.models import _layers


@final
@frozen(kw_only=True)
class ConvNet(AbstractModel):
    """The field's usual network: a few convolution blocks, then a linear layer.

    Each of D blocks is convolution, normalisation, activation and pooling.
    Every normalisation has one scale and one shift per channel. (Some public codes use one per pixel for `layer`.)
    """

    name: ClassVar[str] = "convnet"
    citation: ClassVar[str] = """@inproceedings{gidaris2018dynamic,
  title = {Dynamic Few-Shot Visual Learning without Forgetting},
  author = {Gidaris, Spyros and Komodakis, Nikos},
  booktitle = {CVPR},
  year = {2018}
}"""

    depth: int = option(3, validator=[ge(1), le(1000)], help="D, number of blocks; each pooling halves the image")
    width: int = option(128, validator=ge(1), help="W, channels of each block")
    norm: _layers.Norm = option("instance", validator=in_(_layers.NORMS), help=_layers.NORM_HELP)
    groups: int = option(4, validator=ge(1), help=_layers.GROUPS_HELP)
    activation: _layers.Activation = option(
        "relu", validator=in_(tuple(_layers.ACTIVATIONS)), help="activation of each block"
    )
    pooling: _layers.Pooling = option(
        "avg", validator=in_(_layers.POOLINGS), help="2×2 pooling at the end of each block; none: no pooling"
    )
    first_padding: int = option(
        1,
        validator=ge(1),
        help="zero padding of the first convolution; the original has 3 for one-channel images",
    )

    def build(self, spec: ImageSpec) -> nn.Module:
        """Builds the module for an image shape.

        Raises:
            OptionError: the image is too small for this depth or norm, or the groups do not divide the width.
        """
        layers: list[nn.Module] = []
        channels = spec.channels
        height, width = (side + 2 * (self.first_padding - 1) for side in (spec.height, spec.width))
        for block in range(self.depth):
            if self.pooling != "none" and min(height, width) < 2:
                raise OptionError(
                    f"depth {self.depth} halves a {spec.height}×{spec.width} image away; at most {block}", "depth"
                )
            layers.append(nn.Conv2d(channels, self.width, 3, padding=self.first_padding if block == 0 else 1))
            layers += _layers.norm_layers(self.norm, self.width, height, width, self.groups)
            layers += [_layers.ACTIVATIONS[self.activation](), *_layers.pooling_layers(self.pooling)]
            channels = self.width
            if self.pooling != "none":
                height, width = height // 2, width // 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, spec.num_classes))
