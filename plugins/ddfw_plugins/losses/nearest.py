"""`nearest`: the ratio loss at the student's step that is nearest to the target.

Shapes: N inner steps, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, final

import torch
from attrs import frozen

from ddfw import AbstractMatchingLoss

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw import Segment


@final
@frozen(kw_only=True)
class NearestStep(AbstractMatchingLoss):
    """As `ratio`, at the step at which the student comes nearest to the expert's end.

    This is ‖w_i − target‖² / ‖start − target‖² at the step i in 1 … N whose w_i is nearest to the target in the L1
    norm.
    """

    name: ClassVar[str] = "nearest"
    citation: ClassVar[str] = """@inproceedings{liu2024att,
  title = {Dataset Distillation by Automatic Training Trajectories},
  author = {Liu, Dai and Gu, Jindong and Cao, Hu and Trinitis, Carsten and Schulz, Martin},
  booktitle = {ECCV},
  year = {2024}
}"""

    def loss(self, path: Sequence[Tensor], segment: Segment) -> Tensor:
        """A scalar ≥ 0, which is 0 if a step reaches the target; only the nearest step's row has a gradient."""
        missed = (path[nearest_step(path, segment.target)] - segment.target).square().sum()
        return missed / (segment.start - segment.target).square().sum()


def nearest_step(path: Sequence[Tensor], target: Tensor) -> int:
    """The step in 1 … N that minimises ‖w_i − target‖₁, computed without gradients; of equally near steps the last.

    If the student diverged (w_N is not finite), the result is N, so that the loss is not finite either.

    Args:
        path: N + 1 rows [P], the student's parameters before the first and after each step.
        target: [P], the segment's target.
    """
    last = len(path) - 1
    distances = torch.stack([(path[i].detach() - target).abs().sum() for i in range(last, 0, -1)]).tolist()
    if not math.isfinite(distances[0]):
        return last
    # `min` returns the first of equal distances, which are ordered from the last step to the first.
    return last - min(range(last), key=distances.__getitem__)
