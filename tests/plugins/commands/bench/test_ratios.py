"""Ratios to the plain loop on this machine: `poe benchmark` (some twenty minutes on two cores).

They are left out of an ordinary run, where a busy machine would make them fail for no fault of the code.
"""

from __future__ import annotations

import pytest
import torch

from ddfw_plugins.commands.bench.shapes import BENCH_SHAPES
from ddfw_plugins.commands.bench.suite import Benchmarks
from ddfw_plugins.executors.cpu import Cpu

pytestmark = pytest.mark.benchmark
#: Interleaved pairs of each ratio.
PAIRS = 9


def measured(group, pairs=PAIRS, shapes=()):
    """A group's rows on this processor."""
    executor, device = Cpu(), torch.device("cpu")
    return list(Benchmarks(executor=executor, device=device, shapes=shapes, pairs=pairs).rows([group]))


@pytest.mark.parametrize("shape", sorted(BENCH_SHAPES))
def test_an_outer_step_keeps_its_bounds(shape):
    """Broken: an outer step became slower than promised, against a plain loop in the same process."""
    rows = measured("outer", shapes=[BENCH_SHAPES[shape]])
    assert [row.mode for row in rows] == ["all graphs held", "no graph held", "compiled"]
    assert not [(row.mode, row.value, row.bound) for row in rows if row.kept is False]


def test_memory_stays_flat():
    """Broken: without held graphs an outer step keeps more than an eighth of what the plain loop does at N = 80."""
    rows = measured("memory")
    assert rows and not [(row.mode, row.value) for row in rows if row.kept is False]


@pytest.mark.parametrize(("what", "bound"), [("rotate matrices", 1 / 50), ("scale matrices", 1 / 25)])
def test_the_augmentation_makes_its_matrices_at_once(what, bound):
    """Broken: DSA loops over images where public codes do, in making its matrices.

    Whole warps cannot be fifty times faster, nor can seven operations on 500 numbers (docs/speed.md).
    """
    (row,) = (row for row in measured("augment", 5 * PAIRS) if row.shape == what)
    assert row.value <= bound


def test_an_expert_epoch_keeps_its_bound():
    """Broken: training an expert costs more than a plain loop with torch.optim.SGD."""
    (row,) = measured("expert")
    assert row.kept
