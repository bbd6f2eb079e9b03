"""Training of several networks at once, as one vectorised network (torch.func.vmap).

Each network sees the batches and augmentation draws that it would see alone, so results agree with separate training up
to rounding. It is meant for GPUs, of which one small network leaves most idle; on a CPU it is usually slower.

Shapes: E networks, n images, b of them in a batch, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.functional import cross_entropy

from ddfw.contracts.executor import TrainedExpert
from ddfw.engine.evaluate import STREAMS
from ddfw.engine.inner import Network
from ddfw.engine.interruption import stop_if_wanted
from ddfw.engine.training import augmented, require_finite, share_right
from ddfw.errors import DivergedError
from ddfw.randomness import Stream, generator

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.executor import LabelledImages
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.settings import TrainingSettings
    from ddfw.engine.training import EpochGenerator


def train_many(
    network: Network,
    thetas: Tensor,
    data: LabelledImages,
    settings: TrainingSettings,
    augmentation: AbstractAugmentation,
    batches: Sequence[EpochGenerator],
    draws: Sequence[EpochGenerator],
    after_epoch: Callable[[int, Tensor, list[float]], None] | None = None,
) -> Tensor:
    """Trains E networks at once by SGD, each as `ddfw.engine.training.train` would train it alone.

    Args:
        network: the architecture, applied to each row of the parameters.
        thetas: [E, P] initial parameters; not changed.
        data: images in training space with targets, on the parameters' device and in their dtype.
        settings: epochs, learning rate and the other settings of SGD; `sharpness` is not supported.
        augmentation: applied to every batch of each network.
        batches: for each network a function that gives the generator of an epoch's image order.
        draws: for each network a function that gives the generator of an epoch's augmentation.
        after_epoch: called after each epoch with its number (from 1), θ [E, P] and the E mean losses of the epoch.

    Returns:
        θ [E, P] after the last epoch.

    Raises:
        DivergedError: the mean loss or a parameter of a network is not finite; `step` is that network's row.
        ValueError: `settings.sharpness` is set.
    """
    if settings.sharpness is not None:
        raise ValueError("networks with gsam are trained one at a time")

    def loss_of(theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(network.logits(theta, images), targets)

    gradients = vmap(grad_and_value(loss_of))
    thetas = thetas.detach().clone()
    lr, velocity = settings.lr, torch.zeros_like(thetas)
    count, n = len(thetas), len(data.images)
    for epoch in range(settings.epochs):
        if epoch == settings.decay_after:
            lr, velocity = lr * 0.1, torch.zeros_like(thetas)
        orders = torch.stack([torch.randperm(n, generator=batches[e](epoch)) for e in range(count)]).to(thetas.device)
        rngs = [draws[e](epoch) for e in range(count)]
        totals = torch.zeros(count, dtype=thetas.dtype, device=thetas.device)
        for rows in orders.split(settings.batch_size, dim=1):
            stop_if_wanted()
            images = torch.stack([augmented(augmentation, data.images[rows[e]], rngs[e]) for e in range(count)])
            found, losses = gradients(thetas, images, data.targets[rows])
            totals += losses.detach() * rows.shape[1]
            velocity.mul_(settings.momentum).add_(found).add_(thetas, alpha=settings.weight_decay)
            thetas.sub_(velocity, alpha=lr)
        means = [float(total) / n for total in totals]
        for e, mean in enumerate(means):
            require_finite(mean, thetas[e], epoch, lr, e)
        if after_epoch is not None:
            after_epoch(epoch + 1, thetas, means)
    return thetas


def train_together(
    model: AbstractModel,
    network: Network,
    augmentation: AbstractAugmentation,
    settings: TrainingSettings,
    data: LabelledImages,
    validation: LabelledImages,
    seeds: Sequence[int],
    on_epoch: Callable[[int], None],
) -> list[TrainedExpert]:
    """Trains the experts of several seeds at once; each equals `ddfw.engine.experts.train_expert` up to rounding."""
    images = data.images
    thetas = torch.stack([model.init(network.module, generator(seed, Stream.EXPERT_INIT)) for seed in seeds])
    thetas = thetas.to(images.device, images.dtype)
    snapshots, accuracies, losses = [thetas.clone()], list[list[float]](), list[list[float]]()

    def keep(epoch: int, thetas: Tensor, means: list[float]) -> None:
        snapshots.append(thetas.clone())
        accuracies.append(accuracies_of(network, thetas, validation))
        losses.append(means)
        on_epoch(epoch)

    try:
        train_many(
            network,
            thetas,
            data,
            settings,
            augmentation,
            batches=[_epochs(seed, Stream.EXPERT_BATCHES) for seed in seeds],
            draws=[_epochs(seed, Stream.EXPERT_AUGMENT) for seed in seeds],
            after_epoch=keep,
        )
    except DivergedError as error:
        raise DivergedError(f"expert of seed {seeds[error.step or 0]}: {error} (experts.lr)") from error
    return [
        TrainedExpert(
            seed=seed,
            snapshots=torch.stack([some[e] for some in snapshots]),
            validation_accuracy=tuple(some[e] for some in accuracies),
            train_loss=tuple(some[e] for some in losses),
        )
        for e, seed in enumerate(seeds)
    ]


def predict_together(
    model: AbstractModel,
    network: Network,
    augmentation: AbstractAugmentation,
    settings: TrainingSettings,
    train: LabelledImages,
    test: LabelledImages,
    seed: int,
    numbers: Sequence[int],
    purpose: Literal["select", "eval"],
) -> Tensor:
    """Trains several fresh networks at once on `train`; returns the classes [E, n] that they predict on `test`."""
    init, batches, augment = STREAMS[purpose]
    images = train.images
    thetas = torch.stack([model.init(network.module, generator(seed, init, number)) for number in numbers])
    try:
        thetas = train_many(
            network,
            thetas.to(images.device, images.dtype),
            train,
            settings,
            augmentation,
            batches=[_epochs(seed, batches, number) for number in numbers],
            draws=[_epochs(seed, augment, number) for number in numbers],
        )
    except DivergedError as error:
        raise DivergedError(str(error)) from error
    return classes_of(network, thetas, test.images)


def accuracies_of(network: Network, thetas: Tensor, data: LabelledImages, chunk: int = 1024) -> list[float]:
    """Accuracy (a fraction) of each row of θ [E, P] on images [n, C, H, W] with classes [n] (int64)."""
    return [share_right(found, data.targets) for found in classes_of(network, thetas, data.images, chunk)]


def classes_of(network: Network, thetas: Tensor, images: Tensor, chunk: int = 1024) -> Tensor:
    """The classes [E, n] (int64) that each row of θ [E, P] predicts for images [n, C, H, W]."""
    each = vmap(network.logits, in_dims=(0, None))
    found = []
    with torch.no_grad():
        for some in images.split(chunk):
            stop_if_wanted()
            found.append(each(thetas, some).argmax(dim=2))
    return torch.cat(found, dim=1)


def _epochs(seed: int, stream: Stream, *index: int) -> EpochGenerator:
    return lambda epoch: generator(seed, stream, *index, epoch)
