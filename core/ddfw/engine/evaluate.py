"""Evaluation: fresh networks trained on a set, judged on a split that they never saw."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ddfw.engine.inner import Network
from ddfw.engine.training import accuracy, train
from ddfw.randomness import Stream, generator

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.executor import LabelledImages
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.settings import TrainingSettings

#: Streams of initialisations, batches and augmentations, by what networks are trained for.
STREAMS = {
    "select": (Stream.SELECT_INIT, Stream.SELECT_BATCHES, Stream.SELECT_AUGMENT),
    "eval": (Stream.EVAL_INIT, Stream.EVAL_BATCHES, Stream.EVAL_AUGMENT),
}


def evaluate_network(
    model: AbstractModel,
    network: Network,
    augmentation: AbstractAugmentation,
    settings: TrainingSettings,
    subject: LabelledImages,
    judge: LabelledImages,
    seed: int,
    number: int,
    purpose: Literal["select", "eval"],
) -> float:
    """Accuracy (a fraction) on `judge` of fresh network `number` trained on `subject`."""
    init, batches, augment = STREAMS[purpose]
    images = subject.images
    theta = model.init(network.module, generator(seed, init, number)).to(images.device, images.dtype)
    theta = train(
        network,
        theta,
        subject,
        settings,
        augmentation,
        batches=lambda epoch: generator(seed, batches, number, epoch),
        draws=lambda epoch: generator(seed, augment, number, epoch),
    )
    return accuracy(network, theta, judge)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof 1; 0 for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
