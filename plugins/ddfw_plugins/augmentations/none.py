"""`none`: images as they are."""

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
    """Images as they are."""

    name: ClassVar[str] = "none"

    def draw(self, shape: tuple[int, int, int, int], rng: torch.Generator) -> Draws:
        """Draws nothing."""
        return Draws()

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The images."""
        return images
