"""Generators of random numbers for all parts of a run, derived from its seeds; global random state is never used.

A generator is a function of (seed, stream, index), so a run needs no stored generator state: step 731 of a resumed
run draws what step 731 of the first one drew.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Stream(Enum):
    """The independent streams of random numbers.

    The comment on each stream names the setting that seeds it, and the index that tells its draws apart.
    """

    TEST_SPLIT = "data/test-split"  # seed data.split_seed
    VALIDATION_SPLIT = "data/validation-split"  # seed data.split_seed
    SUBSET = "data/subset"  # seed data.split_seed, index = 0 train, 1 validation, 2 test
    EXPERT_INIT = "expert/init"  # seed of the expert
    EXPERT_BATCHES = "expert/batches"  # seed of the expert, index = epoch
    EXPERT_AUGMENT = "expert/augment"  # seed of the expert, index = epoch
    PARAM_INIT = "run/param-init"  # seed run.seed
    LABEL_INIT = "run/label-init"  # seed run.seed
    SEGMENT = "run/segment"  # seed run.seed, index = step * segments_per_step + segment
    SYN_BATCHES = "run/syn-batches"  # seed run.seed, index = step * segments_per_step + segment
    SYN_AUGMENT = "run/syn-augment"  # seed run.seed, index = step * segments_per_step + segment
    SELECT_INIT = "select/init"  # seed eval.seed, index = network
    SELECT_BATCHES = "select/batches"  # seed eval.seed, index = network, epoch
    SELECT_AUGMENT = "select/augment"  # seed eval.seed, index = network, epoch
    EVAL_INIT = "eval/init"  # seed eval.seed, index = network
    EVAL_BATCHES = "eval/batches"  # seed eval.seed, index = network, epoch
    EVAL_AUGMENT = "eval/augment"  # seed eval.seed, index = network, epoch
    BASELINE = "baseline/pick"  # seed run.seed; both baselines share their images
    SWEEP = "sweep/sampler"  # seed sweep.seed, index = trial


def derive_seed(seed: int, stream: Stream, *index: int) -> int:
    """An integer in [0, 2^63), a hash of the arguments alone.

    Args:
        seed: the seed of the stream, such as the value of `run.seed`.
        stream: what the random numbers are for.
        index: integers that tell draws of one stream apart: a step, a network, an epoch, …
    """
    text = "\x1f".join([str(seed), stream.value, *(str(i) for i in index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, stream: Stream, *index: int) -> torch.Generator:
    """A fresh CPU generator for (seed, stream, index); draws happen on the CPU so that every device sees the same."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, stream, *index))
