"""`masked`: the ratio loss without the coordinates in which the student is nearest to the target.

Shapes: P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, final

import torch
from attrs import frozen
from attrs.validators import ge, lt

from ddfw import AbstractMatchingLoss, option

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw import Segment


@final
@frozen(kw_only=True)
class Masked(AbstractMatchingLoss):
    """Distance from the expert's end point, over the parameters that are farthest off.

    ‖w_N − target‖² / ‖start − target‖², where w_N is the student's last point. The ⌊ratio·P⌋ coordinates with the
    smallest (w_N − target)² are dropped from numerator and denominator.
    """

    name: ClassVar[str] = "masked"
    citation: ClassVar[str] = """@article{li2024pad,
  title = {Prioritize Alignment in Dataset Distillation},
  author = {Li, Zekai and Guo, Ziyao and Zhao, Wangbo and Zhang, Tianle and Cheng, Zhi-Qi and Khaki, Samir and
    Zhang, Kaipeng and Sajedi, Ahmad and Plataniotis, Konstantinos N and Wang, Kai and You, Yang},
  journal = {arXiv preprint arXiv:2408.03360},
  year = {2024}
}"""

    ratio: float = option(
        0.25,
        validator=[ge(0.0), lt(1.0)],
        help="fraction of the coordinates that is dropped; 0: the loss `ratio`; the default is not from the paper",
    )

    def loss(self, path: Sequence[Tensor], segment: Segment) -> Tensor:
        """A scalar ≥ 0, which is 1 if the student does not move; dropped coordinates have gradient 0."""
        missed = (path[-1] - segment.target).square()
        dropped = smallest(missed.detach(), math.floor(self.ratio * len(missed)))
        went = (segment.start - segment.target).square()
        return missed.masked_fill(dropped, 0.0).sum() / went.masked_fill(dropped, 0.0).sum()


def smallest(values: Tensor, count: int) -> Tensor:
    """A mask [P] (bool) that is true at the `count` smallest values; of equal values the first are taken.

    Args:
        values: [P] numbers.
        count: how many, in [0, P].
    """
    mask = torch.zeros_like(values, dtype=torch.bool)
    # mask[…] = True would copy a tensor from the CPU to the device.
    return mask.index_fill_(0, values.argsort(stable=True)[:count], True)
