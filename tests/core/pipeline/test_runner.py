"""`ddfw.distill` says the same as the command line."""

from __future__ import annotations

import pytest

from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.contracts.settings import EvalSettings, OuterSettings
from ddfw.errors import ConfigError
from ddfw.pipeline import notebook
from ddfw.pipeline.notebook import distill
from ddfw.pipeline.runner import Places, run
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


def started(monkeypatch, *arguments, **given):
    """The configuration that `distill` would run."""
    found = []
    monkeypatch.setattr(notebook, "run", lambda config, *rest, **more: found.append(config))
    distill(*arguments, **given)
    return found[0]


def test_tables_and_dotted_settings_say_what_components_say(monkeypatch):
    """Broken: what people type first, a dictionary, would end in an internal error."""
    config = started(
        monkeypatch,
        "default",
        outer={"steps": 2},
        param={"name": "lss", "rank": 3},
        settings={"param.lr": 2.0, "eval": {"networks": 4}, "eval.epochs": 7},
    )
    assert config.outer == OuterSettings(steps=2) and config.param == LowRankSpace(rank=3, lr=2.0)
    assert (config.eval.networks, config.eval.epochs) == (4, 7)
    one = started(monkeypatch, "digits-ipc1-lss-mct", settings={"param.rank": 3, "outer.steps": 5})
    same = structured_config(gather("digits-ipc1-lss-mct", {}, ("param.rank=3", "outer.steps=5")))
    assert one == same  # the recipe's other options are kept
    by_name = started(monkeypatch, param="lss", settings={"param": {"rank": 3}})
    assert by_name.param == LowRankSpace(rank=3, lr=3.0)  # a name does not throw the settings away
    by_object = started(monkeypatch, param=LowRankSpace(rank=2), settings={"param.lr": 9.0}, ipc=2, seed=7)
    assert by_object.param == LowRankSpace(rank=2) and (by_object.budget.ipc, by_object.run.seed) == (2, 7)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"outer": 3}, TypeError, r"outer=.*OuterSettings.*table.*got 3"),
        ({"param": LowRankSpace}, TypeError, r"param=.*class LowRankSpace; make one of it: LowRankSpace\(…\)"),
        ({"traj": LowRankSpace()}, TypeError, r"traj=.*AbstractTrajectory.*LowRankSpace\("),
        ({"outer": {"stpes": 2}}, ConfigError, r"outer\.stpes.*'steps'"),
        ({"param": {"name": "pixel", "rank": 3}}, ConfigError, r"param\.rank.*belongs to lss"),
        ({"settings": {"param.rnak": 3}}, ConfigError, r"param\.rnak.*'rank'"),
        ({"settings": {"rank": 3}}, ConfigError, r"rank.*'param\.rank'"),
        ({"settings": {"param..rank": 3}}, ConfigError, r"settings: expected keys.*'param\.\.rank'"),
        ({"settings": {"outer": 3}}, ConfigError, r"outer: expected a table, got 3"),
        ({"settings": ["param.rank=3"]}, ConfigError, r"settings: expected tables"),
        ({"parm": "lss"}, TypeError, r"no parm\. Did you mean 'param'"),
    ],
)
def test_what_is_none_of_these_is_refused_with_what_is_expected(given, error, words):
    """Broken: a mistake in a notebook would surface as an attribute error deep inside."""
    with pytest.raises(error, match=words):
        distill("default", **given)
