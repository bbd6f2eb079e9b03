"""Small artificial images, teachers, experts and networks that checks pass to components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from attrs import frozen
from torch import Tensor, nn

from ddfw.contracts.augmentation import AbstractAugmentation, Draws
from ddfw.contracts.dataset import ImageSpec, RealImages
from ddfw.contracts.matching import AbstractMatchingLoss
from ddfw.contracts.model import AbstractModel
from ddfw.contracts.trajectory import Segment
from ddfw.testing._common import generator


def class_levels(spec: ImageSpec) -> Tensor:
    """The mean brightness [m, C] (float64) of the images of each class; all channels use the same m levels."""
    levels = torch.linspace(-1.5, 1.5, spec.num_classes, dtype=torch.float64)
    return torch.stack([levels.roll(c) for c in range(spec.channels)], dim=1)


def real_images(spec: ImageSpec, per_class: int, dtype: torch.dtype, seed: int) -> RealImages:
    """Shuffled images of classes that differ in brightness, with a little structure and noise.

    Args:
        spec: image shape and number of classes.
        per_class: number of images of each class.
        dtype: dtype of the images.
        seed: seed of noise and order.
    """
    rng = generator(seed)
    labels = torch.arange(spec.num_classes).repeat(per_class)
    labels = labels[torch.randperm(len(labels), generator=rng)]
    rows = torch.linspace(-0.2, 0.2, spec.height, dtype=torch.float64)[:, None]
    columns = torch.linspace(-0.1, 0.1, spec.width, dtype=torch.float64)
    images = class_levels(spec)[labels][:, :, None, None] + rows + columns
    images = images + 0.1 * torch.randn(images.shape, generator=rng, dtype=torch.float64)
    return RealImages(images=images.to(dtype), labels=labels, num_classes=spec.num_classes)


class LinearTeachers:
    """Three experts of four epochs that classify `real_images` correctly, more confidently after each epoch."""

    num_experts, num_epochs = 3, 4

    def __init__(self, spec: ImageSpec) -> None:
        self._levels = class_levels(spec)

    def logits(self, images: Tensor, epoch: int | None = None, expert: int | None = None) -> Tensor:
        """Logits [E, n, m], which fall with the distance between an image's mean colour and each class's level."""
        epoch = self.num_epochs if epoch is None else epoch
        if not 0 <= epoch <= self.num_epochs:
            raise ValueError(f"epoch must lie in 0 … {self.num_epochs}, got {epoch}")
        colour = images.detach().mean(dim=(2, 3))
        distance = (colour[:, None] - self._levels.to(colour)).square().sum(dim=2)
        experts = range(self.num_experts) if expert is None else [expert]
        return torch.stack([-0.3 * distance * (1 + 0.3 * e) * (epoch + 0.5) for e in experts])


class FakeExperts:
    """Experts whose parameters are random walks, each tensor with its own step length.

    Args:
        num_epochs: number K of epochs.
        dtype: dtype of the checkpoints.
        seed: seed of the random walks.
        device: where the checkpoints are.
    """

    num_experts = 3
    sizes = (7, 3, 12, 1)

    def __init__(self, num_epochs: int, dtype: torch.dtype, seed: int, device: torch.device | None = None) -> None:
        self.num_epochs = num_epochs
        pace = torch.tensor([1.0, 0.1, 0.5, 2.0]).repeat_interleave(torch.tensor(self.sizes))
        steps = torch.randn(self.num_experts, num_epochs + 1, sum(self.sizes), generator=generator(seed)) * pace
        self._checkpoints = steps.cumsum(dim=1).to(device, dtype)

    def snapshots(self, expert: int, epochs: Sequence[int]) -> Tensor:
        """A copy of the checkpoints [S, P] of one expert at the given S epochs."""
        wrong = [e for e in epochs if not 0 <= e <= self.num_epochs]
        if wrong or not 0 <= expert < self.num_experts:
            raise ValueError(f"there is no checkpoint of expert {expert} at epochs {wrong or list(epochs)}")
        return self._checkpoints[expert, list(epochs)].clone()

    def compact(self, expert: int) -> None:
        """None, since these experts keep all checkpoints."""


@final
@frozen(kw_only=True)
class TinyModel(AbstractModel):
    """A smooth network with one convolution."""

    name: ClassVar[str] = "tiny"

    def build(self, spec: ImageSpec) -> nn.Module:
        """A module of a convolution, tanh, pooling and a linear layer."""
        return nn.Sequential(
            nn.Conv2d(spec.channels, 2, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * (spec.height // 2) * (spec.width // 2), spec.num_classes),
        )


@final
@frozen(kw_only=True)
class Brighten(AbstractAugmentation):
    """Adds a random number to each image."""

    name: ClassVar[str] = "brighten"

    def draw(self, shape: tuple[int, int, int, int], rng: torch.Generator) -> Draws:
        """One random number per image of the batch."""
        return Draws(values={"u": torch.rand(shape[0], generator=rng)})

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The images [B, C, H, W], each with its number added."""
        return images + 0.3 * draws.values["u"].to(images.dtype)[:, None, None, None]


@final
@frozen(kw_only=True)
class EndAndMiddle(AbstractMatchingLoss):
    """A loss that reads the last and one inner point of the path: their squared distances from the target."""

    name: ClassVar[str] = "end-and-middle"

    def loss(self, path: Sequence[Tensor], segment: Segment) -> Tensor:
        """The loss, a scalar tensor."""
        end, middle = path[-1], path[len(path) // 2]
        return (end - segment.target).square().sum() + 0.1 * (middle - segment.target).square().sum()
