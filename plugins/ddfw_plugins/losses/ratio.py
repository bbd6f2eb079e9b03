"""`ratio`: the squared distance between student and target, relative to that between start and target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, final

from attrs import frozen

from ddfw import AbstractMatchingLoss
from ddfw_plugins.citations import MTT

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw import Segment


@final
@frozen(kw_only=True)
class Ratio(AbstractMatchingLoss):
    """How far the student ends from the expert's end point, relative to the way there.

    This is ‖w_N − target‖² / ‖start − target‖², where w_N is the student's last point.
    """

    name: ClassVar[str] = "ratio"
    citation: ClassVar[str] = MTT

    def loss(self, path: Sequence[Tensor], segment: Segment) -> Tensor:
        """A scalar ≥ 0, which is 1 if the student does not move and 0 if it ends at the target."""
        missed = (path[-1] - segment.target).square().sum()
        return missed / (segment.start - segment.target).square().sum()
