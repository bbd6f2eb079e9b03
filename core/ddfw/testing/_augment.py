"""The conformance check of augmentations."""

from __future__ import annotations

from functools import partial

import torch
from attrs import frozen
from torch import Tensor

from ddfw.contracts.augmentation import AbstractAugmentation, Draws
from ddfw.testing._common import Checked, generator, same
from ddfw.testing._component import checking
from ddfw.testing._devices import elsewhere, require_there
from ddfw.testing._tensors import check_gradients, normal, require_tensor

SHAPES = ((4, 1, 8, 8), (4, 3, 8, 8), (3, 3, 9, 7), (1, 1, 8, 8))
SEEDS = 16


def check_augment(
    augment: AbstractAugmentation, *, shapes: tuple[tuple[int, int, int, int], ...] = SHAPES, seed: int = 0
) -> None:
    """Checks an augmentation's `draw` and `apply` with many seeds, so that each of its transformations is drawn.

    Args:
        augment: the augmentation, with the options to check.
        shapes: batch shapes (B, C, H, W) to try.
        seed: seed of the images; the random generators have this seed and the following ones.

    Raises:
        ConformanceError: the augmentation breaks its contract; the text tells the first fault found.
    """
    with checking("augment", augment, AbstractAugmentation) as subject:
        for shape in shapes:
            case = _Case(subject=subject, augment=augment, shape=shape, seed=seed)
            families: set[str] = set()
            for draw_seed in range(seed, seed + SEEDS):
                draws = case.check_draw(draw_seed)
                case.check_apply(draws)
                if draws.family not in families:
                    families.add(draws.family)
                    case.check_rows(draws)
                    case.check_gradient(draws)
                    elsewhere(subject, "apply", partial(case.check_device, draws))


def _described(draws: Draws) -> str:
    return f"apply ({draws.family})" if draws.family else "apply"


@frozen(kw_only=True)
class _Case:
    """The checks of one augmentation on one batch shape."""

    subject: Checked
    augment: AbstractAugmentation
    shape: tuple[int, int, int, int]
    seed: int

    def images(self, dtype: torch.dtype, shift: int = 0) -> Tensor:
        return normal(self.shape, generator(self.seed + 100 + shift), dtype)

    def check_draw(self, seed: int) -> Draws:
        """Checks that draws are tensors of B rows on the CPU that depend only on the given generator."""
        subject = self.subject
        draws = subject.call("draw", lambda: self.augment.draw(self.shape, generator(seed)))
        subject.require(isinstance(draws, Draws), f"draw has to return Draws, got {type(draws).__name__}")
        for key, tensor in draws.values.items():
            wrong = f"draw's {key!r} is not a tensor with one row per image ({self.shape[0]})"
            subject.require(isinstance(tensor, Tensor) and tensor.ndim >= 1 and len(tensor) == self.shape[0], wrong)
            subject.require(
                tensor.device.type == "cpu",
                f"draw's {key!r} is on {tensor.device}; draws are made on the CPU, so that every device sees the same",
            )
        return draws

    def check_apply(self, draws: Draws) -> None:
        """Checks that `apply` keeps shape and dtype, is deterministic, and changes neither images nor draws."""
        subject, what, apply = self.subject, _described(draws), self.augment.apply
        changes = f"{what} changes its images or draws in place; steps are replayed with them, so work on copies"
        for dtype in (torch.float32, torch.float64):
            images = self.images(dtype)
            hint = f"is a dtype hard-coded? the images are {dtype}"
            with subject.unchanged(changes, lambda images=images: (images, dict(draws.values))):  # type: ignore[misc]
                found = subject.call(what, apply, images, draws, hint=hint)
            require_tensor(subject, what, found, self.shape, dtype, given="images")
            changed = subject.once(what, apply, self.images(dtype, shift=1), draws)
            subject.require(
                not same(found, changed) or not found.any(),
                f"{what} gives the same result for other images: it keeps state between calls (a cache?), or does not "
                "use them",
            )
            subject.again(what, found, apply, images, draws)

    def check_rows(self, draws: Draws) -> None:
        """Checks that image i of an augmented batch depends on no other image of the batch than image i."""
        what, images = _described(draws), self.images(torch.float64)
        before = self.augment.apply(images, draws)
        for row in range(len(images)):
            changed = images.clone()
            changed[row] = self.images(torch.float64, shift=1)[row]
            others = torch.arange(len(images)) != row
            found = self.augment.apply(changed, draws)
            self.subject.require(
                torch.allclose(found[others], before[others], rtol=1e-12, atol=1e-12),
                f"{what} mixes images (or scrambles rows): changing image {row} changes others; each image stays in "
                "its row, or it would be learned with another's label",
            )

    def check_gradient(self, draws: Draws) -> None:
        """Checks the derivative with respect to the images against differences, if the result depends on them."""
        images = self.images(torch.float64)
        same_result = same(self.augment.apply(images, draws), self.augment.apply(images + 1, draws))
        check_gradients(
            self.subject,
            _described(draws),
            lambda tensors: self.augment.apply(tensors["images"], draws),
            {"images": images},
            () if same_result else ("images",),
        )

    def check_device(self, draws: Draws, device: torch.device) -> None:
        """Checks that results are on the device of the images."""
        images = self.images(torch.float32).to(device)
        require_there(self.subject, "apply", self.augment.apply(images, draws.to(device)), device)
