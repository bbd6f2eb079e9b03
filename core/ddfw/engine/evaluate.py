"""Evaluation of a training set: a fresh network is trained on it and its accuracy measured on unseen images."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ddfw.engine.inner import Network
from ddfw.engine.training import accuracy, train_network
from ddfw.randomness import Stream, generator

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.executor import LabelledImages
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.settings import TrainingSettings

#: Random streams of initialisation, batches and augmentation, for networks that select a step and for the final ones.
STREAMS = {
    "select": (Stream.SELECT_INIT, Stream.SELECT_BATCHES, Stream.SELECT_AUGMENT),
    "eval": (Stream.EVAL_INIT, Stream.EVAL_BATCHES, Stream.EVAL_AUGMENT),
}


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
    """Trains fresh network `number` on `train` and returns its accuracy (a fraction) on `test`.

    Args:
        model: draws the initial parameters.
        network: the module that `model` built.
        augmentation: applied to every training batch.
        settings: epochs, learning rate and the other settings of SGD.
        train: the images to train on, for example a distilled set.
        test: the images on which accuracy is measured.
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
    return accuracy(network, theta, test)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divided by n − 1; 0 for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
