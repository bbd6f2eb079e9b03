"""Augmentations: random numbers first, deterministic images after, so that a step can be replayed.

Shapes: B images in a batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@frozen(kw_only=True)
class Draws:
    """The random numbers of one application to one batch.

    Args:
        family: which transformation was drawn for the batch, "" where there is only one.
        values: named tensors, first axis B.
    """

    family: str = ""
    values: Mapping[str, Tensor] = field(factory=dict)

    def to(self, device: torch.device) -> Draws:
        """The same draws on another device."""
        return Draws(family=self.family, values={k: v.to(device) for k, v in self.values.items()})


@frozen(kw_only=True)
class AbstractAugmentation(ABC):
    """A differentiable augmentation. Subclasses are `@final @frozen(kw_only=True)` and set `name`."""

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def draw(self, shape: tuple[int, int, int, int], rng: torch.Generator) -> Draws:
        """Draws all random numbers for a batch of shape (B, C, H, W) from a CPU generator."""

    @abstractmethod
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augments images [B, C, H, W]; differentiable once with respect to the images, deterministic given `draws`."""
