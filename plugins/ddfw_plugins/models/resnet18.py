"""`resnet18`: the residual network of the CIFAR papers, and its variant with average pooling.

Shapes: B images in a batch, C channels.
"""

from __future__ import annotations

from typing import ClassVar, Literal, final

from attrs import frozen
from attrs.validators import ge, in_
from torch import Tensor, nn

from ddfw import AbstractModel, ImageSpec, OptionError, option
from ddfw_plugins.models._layers import GROUPS_HELP, NORM_HELP, NORMS, Norm, norm_layers


@final
@frozen(kw_only=True)
class ResNet18(AbstractModel):
    """ResNet-18 for small images.

    A 3×3 convolution, four stages of two basic blocks, global average pooling, and a linear layer:

        block(x) = relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))

    The first blocks of stages 2 to 4 halve the map and double the channels. With `downsampling = "stride"` their first
    convolution and the 1×1 convolution of their shortcut have stride 2. With `"average"`, known as ResNet18_AP, both
    have stride 1 and are followed by 2×2 average pooling: after the ReLU inside the block, and before the norm of the
    shortcut. The linear layer then takes the whole last map, without global pooling.
    """

    name: ClassVar[str] = "resnet18"
    citation: ClassVar[str] = """@inproceedings{he2016deep,
  title = {Deep Residual Learning for Image Recognition},
  author = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {CVPR},
  year = {2016}
}"""

    width: int = option(64, validator=ge(1), help="W, channels of the first stage; the others have 2W, 4W, 8W")
    norm: Norm = option("instance", validator=in_(NORMS), help=NORM_HELP)
    groups: int = option(4, validator=ge(1), help=GROUPS_HELP)
    downsampling: Literal["stride", "average"] = option(
        "stride",
        validator=in_(("stride", "average")),
        help="how stages 2 to 4 halve the map. stride: convolutions of stride 2; average: 2×2 average pooling",
    )

    def build(self, spec: ImageSpec) -> nn.Module:
        """Builds the module for an image shape.

        Raises:
            OptionError: the image is too small for three halvings, or the groups do not divide the channels.
        """
        self._require_size(spec)
        height, width = spec.height, spec.width
        layers: list[nn.Module] = [
            # As in the original there is no bias if a normalisation follows, which has its own shift.
            nn.Conv2d(spec.channels, self.width, 3, padding=1, bias=self.norm == "none"),
            *norm_layers(self.norm, self.width, height, width, self.groups),
            nn.ReLU(),
        ]
        channels = self.width
        for stage in range(4):
            out = self.width * 2**stage
            for block in range(2):
                halve = stage > 0 and block == 0
                small = (self._half(height), self._half(width)) if halve else (height, width)
                layers.append(self._block(channels, out, (height, width), small, halve))
                channels, (height, width) = out, small
        if self.downsampling == "average":
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, spec.num_classes))
        return nn.Sequential(*layers, _GlobalAverage(), nn.Linear(channels, spec.num_classes))

    def _half(self, side: int) -> int:
        """The side of a map after halving: pooling rounds an odd side down, a convolution of stride 2 rounds it up."""
        return side // 2 if self.downsampling == "average" else -(-side // 2)

    def _block(self, channels: int, out: int, size: tuple[int, int], small: tuple[int, int], halve: bool) -> nn.Module:
        average, bias = self.downsampling == "average", self.norm == "none"
        stride = 2 if halve and not average else 1
        pool: list[nn.Module] = [nn.AvgPool2d(2)] if halve and average else []
        residual = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=bias),
            *norm_layers(self.norm, out, *(size if average else small), self.groups),
            nn.ReLU(),
            *pool,
            nn.Conv2d(out, out, 3, padding=1, bias=bias),
            *norm_layers(self.norm, out, *small, self.groups),
        )
        if not halve:
            return _Block(residual, nn.Identity())
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride=stride, bias=bias),
            *pool,
            *norm_layers(self.norm, out, *small, self.groups),
        )
        return _Block(residual, shortcut)

    def _require_size(self, spec: ImageSpec) -> None:
        height, width = spec.height, spec.width
        for _ in range(3):
            height, width = self._half(height), self._half(width)
        text = f"three halvings leave a {height}×{width} map of a {spec.height}×{spec.width} image; "
        if min(height, width) == 0:
            least = 16 if self.norm == "instance" else 8
            raise OptionError(
                f"{text}take images of at least {least} pixels a side, or downsampling stride", "downsampling"
            )
        if self.norm == "instance" and height * width == 1:
            least = 16 if self.downsampling == "average" else 9
            raise OptionError(
                f"{text}norm instance would turn each into 0: take images of at least {least} pixels a side, or norm "
                "layer, group or batch",
                "norm",
            )


class _Block(nn.Module):
    """The basic block relu(residual(x) + shortcut(x))."""

    def __init__(self, residual: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual, self.shortcut, self.activation = residual, shortcut, nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Takes maps [B, C, H, W] to maps with the block's number of channels and size."""
        return self.activation(self.residual(maps) + self.shortcut(maps))  # type: ignore[no-any-return]


class _GlobalAverage(nn.Module):
    """The mean over each map, computed by `mean`, whose derivatives are deterministic on every device."""

    def forward(self, maps: Tensor) -> Tensor:
        """Takes maps [B, C, H, W] to their means [B, C]."""
        return maps.mean((2, 3))
