"""Label strategies: what a synthetic image's target is, and whether it is learned.

Shapes: n decoded images in class order, B of them in a batch, m classes, E experts.
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Protocol

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddfw.contracts.dataset import ImageSpec
    from ddfw.contracts.parameterization import Layout, ParamGroup, Params


logger = logging.getLogger(__name__)


class Teachers(Protocol):
    """The experts as labellers."""

    @property
    def num_experts(self) -> int:
        """E."""
        ...

    @property
    def num_epochs(self) -> int:
        """K, the last epoch that can be asked for."""
        ...

    def logits(self, images: Tensor, epoch: int | None = None, expert: int | None = None) -> Tensor:
        """Logits [E, n, m] that each expert gives to images [n, C, H, W] (training space).

        Args:
            images: in training space.
            epoch: in [0, K]; None is the last one.
            expert: one of 0 … E−1, for logits [1, n, m] of this one alone; None asks all.

        Raises:
            OptionError: the experts' checkpoints of this epoch were not kept.
        """
        ...


@frozen(kw_only=True)
class AbstractLabels(ABC):
    """Where targets come from. Subclasses are `@final @frozen(kw_only=True)` and set `name`."""

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def floats_per_image(self, spec: ImageSpec) -> int:
        """Floats stored for one decoded image; 0 where the class order says it all."""

    @abstractmethod
    def init(self, layout: Layout, images: Tensor, teachers: Teachers, rng: torch.Generator) -> Params:
        """Initial label parameters for the decoded images [n, C, H, W], in their dtype and on their device."""

    @abstractmethod
    def targets(self, params: Params, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Probabilities [B, m] of some images.

        Args:
            params: as `init` gave them, or as they were learned.
            index: [B] int64, numbers of decoded images.
            dtype: the images' floating dtype, which rows that no parameter holds should have; None where nobody says.
                Integers are allowed for one-hot rows.
        """

    @abstractmethod
    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """Which tensors are learned, and how; () where labels are fixed."""


@cache
def takes_dtype(cls: type[AbstractLabels]) -> bool:
    """Whether a strategy's `targets` takes a dtype; warns once about one that was written for hook API 1."""
    parameters = inspect.signature(cls.targets).parameters.values()
    if any(p.name == "dtype" or p.kind is p.VAR_KEYWORD for p in parameters):
        return True
    logger.warning("labels %r was written for hook API 1: its targets() takes no dtype", cls.name)
    return False


def ask_targets(labels: AbstractLabels, params: Params, index: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`labels.targets`, also of a strategy of hook API 1, whose `targets` takes no dtype.

    Args:
        labels: the strategy.
        params: its parameters.
        index: [B] int64, numbers of decoded images.
        dtype: the images', None where nobody says.
    """
    if takes_dtype(type(labels)):
        return labels.targets(params, index, dtype=dtype)
    return labels.targets(params, index)
