"""`alexnet`: the small AlexNet of cross-architecture tables in papers on dataset distillation."""

from __future__ import annotations

from typing import ClassVar, final

from attrs import frozen
from attrs.validators import ge
from torch import nn

from ddfw import AbstractModel, ImageSpec, OptionError, option


@final
@frozen(kw_only=True)
class AlexNet(AbstractModel):
    """A small AlexNet: five convolutions and one linear layer.

    The convolutions have W, 3W/2, 2W, 3W/2, 3W/2 channels with ReLU.
    2×2 max pooling follows the first, the second and the last convolution. This is the small form of dataset
    condensation's comparisons (Zhao et al., ICLR 2021): strides of 1, no normalisation, no dropout, and no hidden
    linear layers.
    """

    name: ClassVar[str] = "alexnet"
    citation: ClassVar[str] = """@inproceedings{krizhevsky2012imagenet,
  title = {ImageNet Classification with Deep Convolutional Neural Networks},
  author = {Krizhevsky, Alex and Sutskever, Ilya and Hinton, Geoffrey E.},
  booktitle = {NeurIPS},
  year = {2012}
}"""

    width: int = option(128, validator=ge(1), help="W, channels of the first convolution; the others are in proportion")
    first_padding: int = option(
        2,
        validator=ge(2),
        help="zero padding of the first convolution; the original has 4 for one-channel images",
    )

    def build(self, spec: ImageSpec) -> nn.Module:
        """Builds the module for an image shape.

        Raises:
            OptionError: the image is too small for three poolings.
        """
        height, width = (side + 2 * (self.first_padding - 2) for side in (spec.height, spec.width))
        if min(height, width) < 8:
            raise OptionError(
                f"three poolings halve a {spec.height}×{spec.width} image away; alexnet with first_padding "
                f"{self.first_padding} needs at least {max(1, 8 - 2 * (self.first_padding - 2))} pixels a side",
                "first_padding",
            )
        half = 3 * self.width // 2
        layers: list[nn.Module] = []
        channels = spec.channels
        for out, kernel, padding, pool in (
            (self.width, 5, self.first_padding, True),
            (half, 5, 2, True),
            (2 * self.width, 3, 1, False),
            (half, 3, 1, False),
            (half, 3, 1, True),
        ):
            layers += [nn.Conv2d(channels, out, kernel, padding=padding), nn.ReLU()]
            if pool:
                layers.append(nn.MaxPool2d(2))
            channels = out
        features = channels * (height // 8) * (width // 8)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, spec.num_classes))
