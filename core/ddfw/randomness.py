"""Every random number of a run comes from a generator that is derived here; nothing touches global state.

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
    """The independent streams of random numbers; `index` is what tells draws of one stream apart."""

    TEST_SPLIT = "data/test-split"  # seed data.split_seed
    VALIDATION_SPLIT = "data/validation-split"  # seed data.split_seed
    SUBSET = "data/subset"  # seed data.split_seed, index = train, validation, test
    EXPERT_INIT = "expert/init"  # seed = the expert's own
    EXPERT_BATCHES = "expert/batches"  # seed = the expert's own, index = epoch
    EXPERT_AUGMENT = "expert/augment"  # seed = the expert's own, index = epoch
    PARAM_INIT = "run/param-init"  # seed run.seed
    LABEL_INIT = "run/label-init"  # seed run.seed
    SEGMENT = "run/segment"  # seed run.seed, index = step * segments_per_step + segment
    SYN_BATCHES = "run/syn-batches"  # likewise
    SYN_AUGMENT = "run/syn-augment"  # likewise
    SELECT_INIT = "select/init"  # seed eval.seed, index = network
    SELECT_BATCHES = "select/batches"  # likewise, then epoch
    SELECT_AUGMENT = "select/augment"  # likewise, then epoch
    EVAL_INIT = "eval/init"  # seed eval.seed, index = network
    EVAL_BATCHES = "eval/batches"  # likewise, then epoch
    EVAL_AUGMENT = "eval/augment"  # likewise, then epoch
    BASELINE = "baseline/pick"  # seed run.seed; both baselines share their images
    SWEEP = "sweep/sampler"  # seed sweep.seed, index = trial


def derive_seed(seed: int, stream: Stream, *index: int) -> int:
    """An integer in [0, 2^63) that depends on all arguments and on nothing else.

    Args:
        seed: the seed that the stream belongs to.
        stream: which stream.
        index: where in the stream (a step, a network, an epoch, …).
    """
    text = "\x1f".join([str(seed), stream.value, *(str(i) for i in index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, stream: Stream, *index: int) -> torch.Generator:
    """A fresh CPU generator for (seed, stream, index); draws happen on the CPU so that every device sees the same."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, stream, *index))
