"""`ddfw run`, as people use it."""

from __future__ import annotations

import json
import re
import shutil
import tomllib

import numpy as np
import pytest

from ddfw.artifacts import atomic
from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.pipeline.report.summary import subject_title

SUBJECTS = [
    "distilled",
    "random_real",
    "random_real_teacher",
    "kmeans_real_teacher",
    "herding_real_teacher",
    "full_data",
]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_finished_run_has_everything_that_the_documents_promise(finished):
    """Broken: tools that read run directories would miss files."""
    found = {str(p.relative_to(finished.out)) for p in finished.out.rglob("*") if p.is_file()}
    expected = {"config.toml", "manifest.json", "summary.json", "metrics.jsonl", "images/synthetic.png"}
    expected |= {f"synthetic/{n}.safetensors" for n in ("params", "images", "labels")} | {"synthetic/card.json"}
    expected |= {f"eval/{s}.json" for s in SUBJECTS}
    assert expected <= found
    assert not [name for name in found if name.endswith(".tmp")]


def test_the_table_shows_every_subject_with_mean_deviation_and_floats(finished):
    """Broken: people would read other numbers than programs do."""
    rows = summary(finished.out)["rows"]
    assert [r["subject"] for r in rows] == SUBJECTS
    for row in rows:
        assert f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f} %" in finished.said.out
        assert f"{row['floats']['strict']:,}" in finished.said.out
    assert str(finished.out / "images" / "synthetic.png") in finished.said.out


def test_the_summary_agrees_with_the_evaluation_files(finished):
    """Broken: two files of one run would tell two stories."""
    for row in summary(finished.out)["rows"]:
        record = json.loads((finished.out / "eval" / f"{row['subject']}.json").read_text())
        assert row["mean"] == pytest.approx(np.mean(record["accuracies"]))
        assert row["std"] == pytest.approx(np.std(record["accuracies"], ddof=1))
        assert row["n"] == len(record["accuracies"]) == 2
        assert (record["split"], record["net"]) == ("test", "convnet")
        assert row["floats"] == record["floats"]


def test_baselines_stay_within_the_budget_or_say_so(finished):
    """Broken: a method would be compared with images that it could not have afforded – or too few."""
    rows = {r["subject"]: r for r in summary(finished.out)["rows"]}
    assert rows["random_real"]["floats"] == {"strict": 640, "pixels": 640} and rows["random_real"]["images"] == 10
    for name in ("random_real_teacher", "kmeans_real_teacher", "herding_real_teacher"):
        assert rows[name]["floats"] == {"strict": 740, "pixels": 640} and rows[name]["images"] == 10
        assert any("budget" in note for note in rows[name]["notes"])
    # 1,797 images, a fifth of each class for the test, a tenth of the rest for validation.
    assert rows["full_data"]["images"] == pytest.approx(1797 * 0.8 * 0.9, abs=10)


def test_progress_goes_to_standard_error_and_nothing_piped_has_escape_bytes(finished, streamed):
    """Broken: logs would be full of control characters, and the table could not be piped."""
    assert "expert" in finished.said.err and "expert 1/2" not in finished.said.out
    for text in (finished.said.out, finished.said.err, streamed.said.out, streamed.said.err):
        assert "\x1b" not in text and "\r" not in text


def test_an_identical_run_prints_the_table_again_and_trains_nothing(ddfw, finished, monkeypatch):
    """Broken: repeating a command would cost hours, or destroy results."""
    from ddfw_plugins.executors.cpu import CpuSession

    def forbidden(*args, **kwargs):
        raise AssertionError("it computes again")

    for method in ("train_experts", "meta_gradient", "evaluate"):
        monkeypatch.setattr(CpuSession, method, forbidden)
    before = {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()}
    said = ddfw(*finished.arguments)
    assert said.code == 0 and "nothing to do" in said.err
    assert said.out == finished.said.out
    assert {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("flag", ["--json", "-q"])
def test_how_a_run_is_shown_is_no_part_of_its_configuration(ddfw, finished, flag):
    """Broken: the same run asked for quietly, or by a program, would be refused as another configuration."""
    said = ddfw(*finished.arguments, flag)
    assert said.code == 0, said.err
    if flag == "--json":
        assert said.events[-1]["summary"] == summary(finished.out)


def test_a_quiet_runs_own_configuration_file_is_that_run(ddfw, streamed):
    """Broken: `ddfw run RUN/config.toml` would not be RUN when RUN was made by a program."""
    said = ddfw("run", streamed.out / "config.toml", "--out", streamed.out, "--experts-dir", streamed.experts)
    assert said.code == 0, said.err
    assert "nothing to do" in said.err


def test_a_directory_in_use_is_refused(ddfw, finished, here):
    """Broken: the same command started twice would write the same files twice."""
    shutil.copytree(finished.out, here / "run")
    (here / "run" / "summary.json").unlink()
    arguments = [str(here / "run") if a == str(finished.out) else a for a in finished.arguments]
    with atomic.locked(here / "run", "the run directory", wait=False):
        ddfw(*arguments).refused(1, "in use", str(here / "run"))


def test_a_finished_run_whose_files_were_changed_is_not_called_finished(ddfw, finished, here):
    """Broken: "nothing to do" would be said of a set that is gone."""
    shutil.copytree(finished.out, here / "run")
    arguments = [str(here / "run") if a == str(finished.out) else a for a in finished.arguments]
    assert ddfw(*arguments).code == 0
    (here / "run" / "synthetic" / "images.safetensors").unlink()
    ddfw(*arguments).refused(4, "images.safetensors is missing")


def test_a_run_that_was_killed_in_its_first_write_starts_again(ddfw, finished, here):
    """Broken: a half-written temporary file would block the directory for good."""
    run = here / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / ".config.toml.abcd0123.tmp").write_text("half")
    arguments = [str(run) if a == str(finished.out) else a for a in finished.arguments]
    assert ddfw(*arguments).code == 0
    assert not list(run.glob(".*.tmp"))


def test_a_run_that_was_cut_off_starts_again_in_its_directory(ddfw, finished, here):
    """Broken: after a crash, the user would have to find another place by hand."""
    shutil.copytree(finished.out, here / "run")
    (here / "run" / "summary.json").unlink()
    shutil.rmtree(here / "run" / "synthetic")
    arguments = [str(here / "run") if a == str(finished.out) else a for a in finished.arguments]
    assert ddfw(*arguments).code == 0
    for name in ("params.safetensors", "card.json"):
        assert (here / "run" / "synthetic" / name).read_bytes() == (finished.out / "synthetic" / name).read_bytes()


def test_the_default_place_is_named_after_recipe_and_seed(ddfw, tiny, finished, here):
    """Broken: results would land in unexpected places."""
    assert ddfw(*tiny, "-q", "--seed", "3", "--experts-dir", finished.experts).code == 0
    (place,) = (here / "runs").iterdir()
    assert re.fullmatch(r"default-s3-[0-9a-f]{8}", place.name)
    assert (place / "summary.json").is_file()


def test_quiet_means_no_progress_but_still_the_table(ddfw, tiny, finished, here):
    """Broken: `-q` would hide results or still be loud."""
    said = ddfw(*tiny, "-q", "--seed", "4", "--experts-dir", finished.experts, "--out", here / "run")
    assert said.code == 0 and said.err == "" and "random real images" in said.out


def test_print_config_is_toml_that_runs_as_the_same_configuration(ddfw, tiny, here):
    """Broken: the printed configuration could not be saved and used."""
    said = ddfw(*tiny, "--ipc", "3", "--print-config")
    assert said.code == 0 and said.err == ""
    (here / "mine.toml").write_text(said.out, encoding="utf-8")
    flags = {"param": {"name": "lss"}, "traj": {"name": "mct"}, "budget": {"ipc": 3}}
    assignments = [a.removeprefix("--set=") for a in tiny if a.startswith("--set=")]
    assert structured_config(gather("mine.toml", {}, ())) == structured_config(gather("default", flags, assignments))
    assert sorted(p.name for p in here.iterdir()) == ["mine.toml"]


def test_print_config_says_where_each_setting_comes_from(ddfw, here):
    """Broken: users could not find out why a value is what it is."""
    (here / "mine.toml").write_text("[outer]\nsteps = 7\nsyn_steps = 6\n")
    out = ddfw("run", "mine.toml", "--ipc", "2", "--set", "outer.steps=5", "--print-config").out
    origin = dict(line.split("  # ") for line in out.splitlines() if "  # " in line)
    assert origin["steps = 5"] == "--set"
    assert "mine.toml" in origin["syn_steps = 6"]
    assert origin["ipc = 2"] == "flag"
    assert 'name = "digits"' in origin
    assert tomllib.loads(out)["outer"]["steps"] == 5


def test_print_config_parses_whatever_the_file_is_called(ddfw, here):
    """Broken: a file's odd name, shown as an origin, would break the printed configuration."""
    (here / "odd\nname.toml").write_text("[outer]\nsteps = 7\n")
    said = ddfw("run", here / "odd\nname.toml", "--print-config")
    assert said.code == 0 and tomllib.loads(said.out)["outer"]["steps"] == 7


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(ddfw, tiny, finished, here):
    """Broken: looking before leaping would leave files, or tell other numbers than the run."""
    said = ddfw(*tiny, "--dry-run", "--json", "--experts-dir", here / "none")
    assert said.code == 0 and said.err == ""
    (facts,) = said.events
    assert list(here.iterdir()) == []
    assert (facts["experts"], facts["experts_cached"], facts["outer_steps"], facts["inner_steps"]) == (2, 0, 3, 3)
    assert facts["train_images"] + facts["validation_images"] + facts["test_images"] == 1797
    assert (facts["image_shape"], facts["classes"]) == ([1, 8, 8], 10)
    assert (facts["budget_floats"], facts["strict_floats"], facts["pixel_floats"]) == (640, 584, 384)
    assert facts["images_per_class"] == 2 and facts["over_budget"] is False
    # Two blocks of 3×3 convolution and normalisation at width 4, then 4 · 2 · 2 features for 10 classes.
    assert facts["parameters"] == (9 * 4 + 4) + (4 + 4) + (9 * 16 + 4) + (4 + 4) + (16 * 10 + 10)
    human = ddfw(*tiny, "--dry-run", "--experts-dir", finished.experts)
    assert human.code == 0 and re.search(r"experts cached +2\n", human.out)
    assert list(here.iterdir()) == []


def test_several_seeds_end_with_their_mean_and_sample_deviation(ddfw, tiny, finished, here):
    """Broken: the number that goes into a paper would be wrong."""
    arguments = [*tiny, "--experts-dir", finished.experts, "--out", here / "many", "--seeds", "3, 4"]
    said = ddfw(*arguments, "-q")
    assert said.code == 0, said.err
    rows = [summary(here / "many" / f"seed-{s}")["rows"] for s in (3, 4)]
    assert [summary(here / "many" / f"seed-{s}")["seed"] for s in (3, 4)] == [3, 4]
    last = said.out[said.out.index("over run seeds") :]
    for position, subject in enumerate(map(subject_title, SUBJECTS)):
        means = [100 * r[position]["mean"] for r in rows]
        line = next(line for line in last.splitlines() if line.startswith(subject))
        assert f"{np.mean(means):.1f} ± {np.std(means, ddof=1):.1f} %" in line
    # Experts and evaluation have seeds of their own: a new run seed changes neither.
    assert rows[0][-1]["mean"] == rows[1][-1]["mean"]
    stream = ddfw(*arguments, "-q", "--json")
    assert stream.code == 0, stream.err
    closing = stream.events[-1]
    assert closing["event"] == "seeds_finished" and closing["seeds"] == [3, 4]
    for row, *values in zip(closing["rows"], *rows, strict=True):
        means = [v["mean"] for v in values]
        assert row["mean"] == pytest.approx(np.mean(means)) and row["std"] == pytest.approx(np.std(means, ddof=1))


def test_a_new_run_seed_does_not_retrain_experts(ddfw, tiny, finished, here):
    """Broken: every seed of a study would pay for its experts again."""
    said = ddfw(*tiny, "--seed", "8", "--out", here / "run", "--experts-dir", finished.experts, "--json")
    assert [e["cached"] for e in said.events if e["event"] == "expert"] == [True, True]


def test_one_more_expert_trains_only_that_one(ddfw, tiny, finished, here):
    """Broken: the cache would be all or nothing."""
    shutil.copytree(finished.experts, here / "experts")
    said = ddfw(*tiny, "--out", here / "run", "--experts-dir", here / "experts", "--json", "--set", "experts.count=3")
    experts = {e["seed"]: e["cached"] for e in said.events if e["event"] == "expert"}
    assert experts == {0: True, 1: True, 2: False}


def test_of_equally_good_steps_the_first_is_kept(ddfw, tiny, finished, here):
    """Broken: a run that learns nothing would still claim that its last step is the best one."""
    still = [f"--set={key}=0" for key in ("param.lr", "labels.lr", "outer.step_size_lr")]
    said = ddfw(*tiny, *still, "--out", here / "run", "--experts-dir", finished.experts, "--json")
    selections = [e["mean"] for e in said.events if e["event"] == "evaluated" and e["split"] == "validation"]
    assert len(selections) == 3 and len(set(selections)) == 1
    assert said.events[-1]["summary"]["selected_step"] == 0


def test_a_damaged_expert_stops_the_run_and_names_its_file(ddfw, tiny, finished, here):
    """Broken: a run would learn from a corrupted expert."""
    shutil.copytree(finished.experts, here / "experts")
    (path,) = (here / "experts").glob("*/expert-1.safetensors")
    data = bytearray(path.read_bytes())
    data[-2] ^= 0x20
    path.write_bytes(bytes(data))
    ddfw(*tiny, "-q", "--out", here / "run", "--experts-dir", here / "experts").refused(4, "expert-1.safetensors")


@pytest.mark.parametrize("param", ["pixel", "lss"])
@pytest.mark.parametrize("traj", ["mct", "mtt"])
@pytest.mark.parametrize("labels", ["hard", "soft", "teacher"])
def test_every_combination_of_words_runs(ddfw, tiny, finished, here, param, traj, labels):
    """Broken: components could be installed but not combined."""
    tiny = [a for a in tiny if param == "lss" or "param.rank" not in a]
    said = ddfw(
        *tiny, "-q", "--param", param, "--traj", traj, "--labels", labels, "--out", here / "run",
        "--experts-dir", finished.experts, "--ipc", "2",
    )  # fmt: skip
    assert said.code == 0, said.err
    components = json.loads((here / "run" / "synthetic" / "card.json").read_text())["components"]
    assert [components[kind]["name"] for kind in ("param", "traj", "labels")] == [param, traj, labels]


def test_double_precision_and_augmentation_run_too(ddfw, tiny, here):
    """Broken: a golden comparison in float64 or a recipe with augmentation would not start."""
    said = ddfw(
        *tiny, "-q", "--augment", "dsa", "--set", "run.precision=float64", "--out", here / "run",
        "--experts-dir", here / "experts",
    )  # fmt: skip
    assert said.code == 0, said.err
    import ddfw as package

    assert str(package.load(here / "run").images.dtype) == "torch.float64"
