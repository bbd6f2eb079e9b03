"""What a run takes from rows that other runs have measured, and what it measures itself."""

from __future__ import annotations

import json

import pytest

from ddfw.artifacts.row_cache import list_rows


@pytest.fixture
def place(tmp_path):
    """A folder for the runs and the experts of one test."""
    return tmp_path


def evaluated(out):
    """Which baselines a run has trained networks on, by the events of its evaluation."""
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {e["subject"] for e in events if e["event"] == "evaluated" and e["split"] == "test" and not e["source"]}


def means(out):
    rows = json.loads((out / "summary.json").read_text())["rows"]
    return {row["subject"]: (row["mean"], row["std"], row["lr"]) for row in rows}


@pytest.fixture
def go(ddfw, tiny, place):
    """Makes a run beside the others, and returns its directory."""

    def run(name, *more):
        given = [word for word in tiny if "pixel" not in more or word != "--set=param.rank=4"]
        arguments = [*given, "--quiet", "--experts-dir", place / "experts", "--out", place / name, *more]
        said = ddfw(*arguments)
        assert said.code == 0, said.err
        return place / name

    return run


LABELLED = {"random_real_teacher", "kmeans_real_teacher", "herding_real_teacher"}
SMALL = {"random_real", *LABELLED}
BASELINES = {*SMALL, "full_data"}


def test_another_parameterisation_measures_no_baseline_and_has_the_same_figures(go, place):
    """Broken: every run of a comparison would train the same networks on the same real images again."""
    first = go("first")
    assert evaluated(first) == {"distilled", *BASELINES}
    second, alone = go("second", "--param", "pixel"), go("alone", "--param", "pixel", "--no-cache")
    assert evaluated(second) == {"distilled"} and evaluated(alone) == {"distilled", *BASELINES}
    assert means(second) == means(alone)
    for name in ("params", "images", "labels"):
        path = f"synthetic/{name}.safetensors"
        assert (second / path).read_bytes() == (alone / path).read_bytes()
    rows = json.loads((second / "summary.json").read_text())["rows"]
    assert [row.get("source", "") for row in rows] == ["", *[str(first.resolve())] * 5]
    for name in BASELINES:
        record = json.loads((second / "eval" / f"{name}.json").read_text())
        assert record.pop("source") == str(first.resolve())
        assert record == json.loads((alone / "eval" / f"{name}.json").read_text())
    assert json.loads((second / "manifest.json").read_text())["test_reads"] == 1
    # Of one image per class, k-means and herding choose the same one, which is one row.
    assert len(list_rows(place / "experts")) == 4


def test_another_seed_measures_what_depends_on_it(go):
    """Broken: random images of one seed would stand for those of another, or the full data be trained on again."""
    go("first")
    assert evaluated(go("second", "--seed", "1")) == {"distilled", "random_real", "random_real_teacher"}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("eval.epochs=4", SMALL),
        ("eval.full_epochs=2", {"full_data"}),
        ("eval.networks=3", BASELINES),
        ("eval.seed=1", BASELINES),
        ("eval.baseline_lrs=[0.02]", SMALL),
        ("model.width=5", BASELINES),
        ("augment=dsa", BASELINES),
        ("data.split_seed=1", BASELINES),
        ("data.space=none", BASELINES),
        ("run.precision=float64", BASELINES),
        ("budget.ipc=3", SMALL),
        ("experts.epochs=4", LABELLED),
        ("eval.every=1", set()),
        ("outer.steps=2", set()),
        ("window.max_start=2", set()),
    ],
)
def test_whatever_shapes_a_row_and_nothing_else_has_it_measured_again(go, change, again):
    """Broken: a figure of other settings would be shown, or one that is known be measured."""
    go("first")
    assert evaluated(go("second", f"--set={change}")) - {"distilled"} == again


def test_rows_of_other_networks_are_known_too(go):
    """Broken: --cross would train the same networks again in every run."""
    go("first", "--cross", "mlp")
    second = go("second", "--param", "pixel", "--cross", "mlp")
    rows = json.loads((second / "summary.json").read_text())["cross"]
    assert {row["subject"] for row in rows if row.get("source")} == SMALL


def test_a_network_that_no_plugin_offers_has_no_rows(place, monkeypatch):
    """Broken: two classes of one name in two notebooks would share figures."""
    from typing import ClassVar

    import attrs

    from ddfw import AbstractModel, distill
    from ddfw_plugins.models.mlp import Mlp

    @attrs.frozen(kw_only=True)
    class Local(AbstractModel):
        """A network of a notebook."""

        name: ClassVar[str] = "local"

        def build(self, spec):
            return Mlp(width=4).build(spec)

        def init(self, module, rng):
            return Mlp(width=4).init(module, rng)

    small = {
        "experts": {"count": 1, "epochs": 3},
        "outer": {"steps": 1, "syn_steps": 1},
        "eval": {"networks": 2, "epochs": 1, "full_epochs": 1, "select_networks": 1},
        "window": {"max_start": 1},
        "executor": {"threads": 1},
        "observers": {},
    }
    distill(
        "default",
        param="pixel",
        labels="hard",
        model=Local(),
        settings=small,
        out=place / "run",
        experts_dir=place / "experts",
    )
    assert list_rows(place / "experts") == []


def test_the_cache_is_listed_and_cleared(ddfw, go, place):
    """Broken: people could not see which run stands behind a row."""
    first = go("first")
    said = ddfw("cache", "list", "--experts-dir", place / "experts", "--json")
    rows = json.loads(said.out)
    assert {row["trained on"] for row in rows} >= {"random real images", "full training data"}
    assert {row["run"] for row in rows} == {str(first.resolve())}
    assert {row["trained on"]: row["mean"] for row in rows}["random real images"] == means(first)["random_real"][0]
    assert "removed 4 rows" in ddfw("cache", "clear", "--experts-dir", place / "experts").out
    assert "no rows" in ddfw("cache", "list", "--experts-dir", place / "experts").out
    assert evaluated(go("second")) == {"distilled", *BASELINES}
