"""`none`: no augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

from attrs import frozen

from ddfw import AbstractAugmentation, Draws

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@final
@frozen(kw_only=True)
class NoAugmentation(AbstractAugmentation):
    """No augmentation: images are not changed."""

    name: ClassVar[str] = "none"

    def draw(self, shape: tuple[int, int, int, int], rng: torch.Generator) -> Draws:
        """Draws nothing from the generator; returns empty draws."""
        return Draws()

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The same images, unchanged."""
        return images
