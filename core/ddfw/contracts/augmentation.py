"""Augmentations: random numbers are drawn first and applied separately, so that a training step can be repeated.

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
        family: the transformation that was drawn for the whole batch; "" for augmentations with only one.
        values: the random numbers by name, tensors whose first axis has B elements.
    """

    family: str = ""
    values: Mapping[str, Tensor] = field(factory=dict)

    def to(self, device: torch.device) -> Draws:
        """A copy of these draws whose tensors are on `device`."""
        return Draws(family=self.family, values={k: v.to(device) for k, v in self.values.items()})


@frozen(kw_only=True)
class AbstractAugmentation(ABC):
    """A differentiable augmentation.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def draw(self, shape: tuple[int, int, int, int], rng: torch.Generator) -> Draws:
        """Draws all random numbers for one batch of images.

        Args:
            shape: (B, C, H, W) of the batch.
            rng: CPU generator; the only source of randomness.
        """

    @abstractmethod
    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augments one batch; equal draws give equal images.

        Args:
            images: [B, C, H, W] in training space.
            draws: what `draw` returned for this shape, on the images' device.

        Returns:
            [B, C, H, W], differentiable once with respect to `images`.
        """


@frozen(kw_only=True)
class IdentityAugmentation(AbstractAugmentation):
    """Leaves images as they are; for work that is to happen without augmentation. No plugin offers its `name`."""

    name: ClassVar[str] = "identity"

    def draw(self, shape: tuple[int, int, int, int], rng: torch.Generator) -> Draws:
        """Draws nothing from the generator; returns empty draws."""
        return Draws()

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The same images, unchanged."""
        return images
