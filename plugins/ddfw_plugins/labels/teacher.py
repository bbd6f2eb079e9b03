"""`teacher`: fixed soft labels, predicted by the experts.

Shapes: n images in class order, B of them in a batch, m classes, E experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

from attrs import frozen
from attrs.validators import ge, gt, optional

from ddfw import AbstractLabels, ImageSpec, Layout, OptionError, ParamGroup, option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddfw import Teachers
    from ddfw.contracts.parameterization import Params


@final
@frozen(kw_only=True)
class Teacher(AbstractLabels):
    """Fixed soft labels: what the experts predict after one of their epochs.

    They are not learned, but count as stored floats like learned ones.
    """

    name: ClassVar[str] = "teacher"
    citation: ClassVar[str] = """@inproceedings{qin2024label,
  title = {A Label is Worth a Thousand Images in Dataset Distillation},
  author = {Qin, Tian and Deng, Zhiwei and Alvarez-Melis, David},
  booktitle = {NeurIPS},
  year = {2024}
}"""

    epoch: int | None = option(None, validator=optional(ge(0)), help="epoch of the experts; default: the last")
    experts: int | None = option(
        None, validator=optional(ge(1)), help="number of experts whose probabilities are averaged; default: all"
    )
    temperature: float = option(1.0, validator=gt(0.0), help="logits are divided by this before the softmax")

    def floats_per_image(self, spec: ImageSpec) -> int:
        """One probability for each of the m classes."""
        return spec.num_classes

    def init(self, layout: Layout, images: Tensor, teachers: Teachers, rng: torch.Generator) -> Params:
        """Computes `probabilities` [n, m], the mean of the experts' softened predictions for the images."""
        if self.epoch is not None and self.epoch > teachers.num_epochs:
            raise OptionError(f"experts have epochs 0 … {teachers.num_epochs}, got {self.epoch}", "epoch")
        if self.experts is not None and self.experts > teachers.num_experts:
            raise OptionError(f"there are {teachers.num_experts} experts, got {self.experts}", "experts")
        logits = teachers.logits(images, self.epoch)[: self.experts]
        return {"probabilities": (logits / self.temperature).softmax(dim=2).mean(dim=0)}

    def targets(self, params: Params, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The stored probabilities [B, m] of these images."""
        return params["probabilities"][index]

    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """(), since nothing is learned."""
        return ()
