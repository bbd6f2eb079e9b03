"""`--quick`: everything small, nothing larger, what the user said untouched, and every figure marked."""

from __future__ import annotations

import json
import shutil
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw.cli.main import invoke
from ddfw.config import quick
from ddfw.config.catalog import as_table
from ddfw.config.layers import gather
from ddfw.config.load import configure, resolve, structured_config
from ddfw.config.recipes import recipes
from ddfw.config.toml import toml_text
from ddfw.contracts.records import QUICK_NOTE
from ddfw.pipeline.prepare import make_plan
from ddfw.pipeline.runner import Places, run

LARGE = {
    "model": {"width": 128, "depth": 2},
    "experts": {"count": 100, "epochs": 50, "batch_size": 256},
    "traj": {"name": "mtt", "expert_epochs": 3},
    "outer": {"steps": 5000, "syn_steps": 50, "batch_syn": 500, "segments_per_step": 4},
    "window": {"min_start": 5, "start": 10, "max_start": 40, "expand_steps": 1000},
    "eval": {"networks": 5, "epochs": 1000, "every": 500, "select_networks": 3, "full_epochs": 50},
    "cross": {"wide": {"name": "convnet", "width": 256, "depth": 2}, "mlp": {}},
}


def large(tmp_path, **changes):
    """A configuration file with large numbers; what is in a file was not said now."""
    path = tmp_path / "large.toml"
    tables = {k: {**LARGE.get(k, {}), **changes.get(k, {})} for k in {**LARGE, **changes}}
    path.write_text(toml_text(tables))
    return str(path)


def numbers(document, path=""):
    """Every number of a configuration by its dotted path."""
    found = {}
    for key, value in document.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            found |= numbers(value, here)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[here] = value
    return found


def test_every_large_number_is_cut_and_none_raised(tmp_path):
    """Broken: a quick run would take hours, or longer than the slow one."""
    path = large(tmp_path)
    made = configure(path, {}, (), quick=True)
    before, after = (numbers(as_table(c)) for c in (configure(path, {}, ()).config, made.config))
    for key, value in after.items():
        if key in before:
            assert value <= before[key], key
    for table, caps in quick.CAPS.items():
        for name, cap in caps.items():
            assert after.get(f"{table}.{name}", 0) <= cap, f"{table}.{name}"
    assert after["cross.wide.width"] <= quick.CAPS["model"]["width"]
    assert set(before) <= set(after)
    make_plan(resolve(made.config), None, tmp_path / "experts")  # and it fits together


def test_no_recipe_counts_further_when_it_is_quick():
    """Broken: a quick run of a recipe would do more of something than the recipe, or do it later."""
    raised = []
    for name in recipes():
        before, after = (numbers(as_table(configure(name, {}, (), quick=q).config)) for q in (False, True))
        # 0 stands for all images; rates are no counts, and a table may give those of small trials.
        counts = {k: v for k, v in after.items() if isinstance(v, int) and k != "outer.batch_syn"}
        raised += [f"{name}: {k} {before[k]} → {v}" for k, v in counts.items() if k in before and v > before[k]]
    assert raised == []


@settings(deadline=None, max_examples=40)
@given(
    epochs=st.integers(1, 30),
    segment=st.integers(1, 5),
    window=st.tuples(st.integers(0, 12), st.integers(1, 12), st.integers(0, 12)),
    steps=st.integers(0, 200),
    traj=st.sampled_from(["mtt", "mct"]),
)
def test_whatever_fits_at_full_length_fits_when_it_is_quick(epochs, segment, window, steps, traj):
    """Broken: a configuration that runs would be refused once it is scaled down."""
    first, more, rest = window
    flags = {
        "traj": {"name": traj, "expert_epochs": segment},
        "outer": {"steps": steps},
        "experts": {"epochs": epochs + segment + first + more + rest},
        "window": {"min_start": first, "start": first + more, "max_start": first + more + rest},
    }
    settings_ = gather("default", flags, ())
    origins = {path: "file" for path in settings_.origins}  # nothing of it was said now
    config = structured_config(settings_)
    small = quick.scaled(config, config, evolve(settings_, origins=origins), None)
    w = small.window
    assert 0 <= w.min_start < w.start <= w.max_start <= small.traj.latest_high(small.experts.epochs)
    before, after = numbers(as_table(config)), numbers(as_table(small))
    assert all(value <= before[key] for key, value in after.items() if key in before)


@pytest.mark.parametrize("how", ["--set", "flag"])
def test_what_the_user_says_wins_over_every_cap(tmp_path, how):
    """Broken: nobody could make one number of a quick run larger."""
    said = {"experts": {"count": 7, "epochs": 12, "batch_size": 100}, "outer": {"steps": 99, "syn_steps": 33},
            "eval": {"networks": 6, "epochs": 150, "every": 45}, "model": {"width": 48}}  # fmt: skip
    if how == "flag":
        made = configure(large(tmp_path), said, (), quick=True)
    else:
        assignments = [f"{t}.{k}={v}" for t, values in said.items() for k, v in values.items()]
        made = configure(large(tmp_path), {}, assignments, quick=True)
    found = as_table(made.config)
    for table, values in said.items():
        assert {k: found[table][k] for k in values} == values, table
    assert not any(text.startswith("experts.count") for text in made.changes)


@pytest.mark.parametrize(
    "assignments",
    [
        ("window.start=9", "experts.epochs=50"),
        ("window.start=8", "window.max_start=9", "experts.epochs=50"),
        ("window.min_start=6", "experts.epochs=50"),
        ("window.min_start=6", "window.start=8", "window.max_start=9", "experts.epochs=50"),
    ],
)
def test_a_window_that_the_user_says_is_kept_where_the_experts_are_long_enough(tmp_path, assignments):
    """Broken: of a window that was asked for, one end would be moved without being asked."""
    made = configure(large(tmp_path), {}, assignments, quick=True)
    for text in assignments:
        path, value = text.split("=")
        table, key = path.split(".")
        assert getattr(getattr(made.config, table), key) == int(value), text


def test_every_change_is_told(tmp_path):
    """Broken: a number would be another one without a word."""
    path = large(tmp_path)
    made = configure(path, {}, (), quick=True)
    before, after = (numbers(as_table(c)) for c in (configure(path, {}, ()).config, made.config))
    different = {key for key in after if before.get(key) != after[key]}
    assert {text.split(" ")[0] for text in made.changes} == different
    assert "experts.count 100 → 3" in made.changes
    assert made.config.run.quick


def test_a_method_stays_what_it_is(tmp_path):
    """Broken: a quick run would try something else than the configuration."""
    path = large(tmp_path)
    slow, fast = configure(path, {}, ()).config, configure(path, {}, (), quick=True).config
    for table in ("param", "traj", "loss", "labels", "model", "augment", "data"):
        assert getattr(slow, table).name == getattr(fast, table).name
    assert fast.budget == slow.budget and set(fast.cross) == set(slow.cross)


@pytest.fixture
def archive(tmp_path):
    """Two classes, one of 400 and one of 150 images."""

    def write(sizes):
        labels = np.repeat(np.arange(len(sizes)), sizes)
        images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
        np.savez(tmp_path / "set.npz", train_images=images, train_labels=labels, test_images=images[::10],
                 test_labels=labels[::10])  # fmt: skip
        return {"data": {"name": "npz", "path": str(tmp_path / "set.npz")}}

    return write


def test_a_large_data_set_is_cut_to_as_many_of_each_class(archive, monkeypatch):
    """Broken: experts on 50,000 photographs would not be quick."""
    monkeypatch.setattr(quick, "IMAGES", 200)
    flags = archive([400, 150])
    made = configure("default", flags, (), quick=True)
    assert made.config.data.per_class == 100 and "data.per_class unset → 100" in made.changes
    assert configure("default", flags, ("data.per_class=140",), quick=True).config.data.per_class == 140
    monkeypatch.setattr(quick, "IMAGES", 10_000)
    assert configure("default", flags, (), quick=True).config.data.per_class is None


def test_no_more_than_ten_thousand_images_are_left(archive):
    """Broken: the caps that the documentation names could double, and a quick run would take twice as long."""
    flags = archive([1300] * 8)
    made = configure("default", flags, (), quick=True)
    assert made.config.data.per_class == 1250 and sum(made.config.data.splits(None).class_counts()) == 10_000
    assert configure("default", archive([1100] * 9), (), quick=True).config.data.per_class is None


def test_every_cap_is_the_documented_one(tmp_path):
    """Broken: any other number that --quick cuts could double unnoticed; these are those of docs/recipes.md."""
    found = numbers(as_table(configure(large(tmp_path), {}, (), quick=True).config))
    expected = {
        "model.width": 32, "cross.wide.width": 32, "experts.count": 3, "experts.epochs": 10, "experts.batch_size": 64,
        "outer.steps": 120, "outer.syn_steps": 20, "outer.batch_syn": 50, "outer.segments_per_step": 1,
        "eval.networks": 3, "eval.epochs": 100, "eval.every": 20, "eval.select_networks": 1, "eval.full_epochs": 10,
        "window.max_start": 3,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected


def test_a_large_data_set_with_one_small_class_is_not_left_large(archive, monkeypatch):
    """Broken: one rare class would keep the rest at full size."""
    monkeypatch.setattr(quick, "IMAGES", 200)
    made = configure("default", archive([4000, 90]), (), quick=True)
    splits = made.config.data.splits(None)
    assert sum(splits.class_counts()) <= 2 * 200


# --- a quick run --------------------------------------------------------------------------------------------------


TINY = ("model.depth=2", "model.width=4", "experts.count=1", "experts.epochs=2", "outer.steps=1", "outer.syn_steps=2",
        "eval.networks=2", "eval.epochs=2", "eval.full_epochs=1", "window.max_start=1", "param.rank=4",
        "executor.threads=1", 'cross.mlp.name="mlp"')  # fmt: skip


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """A quick run of no time at all."""
    place = tmp_path_factory.mktemp("quick")
    made = configure("default", {}, TINY, quick=True)
    result = run(made.config, Places(out=place / "run", experts=place / "experts"), quiet=True)
    return SimpleNamespace(out=result.directory, summary=result.summary, place=place)


def test_every_file_of_a_quick_run_says_so(quick_run):
    """Broken: a figure of a trial would be quoted as the recipe's."""
    assert json.loads((quick_run.out / "summary.json").read_text())["quick"] is True
    assert json.loads((quick_run.out / "synthetic" / "card.json").read_text())["quick"] is True
    assert "quick = true" in (quick_run.out / "config.toml").read_text()
    files = list((quick_run.out / "eval").glob("*.json"))
    assert len(files) == 11  # six rows, and all but the full data on another network, too
    for path in files:
        assert QUICK_NOTE in json.loads(path.read_text())["notes"], path.name
    for row in [*quick_run.summary["rows"], *quick_run.summary["cross"]]:
        assert QUICK_NOTE in row["notes"]


def told(capsys, *words):
    code = invoke([str(w) for w in words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return SimpleNamespace(out=out, err=err)


def test_figures_of_a_quick_set_say_so_wherever_it_is_judged(quick_run, tmp_path, capsys):
    """Broken: an export of a quick run would be a set like any other."""
    copy = shutil.copytree(quick_run.out, tmp_path / "run")  # an evaluation adds a file
    assert QUICK_NOTE in json.loads(told(capsys, "eval", copy, "--json").out)["notes"]
    told(capsys, "export", copy, "--format", "npz", "--out", tmp_path / "set")
    assert json.loads((tmp_path / "set" / "card.json").read_text())["quick"] is True
    words = [f"--set={s}" for s in TINY if not s.startswith(("param", "cross"))]
    said = told(capsys, "eval", tmp_path / "set", "--like", "default", *words, "--json")
    assert any("quick" in note for note in json.loads(said.out)["notes"])


def test_the_command_line_tells_what_it_changed_on_standard_error(tmp_path, capsys):
    """Broken: programs could not read the output, or people not see what is different."""
    path = large(tmp_path)
    for words in (["--print-config"], ["--dry-run"], ["--dry-run", "--json"]):
        said = told(capsys, "run", path, "--quick", "--experts-dir", tmp_path / "experts", *words)
        assert "quick:" not in said.out
        assert said.err.startswith("quick: ") and "experts.count 100 → 3" in said.err, words
    assert told(capsys, "run", path, "--print-config").err == ""


def test_what_is_printed_of_a_quick_configuration_runs_alike_without_the_flag(tmp_path, capsys):
    """Broken: a quick run could not be repeated from its own configuration."""
    said = told(capsys, "run", large(tmp_path), "--quick", "--print-config").out
    (tmp_path / "printed.toml").write_text(said)
    again = told(capsys, "run", tmp_path / "printed.toml", "--print-config").out
    assert tomllib.loads(again) == tomllib.loads(said)
