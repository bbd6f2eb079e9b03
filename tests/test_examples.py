"""The worked examples of the documentation, on digits with tiny settings."""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
from pathlib import Path

import pytest
from attrs import evolve
from PIL import Image

import ddfw
from ddfw_plugins.commands.bench.shapes import BENCH_SHAPES
from ddfw_plugins.commands.bench.work import bench_work

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
TINY = {
    "param": {"name": "lss", "rank": 4},
    "model": {"depth": 1, "width": 4},
    "experts": {"count": 1, "epochs": 3},
    "outer": {"steps": 2, "syn_steps": 2},
    "window": {"max_start": 1},
    "eval": {
        "networks": 2,
        "epochs": 5,
        "full_epochs": 1,
        "select_networks": 1,
        "baselines": [],
        "baseline_lrs": [0.01],
    },
    "executor": {"threads": 1},
}
SMALL = ["--rank", "4", "--experts", "1", "--steps", "2", "--seeds", "2", "--passes", "15", "--per-class", "40"]


@pytest.fixture(scope="module")
def example():
    """Loads an example as it is loaded when it is run: from its own folder."""
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on digits."""
    folder = tmp_path_factory.mktemp("ranking")
    result = ddfw.distill("digits", settings=TINY, out=folder / "run", experts_dir=folder / "experts")
    return result.directory


@pytest.fixture(scope="module")
def incremental(example):
    """The script with sets that are judged, while they are distilled, by networks that hardly train."""
    script = example("class_incremental")
    recipe = script.recipe
    with pytest.MonkeyPatch.context() as patch:
        brief = {"epochs": 4, "select_networks": 1}
        patch.setattr(script, "recipe", lambda *a: {**recipe(*a), "eval": {**recipe(*a)["eval"], **brief}})
        yield script


@pytest.fixture(scope="module")
def task(incremental, tmp_path_factory):
    """Classes 7 and 3 of ten, distilled."""
    options = {"npz": None, "data_root": None, "per_class": 40, "rank": 4, "experts": 1, "steps": 2, "param_lr": 10.0}
    args = argparse.Namespace(runs=tmp_path_factory.mktemp("task"), ipc=2, seed=0, **options)
    return incremental.prepared((7, 3), 10, args)


def percent(value):
    """A fraction as tables have it."""
    return f"{100 * value:.1f}"


def test_the_ranking_prints_what_its_json_holds(example, run, tmp_path, capsys):
    """Broken: a page would show other figures than the file beside it."""
    names = ["convnet 2×8", "mlp 1×128", "convnet 1×8"]
    small = ["--networks", "2", "--draws", "2", "--set-real", "eval.batch_size=128", "--set", "eval.epochs=4"]
    files = ["--json", str(tmp_path / "r.json"), "--png", str(tmp_path / "r.png")]
    only = [word for name in names for word in ("--only", name)]
    example("architecture_ranking").main([str(run), *small, *files, *only])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [row["network"] for row in found["rows"]] == names
    for row in found["rows"]:
        line = next(line for line in printed.splitlines() if row["network"] in line)
        random = statistics.fmean(draw["mean"] for draw in row["random"])
        assert all(percent(value) in line for value in (row["real"]["mean"], row["distilled"]["mean"], random))
        assert {len(row[key]["accuracies"]) for key in ("real", "distilled")} == {2}
        assert [draw["run_seed"] for draw in row["random"]] == [0, 1]
        assert row["distilled"]["split"] == row["real"]["split"] == "test"
    assert f"distilled {found['distilled']['spearman']:.2f}" in printed
    low, high = found["resampled"]["difference"]
    assert f"difference {low:.2f} to {high:.2f}" in printed
    with Image.open(tmp_path / "r.png") as drawn:
        assert drawn.size == (820, 400)


def test_spearman_is_that_of_a_case_done_by_hand(example):
    """Broken: the agreement that the page reports would be another number."""
    script = example("architecture_ranking")
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: Σd² = 4, ρ = 1 − 6·4/(5·24) = 0.8. Of the best three: Σd² = 2, ρ = 0.5.
    found = script.compared([0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.5, 0.8, 0.7, 0.9])
    assert found == pytest.approx({"spearman": 0.8, "spearman_half": 0.5, "lost": 0.0})
    # Ranks 1.5 1.5 3 against 1 2 3: 1.5 / √(1.5·2).
    assert script.spearman([0.4, 0.4, 0.6], [0.1, 0.2, 0.3]) == pytest.approx(0.8660254)
    assert script.compared([0.9, 0.1], [0.6, 0.7])["lost"] == pytest.approx(0.1)
    assert script.spearman([0.5, 0.5], [0.1, 0.2]) == 0.0


def test_a_memory_of_random_images_stores_no_fewer_floats_than_the_distilled_one(task):
    """Broken: the distilled memory would be given more room than what it is compared with."""
    floats, images = task.floats, {name: len(kept.pixels) for name, kept in task.kept.items()}
    one_more_of_each_class = 2 * task.train.pixels[0].numel()
    assert floats["start"] == floats["last"] == floats["distilled"] == task.learned.card["floats"]["strict"]
    assert floats["distilled"] <= floats["random_floats"] < floats["distilled"] + one_more_of_each_class
    assert images["random_count"] == images["start"] == images["last"] == images["distilled"] == len(task.learned)
    assert len(task.learned) > images["random_floats"]
    assert floats["nothing"] == images["nothing"] == 0
    for name in ("random_floats", "random_count", "everything"):  # hard labels of whole images cost nothing
        assert floats[name] == task.kept[name].pixels.numel()


def test_the_set_of_a_task_knows_its_own_classes_alone(task):
    """Broken: memories would have seen the future, or labels would stand in another class's column."""
    assert task.learned.class_names == ("7", "3")
    for kept in task.kept.values():
        others = [c for c in range(10) if c not in (3, 7)]
        assert not kept.targets[:, others].any()
    distilled = task.kept["distilled"].targets
    assert distilled[:, [7, 3]].equal(task.learned.targets)
    for name in ("distilled", "last"):
        sums = task.kept[name].targets.sum(dim=1)
        assert sums.allclose(sums.new_ones(len(sums)))


def test_the_memory_of_the_last_step_is_whole_and_has_moved(task):
    """Broken: the row of the last step would stand for a part of the set, or for another step."""
    start, last = task.kept["start"].pixels, task.kept["last"].pixels
    assert last.shape == start.shape == (len(task.learned), 1, 8, 8)
    assert not last.allclose(start, atol=1e-4)
    if task.learned.step == 2:  # then the last step is the selected one
        assert last.allclose(task.kept["distilled"].pixels, atol=1e-5)


def test_learned_images_come_back_from_pixels_to_their_training_space(incremental, task):
    """Broken: a network would see the memory in another scale than the real images."""
    again = incremental.encoded(task.kept["distilled"].pixels, task.learned.space)
    assert again.allclose(task.learned.images, atol=1e-5)


def test_the_memories_print_what_their_json_holds(incremental, tmp_path, capsys):
    """Broken: a page would show other figures than the file beside it, or the memories would not start alike."""
    files = ["--json", str(tmp_path / "c.json"), "--png", str(tmp_path / "c.png"), "--runs", str(tmp_path / "runs")]
    incremental.main([*SMALL, *files])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert found["tasks"] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    for name, memory in found["memories"].items():
        line = next(line for line in printed.splitlines() if line.startswith(memory["title"]))
        left = [] if name == "nothing" else [memory["alone"]]
        assert all(percent(value["mean"]) in line for value in (*memory["after_task"], memory["average"], *left))
        last = [entry["accuracies"][name][-1] for entry in found["seeds"]]
        assert memory["after_task"][-1] == pytest.approx(
            {"mean": statistics.fmean(last), "std": statistics.stdev(last)}
        )
    for entry in found["seeds"]:
        assert sorted(entry["order"]) == found["tasks"]
        assert len({curve[0] for curve in entry["accuracies"].values()}) == 1
        assert entry["alone"].keys() == found["memories"].keys() - {"nothing"}
    learned, start = ([entry["alone"][name] for entry in found["seeds"]] for name in ("last", "start"))
    gained = [a - b for a, b in zip(learned, start, strict=True)]
    assert found["alone_minus_start"] == pytest.approx(
        {"mean": statistics.fmean(gained), "std": statistics.stdev(gained)}
    )
    with Image.open(tmp_path / "c.png") as drawn:
        assert drawn.size == (760, 400)


def test_memory_grows_for_the_plain_loop_alone(example):
    """Broken: an outer step without held graphs keeps something of every step besides its point on the path."""
    small = evolve(BENCH_SHAPES["digits"], steps=3, width=8)
    rows = example("scaling").measured(ddfw.component("executor", "cpu", threads=1), small, [5, 10, 20], 1)
    size = {(row["who"], row["steps"]): row["bytes"] for row in rows}
    parameters = bench_work(small).segment.start.numel() * 4
    grown = size["ddfw", 20] - size["ddfw", 5]
    assert grown <= 15 * parameters * 1.1
    assert size["yardstick", 20] - size["yardstick", 5] > 10 * grown
    assert all(row["seconds"] > 0 for row in rows)


def test_scaling_draws_what_it_prints(example, monkeypatch, tmp_path, capsys):
    """Broken: the picture would show other figures than the output, or the lines would be swapped."""
    script = example("scaling")
    rows = [
        {"who": who, "steps": n, "seconds": factor * n, "bytes": factor * n * 2**20}
        for n in (2, 4)
        for who, factor in (("ddfw", 1.0), ("yardstick", 3.0))
    ]
    monkeypatch.setattr(script, "measured", lambda executor, shape, steps, repeats: rows)
    assert script.main(["--steps", "2,4", "--shape", "digits", "--out", str(tmp_path / "s.png")]) == 0
    assert json.loads(capsys.readouterr().out) == rows
    with Image.open(tmp_path / "s.png") as drawn:
        assert drawn.size == (760, 360)
    for axes in script.picture(rows, [2, 4], "").axes:
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        assert lines == {script.WHO["ddfw"][0]: [2.0, 4.0], script.WHO["yardstick"][0]: [6.0, 12.0]}


def test_the_profile_has_a_row_for_every_part(example, monkeypatch, capsys):
    """Broken: time of an outer step would be lost between the parts, or a column be missing."""
    script = example("step_profile")
    monkeypatch.setitem(BENCH_SHAPES, "digits", evolve(BENCH_SHAPES["digits"], steps=2, width=8))
    assert script.main(["--shape", "digits", "--repeats", "1"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| digits, ipc 1") and head.count("ddfw, ") == 2 and "plain loop" in head
    assert [row.split(" | ")[0] for row in rows] == [f"| {part}" for part in (*script.PARTS, script.REST, "in all")]
