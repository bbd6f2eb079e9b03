"""What worker processes change in a forecast."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ddfw.forecast.memory import _with_workers
from ddfw.forecast.workers import SideBySide
from ddfw.remote.pool import START_S
from ddfw_plugins.executors.cpu import Cpu


def pair(seconds, cpu=None):
    return torch.tensor([seconds, seconds if cpu is None else cpu], dtype=torch.float64)


def test_work_side_by_side_takes_its_rounds_and_the_start_of_the_workers():
    """Broken: two cores would be promised to halve five networks, or to cost fewer seconds of processors."""
    side = SideBySide(most=2)
    assert side.shared(pair(60.0), 6).tolist() == pytest.approx([30.0 + START_S, 60.0 + 2 * START_S])
    assert side.used == 2
    # The workers are there already; five networks take three rounds of two.
    assert side.shared(pair(50.0), 5).tolist() == pytest.approx([30.0, 50.0])


@pytest.mark.parametrize(("most", "seconds", "pieces"), [(1, 60.0, 6), (8, 60.0, 1), (2, 3.9, 2), (4, 0.0, 0)])
def test_work_that_is_not_worth_it_stays_as_it_is(most, seconds, pieces):
    """Broken: a short run would be predicted with processes that it does not start."""
    side = SideBySide(most=most)
    assert side.shared(pair(seconds), pieces).tolist() == [seconds, seconds]
    assert side.used == 0


def test_workers_whose_number_was_named_are_started_for_little_work_too():
    """Broken: the memory of two processes would be missing in the forecast of a run that starts them."""

    def session(workers):
        return SimpleNamespace(describe=lambda: {"workers": workers})

    named, automatic = (SideBySide.of(session(2), Cpu(workers=workers)) for workers in (2, "auto"))
    assert named.shared(pair(0.5), 2).tolist() == pytest.approx([0.25 + START_S, 0.5 + 2 * START_S])
    assert named.used == 2
    automatic.shared(pair(0.5), 2)
    assert automatic.used == 0


def test_more_work_starts_more_workers_and_pays_for_those_alone():
    """Broken: the start of workers would be counted for each stage anew."""
    side = SideBySide(most=4)
    side.shared(pair(60.0), 2)
    assert side.shared(pair(60.0), 4).tolist() == pytest.approx([15.0 + START_S, 60.0 + 2 * START_S])
    assert side.used == 4


def test_memory_of_workers_counts_once_for_each_and_what_they_share_once():
    """Broken: a run on a machine of many cores and little memory would be called possible."""
    mega = 2**20
    stages = {
        "distill": {"data": 10 * mega, "path": 5 * mega},
        "evaluate": {"data": 12 * mega, "networks": 70 * mega},
        "experts": {"data": 10 * mega, "networks": 50 * mega, "checkpoints": 40 * mega},
    }
    assert _with_workers(stages, 0) == stages
    found = {workers: _with_workers(stages, workers) for workers in (1, 3)}
    each = found[1]["evaluate"]["workers"]
    assert each > 90 * mega, "less than what training an expert takes"
    assert found[3]["distill"]["workers"] == found[3]["experts"]["workers"] == 3 * each
    assert found[3]["evaluate"]["shared_data"] == 12 * mega
    assert "networks" not in found[3]["evaluate"], "this process trains none"
    assert found[3]["distill"]["path"] == 5 * mega
