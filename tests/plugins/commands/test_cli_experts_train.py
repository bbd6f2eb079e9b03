"""`ddfw experts train`, `show`, `list`: experts ahead of a run, and what is known of them."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture(scope="session")
def words(tiny):
    """The expert part of a tiny run, as `experts train` takes it."""
    # Without the count: a --set would win over `--count`.
    return ["experts", "train", "default", *(w for w in tiny if w.startswith("--set=") and "experts.count" not in w)]


@pytest.fixture
def cache(finished, here):
    """A copy of the finished run's expert cache."""
    return shutil.copytree(finished.experts, here / "experts")


def index(folder):
    return json.loads((folder / "index.json").read_text())


def test_experts_trained_ahead_are_the_ones_that_a_run_would_train(ddfw, words, finished, here):
    """Broken: training ahead would be in vain, or give other experts."""
    said = ddfw(*words, "--count", 2)
    assert said.code == 0, said.err
    (folder,) = (index.parent for index in (here / "experts").glob("*/index.json"))
    (other,) = (index.parent for index in finished.experts.glob("*/index.json"))
    assert folder.name == other.name and folder.name in said.out
    assert index(folder) == index(other)
    for number in range(2):
        name = f"expert-{number}.safetensors"
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def test_a_run_finds_them_and_training_again_trains_only_what_is_missing(ddfw, words, tiny, here):
    """Broken: a run, or a larger count, would train everything again."""
    assert ddfw(*words, "--count", 2, "-q").code == 0
    (folder,) = (index.parent for index in (here / "experts").glob("*/index.json"))
    times = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}
    assert ddfw(*words, "--count", 3, "-q").code == 0
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}
    assert set(after) - set(times) == {"expert-2.safetensors"} and {n: after[n] for n in times} == times
    said = ddfw(*tiny, "--set=experts.count=3", "--set=eval.baselines=[]", "--out", here / "run", "--json")
    assert [e["cached"] for e in said.events if e["event"] == "expert"] == [True] * 3


def test_flags_are_settings(ddfw, words, here):
    """Broken: `--count` and `--epochs` would lose against the recipe, or leave the store's key as it was."""
    facts = json.loads(ddfw(*words, "--set=experts.count=3", "--set=experts.lr=0.02", "--json").out)
    assert len(facts["experts"]) == 3 and facts["key"]["training"]["lr"] == 0.02
    gsam = json.loads(ddfw(*words, "--count", 1, "--set=experts.optimiser=gsam", "--json").out)
    assert gsam["key"]["training"]["sharpness"] == {"rho": 0.01, "alpha": 0.4}
    assert gsam["name"] != facts["name"]


def test_epochs_that_are_too_few_for_the_recipes_segments_can_still_be_trained(ddfw, here):
    """Broken: windows and budgets, which are no matter of experts, would stand in the way of training them."""
    said = ddfw("experts", "train", "--data", "digits", "--count", 1, "--epochs", 2, "--set", "model.width=4", "-q")
    assert said.code == 0, said.err


def test_imported_experts_cannot_be_trained(ddfw, words, here):
    """Broken: asking for both would train experts that nobody uses."""
    ddfw(*words, "--set=experts.store=digits-convnet-imported-0123456789ab").refused(2, "experts.store")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--epochs", "-1"], ["--set=experts.optimiser=adam"]])
def test_numbers_that_mean_nothing_are_refused(ddfw, words, here, arguments):
    """Broken: no experts would be trained, and none missed."""
    said = ddfw(*words, *arguments)
    assert said.code == 2 and "Traceback" not in said.err
    assert list(here.iterdir()) == []


def test_progress_is_on_standard_error_and_quiet_means_none(ddfw, words, here):
    """Broken: the store's facts could not be piped, or `-q` be loud."""
    loud = ddfw(*words, "--count", 1)
    assert "expert" in loud.err and "\x1b" not in loud.err + loud.out
    assert ddfw(*words, "--count", 2, "-q").err == ""
    assert ddfw(*words, "--count", 2, "--json").err == ""


def test_show_says_what_the_index_says(ddfw, cache):
    """Broken: people would pick experts by wrong figures."""
    (folder,) = (index.parent for index in cache.glob("*/index.json"))
    said = ddfw("experts", "show", folder.name, "--json")
    assert said.code == 0 and said.err == ""
    facts, kept = json.loads(said.out), index(folder)
    assert (facts["name"], facts["folder"], facts["epochs"], facts["keeps"]) == (
        folder.name, f"experts/{folder.name}", 3, "checkpoints",
    )  # fmt: skip
    assert facts["key"] == kept["key"]
    assert facts["bytes"] == sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    assert {str(e.pop("number")): e for e in facts["experts"]} == kept["experts"]
    last = [e["validation_accuracy"][-1] for e in kept["experts"].values()]
    assert facts["validation_accuracy"] == pytest.approx(sum(last) / 2)
    human = ddfw("experts", "show", folder.name)
    assert human.code == 0 and human.err == "" and "width 4" in human.out
    for expert in kept["experts"].values():
        assert f"{100 * max(expert['validation_accuracy']):.1f} %" in human.out
        assert f"{expert['train_loss'][-1]:.4f}" in human.out


@pytest.mark.parametrize("name", ["nope", "../experts", "."])
def test_what_is_not_there_cannot_be_shown(ddfw, cache, name):
    """Broken: a path would be taken for a name."""
    ddfw("experts", "show", name).refused(4, "no expert store", "ddfw experts list")


@pytest.mark.parametrize("damage", ["index", "expert"])
def test_a_damaged_store_is_listed_with_what_is_wrong(ddfw, cache, words, here, damage):
    """Broken: one damaged store would hide all others, or be taken for a good one."""
    (folder,) = (index.parent for index in cache.glob("*/index.json"))
    assert ddfw(*words, "--count", 1, "-q", "--set=experts.lr=0.02").code == 0
    if damage == "index":
        (folder / "index.json").write_text("{")
    else:
        (folder / "expert-1.safetensors").write_bytes(b"short")
    said = ddfw("experts", "list")
    assert said.code == 0 and "damaged" in said.out and len(said.out.splitlines()) >= 3
    assert said.err.startswith("warning: ") and f"ddfw experts rm {folder.name}" in said.err
    assert len(said.err.splitlines()) == 1
    rows = {r["name"]: r["problem"] for r in json.loads(ddfw("experts", "list", "--json").out)}
    assert len(rows) == 2
    assert {name == folder.name: bool(problem) for name, problem in rows.items()} == {True: True, False: False}
    ddfw("experts", "show", folder.name).refused(4, f"ddfw experts rm {folder.name}")
    assert ddfw("experts", "rm", folder.name, "--yes").code == 0
    assert ddfw("experts", "list").err == ""


def test_names_are_listed_so_that_they_can_be_copied(ddfw, cache, monkeypatch):
    """Broken: on an ordinary terminal, the name that `show`, `rm` and `experts.store` want would be cut in two."""
    monkeypatch.setenv("COLUMNS", "80")
    (folder,) = (index.parent for index in cache.glob("*/index.json"))
    longer = shutil.copytree(folder, cache / "fashionmnist-convnet-imported-0123456789ab")
    out = ddfw("experts", "list").out
    assert folder.name in out and longer.name in out
