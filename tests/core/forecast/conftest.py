"""Plans that forecasts are made of."""

from __future__ import annotations

import pytest

from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.pipeline.runner import Places, plan

SETTINGS = {
    "model": {"depth": 2, "width": 4},
    "experts": {"count": 3, "epochs": 4, "batch_size": 100},
    "outer": {"steps": 10, "syn_steps": 8, "segments_per_step": 2, "batch_syn": 0},
    "eval": {
        "networks": 5,
        "epochs": 6,
        "batch_size": 64,
        "full_epochs": 2,
        "every": 4,
        "select_networks": 2,
        "select_epochs": 3,
        "baseline_lrs": [0.01],
    },
    "window": {"start": 1, "max_start": 1},
    "executor": {"threads": 1},
}


@pytest.fixture
def make(tmp_path):
    """Makes a plan on digits; tables are merged into SETTINGS."""

    def make(**tables):
        merged = {k: dict(v) for k, v in SETTINGS.items()}
        for key, table in tables.items():
            merged[key] = {**merged.get(key, {}), **table} if isinstance(table, dict) else table
        config = structured_config(gather("default", {"param": "pixel", "traj": "mtt", **merged}, ()))
        return plan(config, Places(experts=tmp_path / "experts"))

    return make
