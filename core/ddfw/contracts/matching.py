"""Matching losses: how far a student's path through parameter space is from an expert's.

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
    """A loss on the student's path.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def loss(self, path: Sequence[Tensor], segment: Segment) -> Tensor:
        """Computes the loss of one student.

        Args:
            path: the student's parameters before the first and after each of its N steps: N + 1 rows [P]. Rows that the
                loss does not read cost no time.
            segment: start and target of the expert's path, without gradients.

        Returns:
            A scalar tensor, differentiable in the rows that were read.
        """
