"""`convnet`: the field's ConvNet.

D blocks of [3×3 convolution, normalisation, activation, 2×2 average pooling], then a linear layer.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from attrs import frozen
from attrs.validators import ge, in_
from torch import nn

from ddfw import AbstractModel, ImageSpec, OptionError, option


@final
@frozen(kw_only=True)
class ConvNet(AbstractModel):
    """D blocks of convolution, instance normalisation, ReLU, average pooling; then a linear layer."""

    name: ClassVar[str] = "convnet"
    citation: ClassVar[str] = """@inproceedings{gidaris2018dynamic,
  title = {Dynamic Few-Shot Visual Learning without Forgetting},
  author = {Gidaris, Spyros and Komodakis, Nikos},
  booktitle = {CVPR},
  year = {2018}
}"""

    depth: int = option(3, validator=ge(1), help="D, number of blocks; each halves the image")
    width: int = option(128, validator=ge(1), help="W, channels of each block")
    norm: Literal["instance", "none"] = option(
        "instance", validator=in_(("instance", "none")), help="normalisation after each convolution"
    )
    first_padding: int = option(
        1,
        validator=ge(1),
        help="zero padding of the first convolution; the original has 3 for one-channel images",
    )

    def build(self, spec: ImageSpec) -> nn.Module:
        """The module for an image shape.

        Raises:
            OptionError: the image is too small for this depth.
        """
        layers: list[nn.Module] = []
        channels = spec.channels
        height, width = (side + 2 * (self.first_padding - 1) for side in (spec.height, spec.width))
        for block in range(self.depth):
            if min(height, width) < 2:
                raise OptionError(
                    f"depth {self.depth} halves a {spec.height}×{spec.width} image away; at most {block}", "depth"
                )
            layers.append(nn.Conv2d(channels, self.width, 3, padding=self.first_padding if block == 0 else 1))
            if self.norm == "instance":
                # One group per channel; nn.InstanceNorm2d would come without scale and shift, and with other defaults.
                layers.append(nn.GroupNorm(self.width, self.width))
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
            channels, height, width = self.width, height // 2, width // 2
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, spec.num_classes))
