"""`hard`: each image has the label of its class.

Shapes: n images in class order, B of them in a batch, m classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from attrs import frozen
from torch.nn.functional import one_hot

from ddfw import AbstractLabels, ImageSpec, Layout, ParamGroup

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw import Teachers
    from ddfw.contracts.parameterization import Params


@final
@frozen(kw_only=True)
class Hard(AbstractLabels):
    """Each image keeps the label of its class; no floats are stored for labels.

    Labels are one-hot and follow from the class order of the images.
    """

    name: ClassVar[str] = "hard"

    def floats_per_image(self, spec: ImageSpec) -> int:
        """0, since labels follow from the class order."""
        return 0

    def init(self, layout: Layout, images: Tensor, teachers: Teachers, rng: torch.Generator) -> Params:
        """The integer tensors `classes` [n] and `num_classes` [] (int64)."""
        return {
            "classes": layout.labels().to(images.device),
            "num_classes": torch.tensor(layout.spec.num_classes, device=images.device),
        }

    def targets(self, params: Params, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """One-hot rows [B, m] (int64) of the images' classes."""
        return one_hot(params["classes"][index], int(params["num_classes"]))

    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """(), since nothing is learned."""
        return ()
