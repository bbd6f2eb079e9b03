"""Evaluation of a training set: a fresh network is trained on it and its accuracy measured on unseen images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from ddfw.engine.inner import Network
from ddfw.engine.training import predicted_classes, share_right, train_network
from ddfw.randomness import Stream, generator

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.executor import LabelledImages
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.settings import TrainingSettings

#: Random streams of initialisation, batches and augmentation, for networks that select a step and for the final ones.
STREAMS = {
    "select": (Stream.SELECT_INIT, Stream.SELECT_BATCHES, Stream.SELECT_AUGMENT),
    "eval": (Stream.EVAL_INIT, Stream.EVAL_BATCHES, Stream.EVAL_AUGMENT),
}


def predict_with_network(
    model: AbstractModel,
    network: Network,
    augmentation: AbstractAugmentation,
    settings: TrainingSettings,
    train: LabelledImages,
    test: LabelledImages,
    seed: int,
    number: int,
    purpose: Literal["select", "eval"],
) -> Tensor:
    """Trains fresh network `number` on `train` and returns the class [n] (int64) that it predicts for each test image.

    Args:
        model: draws the initial parameters.
        network: the module that `model` built.
        augmentation: applied to every training batch.
        settings: epochs, learning rate and the other settings of SGD.
        train: the images to train on, for example a distilled set.
        test: the images whose classes are predicted.
        seed: seed of all evaluation networks, `eval.seed`.
        number: number of the network (from 0); networks of different numbers get different random streams.
        purpose: `select` for the selection of an outer step, `eval` for the final evaluation.
    """
    init, batches, augment = STREAMS[purpose]
    images = train.images
    theta = model.init(network.module, generator(seed, init, number)).to(images.device, images.dtype)
    theta = train_network(
        network,
        theta,
        train,
        settings,
        augmentation,
        batches=lambda epoch: generator(seed, batches, number, epoch),
        draws=lambda epoch: generator(seed, augment, number, epoch),
    )
    return predicted_classes(network, theta, test.images)


def evaluate_network(
    model: AbstractModel,
    network: Network,
    augmentation: AbstractAugmentation,
    settings: TrainingSettings,
    train: LabelledImages,
    test: LabelledImages,
    seed: int,
    number: int,
    purpose: Literal["select", "eval"],
) -> float:
    """Accuracy (a fraction) on `test` of the network that `predict_with_network` trains with these arguments."""
    found = predict_with_network(model, network, augmentation, settings, train, test, seed, number, purpose)
    return share_right(found, test.targets)


def confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> tuple[tuple[int, ...], ...]:
    """Counts [m][m] of how many images of class i (row) were taken for class j (column), over all networks.

    Args:
        predicted: [networks, n] int64, predicted classes.
        labels: [n] int64, the true classes.
        num_classes: number m of classes.

    Raises:
        ValueError: `predicted` has another shape, or something that is no class.
    """
    if predicted.ndim != 2 or predicted.shape[1] != len(labels):
        raise ValueError(f"expected [networks, {len(labels)}], got {list(predicted.shape)}")
    predicted = predicted.to("cpu", torch.int64)
    if not bool(((predicted >= 0) & (predicted < num_classes)).all()):
        raise ValueError(f"expected classes 0 … {num_classes - 1}, got {int(predicted.min())} … {int(predicted.max())}")
    pairs = labels.cpu() * num_classes + predicted
    counts = torch.bincount(pairs.flatten(), minlength=num_classes**2).view(num_classes, num_classes)
    return tuple(tuple(row) for row in counts.tolist())


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divided by n − 1; 0 for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
