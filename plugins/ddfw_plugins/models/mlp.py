"""`mlp`: a network of fully connected layers on the pixels."""

from __future__ import annotations

import math
from typing import ClassVar, final

from attrs import frozen
from attrs.validators import ge, in_, le
from torch import nn

from ddfw import AbstractModel, ImageSpec, option
from ddfw_plugins.models._layers import ACTIVATIONS, Activation


@final
@frozen(kw_only=True)
class Mlp(AbstractModel):
    """A multilayer perceptron: linear layers with activations between them.

    In the cited paper there are three linear layers in all.
    """

    name: ClassVar[str] = "mlp"
    citation: ClassVar[str] = """@inproceedings{zhao2021dataset,
  title = {Dataset Condensation with Gradient Matching},
  author = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},
  booktitle = {ICLR},
  year = {2021}
}"""

    depth: int = option(2, validator=[ge(1), le(1000)], help="number of hidden layers")
    width: int = option(128, validator=ge(1), help="units of each hidden layer")
    activation: Activation = option("relu", validator=in_(tuple(ACTIVATIONS)), help="activation of each hidden layer")

    def build(self, spec: ImageSpec) -> nn.Module:
        """Builds the module for an image shape; every shape is possible."""
        layers: list[nn.Module] = [nn.Flatten()]
        units = math.prod(spec.shape)
        for _ in range(self.depth):
            layers += [nn.Linear(units, self.width), ACTIVATIONS[self.activation]()]
            units = self.width
        return nn.Sequential(*layers, nn.Linear(units, spec.num_classes))
