"""`ddfw diff` and what `ddfw compare` says of runs: directories of version 0.1, copied and changed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from ddfw.cli.main import invoke

STORED = Path(__file__).parents[2] / "fixtures" / "v0_1" / "run"


@pytest.fixture
def pair(tmp_path):
    """A run, and one with another rank, another accuracy and no last step."""
    for name in ("a", "b"):
        shutil.copytree(STORED, tmp_path / name)
    other = tmp_path / "b"
    change(other / "config.toml", "\nrank = ", "\nrank = 1")
    summary = json.loads((other / "summary.json").read_text())
    summary["rows"][0] |= {"mean": 0.5, "std": 0.03, "n": 9}
    (other / "summary.json").write_text(json.dumps(summary))
    lines = (other / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line).get("step") != 3]
    (other / "metrics.jsonl").write_text("\n".join(kept) + '\n{"event": "st')
    return tmp_path / "a", other


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def diff(capsys, *arguments):
    assert invoke(["diff", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_setting_that_was_changed_is_the_one_that_differs(pair, capsys):
    """Broken: readers are not told why the figures differ, or are told too much."""
    settings = diff(capsys, *pair)["settings"]
    assert [entry["path"] for entry in settings["differing"]] == ["param.rank"]
    one, other = settings["differing"][0]["values"]
    assert str(other) == f"1{one}"
    assert settings["equal"] > 50


def test_the_difference_has_the_standard_error_of_two_independent_means(pair, capsys):
    """Broken: a difference looks surer, or less sure, than it is."""
    row = diff(capsys, *pair)["rows"][0]
    first = json.loads((STORED / "summary.json").read_text())["rows"][0]
    assert row["subject"] == "distilled"
    assert row["difference"]["value"] == pytest.approx(0.5 - first["mean"])
    assert row["difference"]["standard_error"] == pytest.approx((first["std"] ** 2 / first["n"] + 0.0001) ** 0.5)


def test_curves_are_compared_at_the_steps_that_both_have(pair, capsys):
    """Broken: a step of one run stands beside another step of the other, or a cut line stops the command."""
    curves = {curve["name"]: [p["step"] for p in curve["points"]] for curve in diff(capsys, *pair)["curves"]}
    assert curves == {"validation": [0, 1, 2], "loss": [1, 2], "step_size": [1, 2]}


def test_three_runs_have_a_value_each_and_no_difference(pair, capsys):
    """Broken: the third run is left out."""
    record = diff(capsys, *pair, STORED)
    assert len(record["runs"]) == 3
    assert all(len(row["values"]) == 3 and "difference" not in row for row in record["rows"])


def test_what_makes_a_comparison_unfair_is_said(pair, capsys):
    """Broken: accuracies on different data, budgets, protocols or versions are put side by side without a word."""
    assert diff(capsys, *pair)["notes"] == []
    other = pair[1]
    manifest = json.loads((other / "manifest.json").read_text())
    manifest |= {"data_sha256": "0" * 64, "test_sha256": "1" * 64}
    manifest["versions"]["torch"] = "9.9"
    (other / "manifest.json").write_text(json.dumps(manifest))
    summary = json.loads((other / "summary.json").read_text())
    summary["budget"]["floats"] += 1
    (other / "summary.json").write_text(json.dumps(summary))
    change(other / "config.toml", "\nquick = false", "\nquick = true")
    change(other / "config.toml", "\nfull_epochs = ", "\nfull_epochs = 1")
    notes = " | ".join(diff(capsys, *pair)["notes"])
    for words in ("training data", "test images", "budgets", "quick", "eval.full_epochs", "9.9"):
        assert words in notes


def test_other_losses_and_other_code_of_one_plugin_are_said(pair, capsys):
    """Broken: values of two losses stand in one table, or two versions of one file pass for one."""
    for folder, sha in zip(pair, ("0" * 64, "1" * 64), strict=True):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "sources": {"model": sha}}))
    notes = diff(capsys, *pair)["notes"]
    assert any("other code of model convnet" in note for note in notes)
    assert not any("different matching losses" in note for note in notes)
    change(pair[1] / "config.toml", 'name = "ratio"', 'name = "other"')
    assert any("different matching losses" in note for note in diff(capsys, *pair)["notes"])


def test_a_run_that_is_not_finished_is_compared_as_far_as_it_goes(pair, capsys):
    """Broken: a run cannot be looked at while it is at work."""
    for name in ("summary.json", "manifest.json"):
        (pair[1] / name).unlink()
    record = diff(capsys, *pair)
    assert "B is unfinished" in record["notes"][0] and "2 of 3" in record["notes"][0]
    assert record["rows"][0]["values"][1] is None
    assert record["rows"][0]["difference"] is None
    assert len(record["curves"][0]["points"]) == 3


def test_the_csv_has_every_figure_as_a_line(pair, capsys):
    """Broken: figures for a plot are missing, or differ from those of --json."""
    record = diff(capsys, *pair)
    assert invoke(["diff", *map(str, pair), "--csv", "-"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = {(line["run"], line["kind"], line["name"]) for line in lines}
    assert {(str(path), "setting", "param.rank") for path in pair} <= found
    test = [line for line in lines if (line["kind"], line["name"]) == ("test", "distilled")]
    assert [float(line["value"]) for line in test] == [v["mean"] for v in record["rows"][0]["values"]]
    assert sum(line["name"] == "loss" for line in lines) == 2 * len(record["curves"][1]["points"])


def test_tables_for_people_say_the_setting_and_the_accuracies(pair, capsys):
    """Broken: the command shows nothing of what --json has."""
    assert invoke(["diff", *map(str, pair)]) == 0
    out = capsys.readouterr().out
    for words in ("param.rank", "other settings are the same", "50.0 ± 3.0 % (n = 9)", "B − A", "matching loss"):
        assert words in out


@pytest.mark.parametrize(
    ("name", "words"),
    [("gone", "is missing"), ("a/config.toml", "is a file"), ("a/synthetic", "export"), (".", "folder of 2 runs")],
)
def test_what_is_no_run_is_refused_with_what_it_is(pair, capsys, name, words):
    """Broken: a wrong path ends in an internal error."""
    assert invoke(["diff", str(pair[0]), str(pair[0].parent / name)]) == 4
    assert words in capsys.readouterr().err


def test_one_run_alone_is_a_mistake(pair, capsys):
    """Broken: a run is compared with nothing."""
    assert invoke(["diff", str(pair[0])]) == 2
    assert "two or more" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_compare_points_at_diff_when_it_is_given_runs(pair, capsys, count):
    """Broken: who looks for `diff` under the name `compare` does not find it."""
    assert invoke(["compare", *map(str, pair[:count])]) == 2
    assert f"ddfw diff {pair[0]}" in capsys.readouterr().err
