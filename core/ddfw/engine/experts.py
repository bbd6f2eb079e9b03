"""Experts: networks trained on the real training split, with a checkpoint after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from attrs import evolve
from torch import Tensor

from ddfw.contracts.executor import TrainedExpert
from ddfw.engine.inner import Network
from ddfw.engine.interruption import stop_if_wanted
from ddfw.engine.training import accuracy, train_network
from ddfw.errors import DivergedError
from ddfw.randomness import Stream, generator

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.dataset import RealImages
    from ddfw.contracts.executor import LabelledImages
    from ddfw.contracts.labels import Teachers
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.settings import TrainingSettings
    from ddfw.contracts.trajectory import ExpertSource


def train_expert(
    model: AbstractModel,
    network: Network,
    augmentation: AbstractAugmentation,
    settings: TrainingSettings,
    data: LabelledImages,
    validation: LabelledImages,
    seed: int,
    on_epoch: Callable[[int], None],
) -> TrainedExpert:
    """Trains one expert; equal arguments give the same expert.

    Args:
        model: draws the initial parameters.
        network: the module that `model` built.
        augmentation: applied to every batch.
        settings: epochs, learning rate and the other settings of SGD.
        data: the training split in training space.
        validation: the images on which accuracy is measured after every epoch.
        seed: the seed of this expert, from which all its random streams come.
        on_epoch: called after each epoch with the number of finished epochs.

    Returns:
        The expert's checkpoints, one before the first epoch and one after each, with accuracies and losses.
    """
    images = data.images
    theta = model.init(network.module, generator(seed, Stream.EXPERT_INIT)).to(images.device, images.dtype)
    snapshots, accuracies, losses = [theta.clone()], list[float](), list[float]()

    def keep(epoch: int, theta: Tensor, loss: float) -> None:
        snapshots.append(theta.clone())
        accuracies.append(accuracy(network, theta, validation))
        losses.append(loss)
        on_epoch(epoch)

    try:
        train_network(
            network,
            theta,
            data,
            settings,
            augmentation,
            batches=lambda epoch: generator(seed, Stream.EXPERT_BATCHES, epoch),
            draws=lambda epoch: generator(seed, Stream.EXPERT_AUGMENT, epoch),
            after_epoch=keep,
        )
    except DivergedError as error:
        raise DivergedError(f"expert of seed {seed}: {error} (experts.lr)") from error
    return TrainedExpert(
        seed=seed, snapshots=torch.stack(snapshots), validation_accuracy=tuple(accuracies), train_loss=tuple(losses)
    )


class ExpertTeachers:
    """Gives what the experts' networks compute for images: logits and features.

    It is what label strategies get as `Teachers`. Networks have no running statistics and no active dropout, so that
    they compute the same in training and in evaluation.

    Attributes:
        num_experts: number E of experts.
        num_epochs: number K of epochs that each expert was trained for.
    """

    def __init__(self, network: Network, experts: ExpertSource) -> None:
        self._network = network
        self._experts = experts
        self.num_experts, self.num_epochs = experts.num_experts, experts.num_epochs

    def logits(self, images: Tensor, epoch: int | None = None, expert: int | None = None) -> Tensor:
        """What an expert's network answers for images [n, C, H, W] in training space: its logits.

        Args:
            images: [n, C, H, W] in training space.
            epoch: the checkpoint to use, in [0, K]; None: the last.
            expert: the only expert to use, in [0, E); None: all of them.

        Returns:
            [E, n, m] logits of all experts, or [1, n, m] of the given one.
        """
        epoch = self.num_epochs if epoch is None else epoch
        self._network = self._network.to(images.device)
        if not 0 <= epoch <= self.num_epochs:
            raise ValueError(f"epoch must lie in 0 … {self.num_epochs}, got {epoch}")
        numbers = range(self.num_experts) if expert is None else (expert,)
        return torch.stack([self._computed(self._network.logits, images, number, epoch) for number in numbers])

    def features(self, images: Tensor) -> Tensor:
        """The features of images in the network of the first expert after its last epoch.

        Args:
            images: [n, C, H, W] in training space.

        Returns:
            [n, d] in the images' dtype, on the CPU: what the network's last linear layer is given, or the logits of a
            network that does not end in a linear layer.
        """
        network = self._network = self._network.to(images.device)
        return self._computed(lambda theta, part: network.features(theta, part).cpu(), images, 0, self.num_epochs)

    def _computed(self, compute: Callable[[Tensor, Tensor], Tensor], images: Tensor, expert: int, epoch: int) -> Tensor:
        """What `compute` gives for an expert's parameters [P] and images [n, C, H, W], in pieces of 1,024 images."""
        parts = []
        with torch.no_grad():
            theta = self._experts.snapshots(expert, [epoch])[0].to(images.device, images.dtype)
            for part in images.split(1024):
                stop_if_wanted()
                parts.append(compute(theta, part))
        return torch.cat(parts)


def recognised_first(real: RealImages, teachers: Teachers, per_class: int) -> RealImages:
    """Ranks real images by the first expert that classifies them correctly, so that recognised images are picked first.

    Images that expert 0 classifies correctly after its last epoch get rank 0, further ones that expert 1 classifies
    correctly get rank 1, and so on. No more experts are asked once every class has enough ranked images; all other
    images are ranked last.

    Args:
        real: the training split in training space.
        teachers: the experts.
        per_class: how many images of each class will be picked.

    Returns:
        The same images with `rank` set.
    Source: the released code of Guo et al., DATM, ICLR 2024.
    """
    labels, last = real.labels.cpu(), teachers.num_experts
    rank = torch.full((len(labels),), last)
    for expert in range(last):
        rows = (rank == last).nonzero().flatten()
        if not len(rows):
            break
        logits = teachers.logits(real.images[rows.to(real.images.device)], expert=expert)[0]
        rank[rows[logits.argmax(dim=1).cpu() == labels[rows]]] = expert
        if int(labels[rank < last].bincount(minlength=real.num_classes).min()) >= per_class:
            break
    return evolve(real, rank=rank)
