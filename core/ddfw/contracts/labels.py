"""Label strategies: which class probabilities a synthetic image has as its label, and whether they are learned.

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
    """Gives the logits of the experts for images, so that label strategies can take labels from them."""

    @property
    def num_experts(self) -> int:
        """Number E of experts."""

    @property
    def num_epochs(self) -> int:
        """Number K of epochs; the checkpoint after epoch K is the last."""

    def logits(self, images: Tensor, epoch: int | None = None, expert: int | None = None) -> Tensor:
        """Computes logits of the experts for images.

        Args:
            images: [n, C, H, W] in training space.
            epoch: the checkpoint to use, in [0, K]; None: the last.
            expert: the only expert to use, in [0, E); None: all of them.

        Returns:
            [E, n, m] logits of all experts, or [1, n, m] of the given one.

        Raises:
            OptionError: the experts' checkpoints of this epoch were not kept.
        """


@frozen(kw_only=True)
class AbstractLabels(ABC):
    """How the labels of synthetic images are stored, initialised and learned.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def floats_per_image(self, spec: ImageSpec) -> int:
        """Number of floats stored for the label of one decoded image; 0 if labels follow from the class order."""

    @abstractmethod
    def init(self, layout: Layout, images: Tensor, teachers: Teachers, rng: torch.Generator) -> Params:
        """Computes initial label parameters.

        Args:
            layout: number of images and classes.
            images: [n, C, H, W] decoded images in training space.
            teachers: gives the experts' logits.
            rng: CPU generator; the only source of randomness.

        Returns:
            Named tensors, in the images' dtype and on their device.
        """

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
        """The learned tensors with their learning rates; () if labels are fixed."""


@cache
def takes_dtype(cls: type[AbstractLabels]) -> bool:
    """Whether the method `targets` of a label strategy takes a dtype.

    If it does not, as in plugins written for hook API 1, a warning is logged once.
    """
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
