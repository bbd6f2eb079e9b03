"""`pixel`: images stored as plain pixels, as in the original trajectory matching.

Shapes: n images, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

from attrs import frozen
from attrs.validators import ge, le

from ddfw import AbstractParameterization, Budget, ImageSpec, Layout, ParamGroup, option
from ddfw_plugins.citations import MTT
from ddfw_plugins.parameterizations._pixel_step import PER_IMAGE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddfw import RealImages
    from ddfw.contracts.parameterization import Params


@final
@frozen(kw_only=True)
class Pixel(AbstractParameterization):
    """Stores every pixel of every image."""

    name: ClassVar[str] = "pixel"
    citation: ClassVar[str] = MTT

    lr: float = option(10.0, validator=ge(0.0), help=f"learning rate of the images, {PER_IMAGE}")
    momentum: float = option(0.5, validator=[ge(0.0), le(1.0)], help="momentum of the images")

    def layout(self, spec: ImageSpec, budget: Budget, label_floats_per_image: int) -> Layout:
        """A layout of `ipc` images of each class; with soft labels it exceeds a strict budget (`over_budget`)."""
        count = spec.num_classes * budget.ipc
        return Layout(
            spec=spec,
            budget=budget,
            images_per_class=budget.ipc,
            samples_per_class=budget.ipc,
            parameter_floats=count * spec.floats_per_image,
            label_floats=count * label_floats_per_image,
        )

    def init(self, layout: Layout, real: RealImages, rng: torch.Generator) -> Params:
        """Starts from random real images of each class; returns `images` [n, C, H, W]."""
        return {"images": real.images[real.pick(layout.samples_per_class, rng)].clone()}

    def decode(self, params: Params, index: Tensor) -> Tensor:
        """The stored images [B, C, H, W] of these numbers."""
        return params["images"][index]

    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """One group: the images."""
        return (ParamGroup(keys=("images",), lr=self.lr * len(params["images"]), momentum=self.momentum),)
