"""`ddfw compare` as a study: equal trials, runs that go on elsewhere, shared by several processes, and its picture."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

TEXT = """
[comparison]
summary = "two ways"
source = "a test"
seeds = [1, 2, 3]
image_gradients = 240
selections = 4

[comparison.tuning]
trials = 2
seed = 9

[base]
model = { name = "convnet", depth = 2, width = 4 }
experts = { count = 2, epochs = 3 }
window = { max_start = 1 }
executor = { name = "cpu", threads = 1, workers = 1 }
labels = "hard"
outer = { syn_steps = 3 }
eval = { networks = 2, epochs = 20, full_epochs = 1, baselines = [] }

[variants.pixels]
title = "pixels < others"
param = "pixel"
tune = [{ "param.lr" = 0.0, "outer.step_size" = 0.0002 }, { "param.lr" = 3.0, "outer.step_size" = 0.02 }]

[variants.spaces]
param = { name = "lss", rank = 3 }
outer = { batch_syn = 10 }
tune = [{ "param.lr" = 3.0 }, { "param.lr" = 1e30 }]

[variants.again]
param = { name = "pixel" }
tuned_as = "pixels"

[contrasts.better]
claim = "spaces are better"
plus = ["spaces"]
minus = ["pixels"]

[contrasts.same]
claim = "taken over as it is"
measure = "area"
plus = ["again"]
minus = ["pixels"]

[charts.curves]
title = "how it went"
x = "image_gradients"

[charts.sizes]
title = "what is stored"
x = "floats"
y = "accuracy"
lines = { "both" = ["pixels", "spaces"] }
"""


def command(place, out):
    return ["compare", place / "study.toml", "--out", out, "--experts-dir", place / "experts"]


@pytest.fixture(scope="session")
def done(tmp_path_factory, ddfw):
    """A study that was run."""
    place = tmp_path_factory.mktemp("study")
    (place / "study.toml").write_text(TEXT)
    said = ddfw(*command(place, place / "out"))
    assert said.code == 0, said.err
    record = json.loads((place / "out" / "comparison.json").read_text())
    return SimpleNamespace(place=place, out=place / "out", said=said, record=record)


def summary(done, variant, run):
    return json.loads((done.out / variant / run / "summary.json").read_text())


def config(done, variant, run):
    return tomllib.loads((done.out / variant / run / "config.toml").read_text())


def test_every_variant_takes_the_best_of_its_trials_by_validation(done):
    """Broken: settings would be chosen by luck, by the test split, or in more trials for one than for another."""
    accuracies = [summary(done, "pixels", f"trial-{k}")["selected_accuracy"] for k in (0, 1)]
    assert accuracies[1] > accuracies[0], "the first setting moves nothing"
    assert done.record["chosen"]["pixels"] == {"param.lr": 3.0, "outer.step_size": 0.02}
    for seed in (1, 2, 3):
        made = config(done, "pixels", f"seed-{seed}")
        assert (made["param"]["lr"], made["outer"]["step_size"]) == (3.0, 0.02)
    assert config(done, "pixels", "trial-0")["run"]["seed"] == 9
    trials = {(t["variant"], t["number"]): t for t in done.record["trials"]}
    assert set(trials) == {("pixels", 0), ("pixels", 1), ("spaces", 0), ("spaces", 1)}
    assert [trials["pixels", k]["accuracy"] for k in (0, 1)] == accuracies
    assert "test" not in json.dumps(done.record["trials"]).replace("test_sha256", "")


def test_a_trial_that_diverges_is_the_worst(done):
    """Broken: a rate that is too large would end a study, or be chosen."""
    there = [t["accuracy"] for t in done.record["trials"] if t["variant"] == "spaces"]
    assert there[0] > 0 and there[1] is None
    assert done.record["chosen"]["spaces"] == {"param.lr": 3.0}


def test_trials_that_ended_are_not_made_again(ddfw, done, here):
    """Broken: a rate that diverged after an hour would cost that hour at every call."""
    copy = shutil.copytree(done.out, here / "out")
    before = {p: p.stat().st_mtime_ns for p in copy.glob("*/trial-*/metrics.jsonl")}
    said = ddfw(*command(done.place, copy), "-q")
    assert said.code == 0, said.err
    assert len(before) == 4 and {p: p.stat().st_mtime_ns for p in before} == before


def test_settings_can_be_taken_over_from_another_variant(done):
    """Broken: an ablation would differ from its model in more than it says."""
    assert done.record["chosen"]["again"] == done.record["chosen"]["pixels"]
    same = next(c for c in done.record["contrasts"] if c["name"] == "same")
    assert same["each"] == [0.0, 0.0, 0.0] and same["interval"] == [0.0, 0.0] and same["verdict"] == "open"
    assert not (done.out / "again" / "trial-0").exists()


def test_the_record_holds_the_curve_of_each_run(done):
    """Broken: curves could not be drawn from the file, or would not be those of the runs."""
    assert len(done.record["runs"]) == 9
    for run in done.record["runs"]:
        folder = done.out / run["variant"] / f"seed-{run['seed']}"
        events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        looks = {
            e["step"]: e["mean"]
            for e in events
            if e["event"] == "evaluated" and e["split"] == "validation" and e["subject"] == "distilled"
        }
        assert dict(zip(run["curve"]["step"], run["curve"]["accuracy"], strict=True)) == looks
        assert run["curve"]["step"] == [0, 2, 4, 6, 8]
        losses = {e["step"]: e["loss"] for e in events if e["event"] == "step"}
        assert run["curve"]["loss"][0] is None
        assert run["curve"]["loss"][2] == pytest.approx((losses[3] + losses[4]) / 2, rel=1e-5)
        assert run["summary"] == json.loads((folder / "summary.json").read_text())


def test_the_record_names_no_folder_of_this_machine(ddfw, done, here):
    """Broken: whoever publishes a study would publish the folders of the machine that made it."""
    (here / "study.toml").write_text(
        TEXT.split("[variants.spaces]")[0]
        .replace("baselines = []", 'baselines = ["random_real"]')
        .replace("seeds = [1, 2, 3]", "seeds = [1, 2]")
        + '[variants.spaces]\nparam = "pixel"\ntuned_as = "pixels"\n'
    )
    said = ddfw("compare", here / "study.toml", "--out", here / "out", "--experts-dir", here / "experts", "-q")
    assert said.code == 0, said.err
    text = (here / "out" / "comparison.json").read_text()
    rows = [row for run in json.loads(text)["runs"] for row in run["summary"]["rows"]]
    assert {row["source"] for row in rows if "source" in row} <= {"pixels/seed-1", "pixels/seed-2"}
    assert any("source" in row for row in rows), "the second variant's random images were measured by the first"
    assert str(here) not in text


def test_answers_stand_in_the_table(done):
    """Broken: a question of the file would have no answer that a person can read."""
    text = (done.out / "comparison.md").read_text()
    better = next(c for c in done.record["contrasts"] if c["name"] == "better")
    means = {v: sum(better["values"][v]) / 3 for v in ("spaces", "pixels")}
    assert better["difference"] == pytest.approx(means["spaces"] - means["pixels"], abs=1e-3)
    assert "spaces are better" in text and f"{better['difference']:+.1f}" in text
    assert "param.lr = 3.0" in text and "2 trials each" in text
    assert "spaces are better" in done.said.out and "comparison.svg" in done.said.out


def test_the_picture_is_drawn_of_the_record(done):
    """Broken: the charts that a file asks for would not be there, or not be readable."""
    root = ElementTree.fromstring((done.out / "comparison.svg").read_text())
    words = " ".join(root.itertext())
    for expected in ("how it went", "what is stored", "inner image-gradients", "pixels < others", "3 run seeds"):
        assert expected in words


def test_the_file_alone_is_enough_to_go_on_elsewhere(ddfw, done, here, monkeypatch):
    """Broken: a study could not be finished on another machine without its gigabytes of runs."""
    from ddfw_plugins.executors.cpu import CpuSession

    def forbidden(*args, **kwargs):
        raise AssertionError("it computes again")

    for method in ("train_experts", "meta_gradient", "evaluate"):
        monkeypatch.setattr(CpuSession, method, forbidden)
    (here / "elsewhere").mkdir()
    shutil.copy(done.out / "comparison.json", here / "elsewhere")
    said = ddfw(*command(done.place, here / "elsewhere"), "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == done.record
    assert sorted(p.name for p in (here / "elsewhere").iterdir() if p.name[0] != ".") == [
        "comparison.json", "comparison.md", "comparison.svg",
    ]  # fmt: skip


def test_runs_of_other_settings_are_made_anew(ddfw, done, here):
    """Broken: figures of settings that the file no longer has would stand in its table."""
    (here / "out").mkdir()
    shutil.copy(done.out / "comparison.json", here / "out")
    (here / "study.toml").write_text(TEXT.replace("rank = 3", "rank = 2"))
    said = ddfw("compare", here / "study.toml", "--out", here / "out", "--experts-dir", done.place / "experts", "-q")
    assert said.code == 0, said.err
    assert {p.parent.parent.name for p in (here / "out").rglob("summary.json")} == {"spaces"}
    record = json.loads((here / "out" / "comparison.json").read_text())
    kept = [run for run in done.record["runs"] if run["variant"] != "spaces"]
    assert [run for run in record["runs"] if run["variant"] != "spaces"] == kept


def rewrite(path, record):
    """Writes a record as comparison.json, with the seal of its content."""
    content = {key: value for key, value in record.items() if key != "seal"}
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, "seal": seal}, indent=2, ensure_ascii=False) + "\n")


def test_figures_of_other_data_are_refused(ddfw, done, here):
    """Broken: figures of other images would be taken for those of the file's."""
    (here / "out").mkdir()
    record = json.loads(json.dumps(done.record))
    for part in (*record["runs"], *record["trials"]):
        part["sources"] = {**part["sources"], "test_sha256": "0" * 64}
    rewrite(here / "out" / "comparison.json", record)
    ddfw(*command(done.place, here / "out"), "-q").refused(1, "test images or labels changed")


def test_a_damaged_file_is_made_again_of_the_runs(ddfw, done, here):
    """Broken: a file that was cut would cost all runs, or its figures would be believed."""
    copy = shutil.copytree(done.out, here / "out")
    text = (copy / "comparison.json").read_text()
    (copy / "comparison.json").write_text(text[: len(text) // 2])
    said = ddfw(*command(done.place, copy), "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == done.record


def test_waiting_for_others_ends_with_the_time_limit(ddfw, done, here):
    """Broken: a job of a cluster would wait beyond its time for a run that another process has."""
    from ddfw import claimed

    copy = shutil.copytree(done.out, here / "out")
    shutil.rmtree(copy / "again" / "seed-3")
    record = json.loads(json.dumps(done.record))
    record["runs"] = [run for run in record["runs"] if (run["variant"], run["seed"]) != ("again", 3)]
    rewrite(copy / "comparison.json", record)
    with claimed(copy / "again-seed-3.claim") as mine:
        assert mine
        ddfw(*command(done.place, copy), "-q", "--max-time", "0.1s").refused(75, "time is over", "other processes")
    assert not (copy / "again" / "seed-3").exists()


@pytest.mark.extended
def test_processes_share_the_runs(done, here):
    """Broken: two terminals would do everything twice, or stop each other."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "ddfw", *map(str, command(done.place, here / "out")), "-q"]
    both = [subprocess.Popen(line, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=240)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    starts = [path.read_text().count('"run_started"') for path in (here / "out").rglob("metrics.jsonl")]
    assert len(starts) == 9 + 4 and set(starts) == {1}
    record = json.loads((here / "out" / "comparison.json").read_text())
    assert [c["each"] for c in record["contrasts"]] == [c["each"] for c in done.record["contrasts"]]
    assert len(record["runs"]) == 9 and not list((here / "out").rglob("*.claim"))
