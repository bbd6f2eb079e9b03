"""The command line on what version 0.1 wrote: runs, exports and experts go on being used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

OLD = Path(__file__).parents[2] / "fixtures" / "v0_1"


@pytest.fixture
def old(here):
    """A copy that commands may write to."""
    return shutil.copytree(OLD, here / "old")


def test_experts_of_version_0_1_are_listed_and_used_without_training_again(ddfw, old, here):
    """Broken: hours of training would be repeated, or the matched paths be read wrongly."""
    (store,) = (old / "experts").iterdir()
    before = {p.name: p.read_bytes() for p in store.glob("expert-*")}
    assert store.name in ddfw("experts", "list", "--experts-dir", old / "experts").out
    said = ddfw(
        *("run", old / "run" / "config.toml", "--seed", "6", "--set=outer.steps=1", "--set=eval.baselines=[]"),
        *("--set=executor.threads=1", "--out", here / "new", "--experts-dir", old / "experts", "--json"),
    )
    assert said.code == 0, said.err
    assert {p.name: p.read_bytes() for p in store.glob("expert-*")} == before
    assert [p.name for p in (old / "experts").iterdir()] == [store.name]


@pytest.mark.parametrize("form", ["safetensors", "npz", "mtt", "imagefolder"])
def test_exports_of_version_0_1_evaluate_and_are_exported_in_every_other_format(ddfw, old, here, form):
    """Broken: a set that somebody was given could not be used with a later version."""
    said = ddfw("eval", old / "exports" / form, "--like", old / "run", "--json")
    assert said.code == 0, said.err
    (record,) = said.events
    assert record["subject"] == "distilled" and record["n"] == 2 and record["images"] == 20
    for other in ("safetensors", "npz", "mtt", "imagefolder"):
        said = ddfw("export", old / "exports" / form, "--format", other, "--out", here / other, "--json")
        assert said.code == 0, said.err
        assert said.events[0]["source_data"] == json.loads((OLD / "run/synthetic/card.json").read_text())["source_data"]


def test_a_run_of_version_0_1_evaluates_beside_its_own_figures(ddfw, old):
    """Broken: a finished run's figures could no longer be checked."""
    said = ddfw("eval", old / "run", "--json")
    assert said.code == 0, said.err
    stated = json.loads((OLD / "run" / "eval" / "distilled.json").read_text())
    assert {k: said.events[0][k] for k in ("lr", "step", "floats", "images")} == {
        k: stated[k] for k in ("lr", "step", "floats", "images")
    }
    assert list((old / "run" / "eval").glob("again-*.json"))
