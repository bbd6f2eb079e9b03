"""`vgg11`: VGG's configuration A with normalisation and one linear layer."""

from __future__ import annotations

from typing import ClassVar, final

from attrs import frozen
from attrs.validators import ge, in_
from torch import nn

from ddfw import AbstractModel, ImageSpec, OptionError, option
from ddfw_plugins.models._layers import GROUPS_HELP, NORM_HELP, NORMS, Norm, norm_layers

#: For each stage the channels of its convolutions, in units of W; each stage ends with max pooling.
STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))


@final
@frozen(kw_only=True)
class Vgg11(AbstractModel):
    """VGG-11 without hidden linear layers: eight convolutions and one linear layer.

    The 3×3 convolutions with normalisation and ReLU form five stages, each with max pooling.
    This is the form used in papers on dataset distillation: configuration A without hidden linear layers and dropout.
    """

    name: ClassVar[str] = "vgg11"
    citation: ClassVar[str] = """@inproceedings{simonyan2015very,
  title = {Very Deep Convolutional Networks for Large-Scale Image Recognition},
  author = {Simonyan, Karen and Zisserman, Andrew},
  booktitle = {ICLR},
  year = {2015}
}"""

    width: int = option(64, validator=ge(1), help="W, channels of the first stage; the others have 2W, 4W, 8W, 8W")
    norm: Norm = option("instance", validator=in_(NORMS), help=NORM_HELP)
    groups: int = option(4, validator=ge(1), help=GROUPS_HELP)
    first_padding: int = option(
        1,
        validator=ge(1),
        help="zero padding of the first convolution; the original has 3 for one-channel images, so that 28 pixels fit",
    )

    def build(self, spec: ImageSpec) -> nn.Module:
        """Builds the module for an image shape.

        Raises:
            OptionError: the image is too small for five poolings, or the groups do not divide the channels.
        """
        height, width = (side + 2 * (self.first_padding - 1) for side in (spec.height, spec.width))
        if min(height, width) < 32:
            raise OptionError(
                f"five poolings halve a {spec.height}×{spec.width} image away; vgg11 with first_padding "
                f"{self.first_padding} needs at least {max(1, 32 - 2 * (self.first_padding - 1))} pixels a side",
                "first_padding",
            )
        layers: list[nn.Module] = []
        channels = spec.channels
        for stage in STAGES:
            for factor in stage:
                out = factor * self.width
                layers.append(nn.Conv2d(channels, out, 3, padding=1 if layers else self.first_padding))
                layers += [*norm_layers(self.norm, out, height, width, self.groups), nn.ReLU()]
                channels = out
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, spec.num_classes))
