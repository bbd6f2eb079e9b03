"""Matching losses: how far a student's path is from where the expert went.

Shapes: N inner steps, P parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.trajectory import Segment


@frozen(kw_only=True)
class AbstractMatchingLoss(ABC):
    """A loss on the student's path. Subclasses are `@final @frozen(kw_only=True)` and set `name`."""

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def loss(self, path: Sequence[Tensor], segment: Segment) -> Tensor:
        """A scalar, differentiable in the rows of the path that it reads.

        Args:
            path: N + 1 rows [P], from the segment's start to where the student landed; `path[-1]` is the end. Rows
                that are not read cost nothing.
            segment: start and target, without gradients.
        """
