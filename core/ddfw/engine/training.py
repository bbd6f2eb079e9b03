"""Training of one network on labelled images by SGD, as used for experts and for evaluation networks.

Shapes: n images, b of them in a batch, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddfw.engine.inner import Network, supervised_gradient
from ddfw.engine.interruption import stop_if_wanted
from ddfw.errors import DivergedError

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.executor import LabelledImages
    from ddfw.contracts.settings import SharpnessSettings, TrainingSettings

#: A function that gives the random generator of an epoch (0-based).
EpochGenerator = Callable[[int], torch.Generator]


def train_network(
    network: Network,
    theta: Tensor,
    data: LabelledImages,
    settings: TrainingSettings,
    augmentation: AbstractAugmentation,
    batches: EpochGenerator,
    draws: EpochGenerator,
    after_epoch: Callable[[int, Tensor, float], None] | None = None,
) -> Tensor:
    """Trains a network by SGD with momentum and weight decay, the same arithmetic as torch.optim.SGD.

    Args:
        network: the network, which takes its parameters as one flat vector θ.
        theta: [P] initial parameters; not changed.
        data: images in training space with targets, on θ's device and in its dtype.
        settings: epochs, learning rate and the other settings of SGD.
        augmentation: applied to every batch.
        batches: gives the generator of an epoch's image order.
        draws: gives the generator of an epoch's augmentation.
        after_epoch: called after each epoch with its number (from 1), θ [P] and the mean loss of the epoch.

    Returns:
        θ [P] after the last epoch.

    Raises:
        DivergedError: the mean loss of an epoch, or a parameter after it, is not finite.
    """
    theta = theta.detach().clone()
    lr, velocity = settings.lr, torch.zeros_like(theta)
    n = len(data.images)
    for epoch in range(settings.epochs):
        if epoch == settings.decay_after:
            lr, velocity = lr * 0.1, torch.zeros_like(theta)
        order = torch.randperm(n, generator=batches(epoch)).to(theta.device)
        rng = draws(epoch)
        total = torch.zeros((), dtype=theta.dtype, device=theta.device)
        for rows in order.split(settings.batch_size):
            stop_if_wanted()
            images = augmented(augmentation, data.images[rows], rng)
            loss, gradient = supervised_gradient(network, theta, images, data.targets[rows])
            if settings.sharpness is not None:
                gradient = gsam_gradient(network, theta, images, data.targets[rows], gradient, settings.sharpness)
            total += loss * len(rows)
            velocity.mul_(settings.momentum).add_(gradient).add_(theta, alpha=settings.weight_decay)
            theta.sub_(velocity, alpha=lr)
        mean = float(total) / n
        require_finite(mean, theta, epoch, lr)
        if after_epoch is not None:
            after_epoch(epoch + 1, theta, mean)
    return theta


def require_finite(mean: float, theta: Tensor, epoch: int, lr: float, row: int | None = None) -> None:
    """Refuses to go on with a network whose training diverged.

    Args:
        mean: mean loss of the epoch.
        theta: [P] parameters after it.
        epoch: number of the epoch, from 0.
        lr: its learning rate.
        row: number of the network, where several are trained together; the error's `step`.

    Raises:
        DivergedError: the loss or a parameter is not finite.
    """
    if not mean < float("inf") or not bool(theta.isfinite().all()):
        raise DivergedError(
            f"training diverged in epoch {epoch + 1} (mean loss {mean:g}) at learning rate {lr:g}; lower it", row
        )


def gsam_gradient(
    network: Network, theta: Tensor, images: Tensor, targets: Tensor, gradient: Tensor, settings: SharpnessSettings
) -> Tensor:
    """The gradient [P] of adaptive surrogate-gap minimisation (GSAM).

    Let g₁ be the gradient at θ and g₂ the gradient at θ + ρ θ² g₁ / (‖|θ| g₁‖ + 1e-12), element by element. The result
    is g₂ less α times the part of g₁ that is orthogonal to g₂.

    Args:
        network: the network, which takes its parameters as one flat vector θ.
        theta: [P] parameters.
        images: [b, C, H, W], one augmented batch, used for both gradients.
        targets: classes [b] (int64) or probabilities [b, m] of the batch.
        gradient: the gradient g₁ [P] at `theta`.
        settings: the numbers ρ and α.
    Source: Du et al., FTD, CVPR 2023; Zhuang et al., Surrogate Gap Minimization, ICLR 2022.
    """
    uphill = settings.rho * theta.square() * gradient / ((theta.abs() * gradient).norm() + 1e-12)
    _, perturbed = supervised_gradient(network, theta + uphill, images, targets)
    along = perturbed / (perturbed.norm() + 1e-12)
    flattened: Tensor = perturbed - settings.alpha * (gradient - gradient.dot(along) * along)
    return flattened


def accuracy(network: Network, theta: Tensor, data: LabelledImages, chunk: int = 1024) -> float:
    """Fraction of images [n, C, H, W] whose largest logit is that of their class; targets are classes [n] (int64)."""
    return share_right(predicted_classes(network, theta, data.images, chunk), data.targets)


def predicted_classes(network: Network, theta: Tensor, images: Tensor, chunk: int = 1024) -> Tensor:
    """The class [n] (int64) of the largest logit for each of the images [n, C, H, W]."""
    found = []
    with torch.no_grad():
        for some in images.split(chunk):
            stop_if_wanted()
            found.append(network.logits(theta, some).argmax(dim=1))
    return torch.cat(found)


def share_right(predicted: Tensor, labels: Tensor) -> float:
    """Fraction of predicted classes [n] that equal the labels [n]."""
    return int((predicted == labels).sum()) / len(labels)


def augmented(augmentation: AbstractAugmentation, images: Tensor, rng: torch.Generator) -> Tensor:
    """One batch of images [b, C, H, W] with an augmentation that is drawn from the generator `rng`."""
    b, c, h, w = images.shape
    return augmentation.apply(images, augmentation.draw((b, c, h, w), rng).to(images.device))
