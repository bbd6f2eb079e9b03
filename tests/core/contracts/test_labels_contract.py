"""Label strategies of both hook APIs."""

from __future__ import annotations

import logging
from typing import ClassVar, final

import torch
from attrs import frozen

from ddfw import AbstractLabels, distill
from ddfw.contracts.labels import ask_targets, takes_dtype

#: The dtypes that `Smooth` was asked for.
ASKED: list[torch.dtype | None] = []


@final
@frozen(kw_only=True)
class Smooth(AbstractLabels):
    """Fixed soft rows that no parameter holds: only the dtype that is asked for can say their precision."""

    name: ClassVar[str] = "smooth"

    def floats_per_image(self, spec):
        return 0

    def init(self, layout, images, teachers, rng):
        return {"classes": layout.labels()}

    def targets(self, params, index, dtype=None):
        ASKED.append(dtype)
        rows = torch.full((len(index), 10), 0.01, dtype=dtype)
        rows[torch.arange(len(index)), params["classes"][index]] = 0.91
        return rows

    def param_groups(self, params):
        return ()


@final
@frozen(kw_only=True)
class Older(AbstractLabels):
    """As it was written for hook API 1."""

    name: ClassVar[str] = "older"

    def floats_per_image(self, spec):
        return 0

    def init(self, layout, images, teachers, rng):
        return {"classes": layout.labels()}

    def targets(self, params, index):
        return torch.nn.functional.one_hot(params["classes"][index], 10)

    def param_groups(self, params):
        return ()


def test_a_fixed_soft_label_is_told_the_precision_of_the_images():
    """Broken: 0.91 in float32 would be given to a run in float64, and sum to 1 only within 1e-7."""
    params = {"classes": torch.arange(10)}
    rows = ask_targets(Smooth(), params, torch.tensor([3, 7]), torch.float64)
    assert rows.dtype == torch.float64 and float((rows.sum(dim=1) - 1).abs().max()) < 1e-15
    assert ask_targets(Smooth(), params, torch.tensor([3]), torch.float32).dtype == torch.float32


def test_a_strategy_of_the_older_api_works_and_is_warned_about_once(caplog):
    """Broken: plugins that exist would stop working, or nobody would learn that they are behind."""
    takes_dtype.cache_clear()
    with caplog.at_level(logging.WARNING, logger="ddfw"):
        for _ in range(2):
            rows = ask_targets(Older(), {"classes": torch.arange(10)}, torch.tensor([3]), torch.float64)
    assert rows.tolist() == [[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]
    assert [record.getMessage() for record in caplog.records] == [
        "labels 'older' was written for hook API 1: its targets() takes no dtype"
    ]


def test_a_run_asks_for_its_own_precision(tmp_path):
    """Broken: fixed rows would come in float32 in a run of float64."""
    ASKED.clear()
    tiny = {
        "run": {"precision": "float64"},
        "model": {"depth": 2, "width": 4},
        "experts": {"count": 1, "epochs": 2},
        "outer": {"steps": 1, "syn_steps": 2},
        "window": {"max_start": 1},
        "eval": {"networks": 2, "epochs": 1, "select_networks": 1, "baselines": []},
    }
    distill("default", param="pixel", labels=Smooth(), settings=tiny, out=tmp_path / "run", experts_dir=tmp_path / "e")
    assert set(ASKED) == {torch.float64}
