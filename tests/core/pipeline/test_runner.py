"""`ddfw.distill` says the same as the command line."""

from __future__ import annotations

import pytest

from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.contracts.settings import EvalSettings
from ddfw.pipeline.runner import Places, distill, run
from ddfw_plugins.labels.hard import Hard
from ddfw_plugins.parameterizations.lss import LowRankSpace

TINY = {
    "model": {"depth": 1, "width": 2},
    "experts": {"count": 1, "epochs": 2},
    "outer": {"steps": 2, "syn_steps": 2},
    "eval": {"networks": 2, "epochs": 1, "full_epochs": 1, "select_networks": 1},
    "window": {"max_start": 1},
    "executor": {"threads": 1},
}


def test_components_and_words_give_the_same_bytes(tmp_path):
    """Broken: a notebook and the command line would be two different programs."""
    settings = {k: v for k, v in TINY.items() if k != "eval"}
    by_objects = distill(
        "default",
        out=tmp_path / "objects",
        experts_dir=tmp_path / "a",
        seed=4,
        ipc=2,
        settings=settings,
        param=LowRankSpace(rank=4),
        labels=Hard(),
        eval=EvalSettings(networks=2, epochs=1, full_epochs=1, select_networks=1),
    )
    flags = {
        **TINY,
        "param": {"name": "lss", "rank": 4},
        "labels": {"name": "hard"},
        "run": {"seed": 4},
        "budget": {"ipc": 2},
    }
    by_words = run(
        structured_config(gather("default", flags, ())), Places(out=tmp_path / "words", experts=tmp_path / "b")
    )
    for name in ("params.safetensors", "images.safetensors", "labels.safetensors", "card.json"):
        one, two = (r.directory / "synthetic" / name for r in (by_objects, by_words))
        assert one.read_bytes() == two.read_bytes(), name
    assert (by_objects.directory / "config.toml").read_text() == (by_words.directory / "config.toml").read_text()
    assert by_objects.load().images.shape[1:] == (1, 8, 8)


def test_a_misspelt_argument_is_named_with_the_right_ones():
    """Broken: `distill(parma=…)` would be ignored."""
    with pytest.raises(TypeError, match=r"parma.*param"):
        distill(parma=LowRankSpace())
