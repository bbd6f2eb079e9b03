"""`soft`: learned label logits, which start as the experts' logits for the images.

Shapes: n images in class order, B of them in a batch, m classes, E experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from attrs import frozen
from attrs.validators import ge, gt, le
from torch.nn.functional import one_hot

from ddfw import AbstractLabels, ImageSpec, Layout, ParamGroup, option

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw import Teachers
    from ddfw.contracts.parameterization import Params


@final
@frozen(kw_only=True)
class Soft(AbstractLabels):
    """Learned soft labels, which start from what the experts predict.

    The label is the softmax of learned logits, mixed with the class's one-hot label by `hard_weight`.
    """

    name: ClassVar[str] = "soft"
    citation: ClassVar[str] = """@inproceedings{guo2024datm,
  title = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},
  author = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},
  booktitle = {ICLR},
  year = {2024}
}"""

    lr: float = option(
        0.5,
        validator=ge(0.0),
        help="learning rate of the logits, per image: it is multiplied by the number of images",
    )
    momentum: float = option(0.9, validator=[ge(0.0), le(1.0)], help="momentum of the logits")
    confidence: float = option(
        10.0,
        validator=gt(0.0),
        help="initial logit of an image's class if no expert classifies it correctly; other logits are then 0",
    )
    hard_weight: float = option(
        0.0,
        validator=[ge(0.0), le(1.0)],
        help="weight of the class's one-hot label in the label; the softmax of the logits has the rest",
    )

    def floats_per_image(self, spec: ImageSpec) -> int:
        """One logit for each of the m classes; the class itself follows from the order of images."""
        return spec.num_classes

    def init(self, layout: Layout, images: Tensor, teachers: Teachers, rng: torch.Generator) -> Params:
        """Averages for each image the logits of those experts that classify it correctly after their last epoch.

        Returns:
            `logits` [n, m] and, with a `hard_weight` above 0, `classes` [n] (int64).
        """
        classes = layout.labels().to(images.device)
        params = {"logits": mean_of_correct(teachers.logits(images), classes, self.confidence)}
        return {**params, "classes": classes} if self.hard_weight > 0 else params

    def targets(self, params: Params, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(1 − hard_weight) · softmax of the logits + hard_weight · one-hot of the class, [B, m]."""
        learned = params["logits"][index].softmax(dim=1)
        if self.hard_weight == 0:
            return learned
        hard = one_hot(params["classes"][index], learned.shape[1]).to(learned.dtype)
        return (1 - self.hard_weight) * learned + self.hard_weight * hard

    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """One group: the logits."""
        return (ParamGroup(keys=("logits",), lr=self.lr * len(params["logits"]), momentum=self.momentum),)


def mean_of_correct(logits: Tensor, classes: Tensor, confidence: float) -> Tensor:
    """Mean logits over the experts that classify an image correctly; `confidence` · one-hot if no expert does.

    Args:
        logits: [E, n, m] logits of the experts.
        classes: [n] (int64) correct classes.
        confidence: the class's logit for images that no expert classifies correctly.

    Returns:
        [n, m] logits.
    """
    right = (logits.argmax(dim=2) == classes).unsqueeze(2).to(logits.dtype)
    votes = right.sum(dim=0)
    mean = (logits * right).sum(dim=0) / votes.clamp_min(1)
    fallback = confidence * one_hot(classes, logits.shape[2]).to(logits.dtype)
    return torch.where(votes > 0, mean, fallback)
