"""`ddfw compare`: variants at equal cost, over run seeds, in one table."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import tomllib
from types import SimpleNamespace

import pytest

from ddfw.engine.distill import batch_sizes
from ddfw.pipeline.runner import Places, plan
from ddfw_plugins.commands.compare import files, jobs

#: Two ways that differ in images per inner step: pixels have 1 image of each class, lss of rank 3 has more.
TEXT = """
[comparison]
summary = "two ways"
source = "a test"
seeds = [0, 1]
image_gradients = 240
selections = 2

[base]
model = { name = "convnet", depth = 2, width = 4 }
experts = { count = 2, epochs = 3 }
window = { max_start = 1 }
executor = { name = "cpu", threads = 1 }
outer = { syn_steps = 3 }
eval = { networks = 2, epochs = 3, full_epochs = 1, baselines = [] }

[variants.pixels]
title = "pixels on checkpoints"
param = { name = "pixel", lr = 3.0 }
traj = "mtt"
labels = "hard"
eval = { baselines = ["random_real"] }

[variants.spaces]
param = { name = "lss", rank = 3 }
outer = { segments_per_step = 2, batch_syn = 5 }

[variants.once]
param = { name = "pixel" }
labels = "hard"
seeds = [7]
"""


@pytest.fixture(scope="session")
def done(tmp_path_factory, ddfw):
    """A comparison that was run."""
    place = tmp_path_factory.mktemp("compare")
    (place / "mine.toml").write_text(TEXT)
    arguments = ["compare", place / "mine.toml", "--out", place / "out", "--experts-dir", place / "experts"]
    said = ddfw(*arguments)
    assert said.code == 0, said.err
    record = json.loads((place / "out" / "comparison.json").read_text())
    return SimpleNamespace(arguments=arguments, out=place / "out", said=said, record=record, place=place)


def summary(done, variant, seed):
    return json.loads((done.out / variant / f"seed-{seed}" / "summary.json").read_text())


def config(done, variant, seed):
    return tomllib.loads((done.out / variant / f"seed-{seed}" / "config.toml").read_text())


def write(here, text, name="mine.toml"):
    (here / name).write_text(text)
    return here / name


def test_every_run_has_a_directory_of_its_own(done):
    """Broken: runs would overwrite each other, or seeds be missing."""
    found = {str(p.parent.relative_to(done.out)) for p in done.out.rglob("summary.json")}
    pairs = [("pixels", 0), ("pixels", 1), ("spaces", 0), ("spaces", 1), ("once", 7)]
    assert found == {f"{variant}/seed-{seed}" for variant, seed in pairs}
    for variant, seed in pairs:
        assert summary(done, variant, seed)["seed"] == config(done, variant, seed)["run"]["seed"] == seed


def test_all_variants_cost_the_same(done):
    """Broken: a method would win because it computed more."""
    # 240 image-gradients: 1 segment × 3 steps × 10 images = 30 a step; 2 × 3 × 5 = 30; 1 × 3 × 10 = 30.
    for variant, seed, each in (("pixels", 0, 3 * 10), ("spaces", 1, 2 * 3 * 5), ("once", 7, 3 * 10)):
        assert config(done, variant, seed)["outer"]["steps"] * each == 240
    rows = {r["variant"]: r for r in done.record["rows"] if r["subject"] == "distilled"}
    assert {n: (r["outer_steps"], r["image_gradients"]) for n, r in rows.items()} == {
        "pixels": (8, 240), "spaces": (8, 240), "once": (8, 240),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "each"),
    [("", 10 * 4), ("segments_per_step = 3", 3 * 10 * 4), ("batch_syn = 7", 3 + 7 + 3 + 7), ("batch_syn = 50", 10 * 4)],
)
def test_outer_steps_follow_from_the_image_gradients(here, changes, each):
    """Broken: batches, segments or a batch larger than the set would not be counted right."""
    text = f"""
[comparison]
summary = "s"
source = "s"
seeds = [0]
image_gradients = 10000
[base]
outer = {{ syn_steps = 4 }}
[variants.a]
param = "pixel"
labels = "hard"
outer = {{ {changes} }}
"""
    comparison = files.read(str(write(here, text)))
    (job,) = jobs.jobs(comparison, Places())
    assert job.config.outer.steps == round(10000 / each)
    assert job.places.out.parts == ("runs", "mine", "a", "seed-0")


def test_every_variant_is_looked_at_equally_often(done):
    """Broken: the variant with more selections would have more chances on the validation split."""
    for variant, seed in (("pixels", 0), ("spaces", 1), ("once", 7)):
        assert config(done, variant, seed)["eval"]["every"] == 4  # 8 steps, 2 selections


def test_selections_are_equally_many_whatever_the_number_of_steps(here):
    """Broken: of two variants, the one whose steps divide better would be looked at more often.

    With fewer than k (k − 1) steps there may be less than k selections, since they lie equally far apart.
    """
    counts = []
    for gradients in (360, 390, 240, 270):
        text = TEXT.replace("image_gradients = 240", f"image_gradients = {gradients}").replace(
            "selections = 2", "selections = 4"
        )
        job = jobs.jobs(files.read(str(write(here, text))), Places())[0]
        steps, every = job.config.outer.steps, job.config.eval.every
        counts.append(sum(step % every == 0 or step == steps for step in range(1, steps + 1)))
    assert counts == [4, 4, 4, 3]


def test_the_record_has_the_means_of_the_runs(done):
    """Broken: the table of a paper would hold other numbers than the runs."""
    rows = {(r["variant"], r["subject"]): r for r in done.record["rows"]}
    assert list(rows) == [
        ("pixels", "distilled"), ("pixels", "random_real"), ("spaces", "distilled"), ("once", "distilled"),
    ]  # fmt: skip
    for (variant, subject), row in rows.items():
        seeds = [7] if variant == "once" else [0, 1]
        means = [next(r["mean"] for r in summary(done, variant, s)["rows"] if r["subject"] == subject) for s in seeds]
        assert row["means"] == means and row["seeds"] == seeds and row["n"] == len(seeds)
        assert row["mean"] == pytest.approx(sum(means) / len(means), abs=1e-15)
        std = math.sqrt(sum((m - row["mean"]) ** 2 for m in means) / (len(means) - 1)) if len(means) > 1 else 0.0
        assert row["std"] == pytest.approx(std, abs=1e-15)
        seconds = [summary(done, variant, s)["seconds"]["distill"] for s in seeds]
        assert row["seconds"]["distill"] == pytest.approx(statistics.fmean(seconds))
        first = next(r for r in summary(done, variant, seeds[0])["rows"] if r["subject"] == subject)
        assert (row["images"], row["floats"]) == (first["images"], first["floats"])
    assert rows["pixels", "random_real"]["image_gradients"] == rows["pixels", "random_real"]["outer_steps"] == 0
    head = {k: v for k, v in done.record.items() if k not in ("rows", "seal", "measures", "runs")}
    assert head == {
        "schema": 3, "comparison": "mine", "summary": "two ways", "source": "a test", "image_gradients": 240,
        "selections": 2, "equal_floats": True,
        "reach": "95 % of a run's own best accuracy", "tuning": None, "chosen": {}, "contrasts": [], "trials": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("budget = { ipc = 9 }", "variants.a.budget"),
        ("run = { seed = 9 }", "variants.a.run"),
        ("eval = { networks = 9 }", "variants.a.eval.networks"),
    ],
)
def test_what_has_to_be_equal_is_not_a_variants_to_choose(ddfw, here, change, path):
    """Broken: one variant would get more floats, networks or another seed, and win by that."""
    text = TEXT.split("[variants")[0] + f"[variants.a]\nparam = 'pixel'\nlabels = 'hard'\n{change}\n"
    write(here, text)
    ddfw("compare", "mine.toml", "--dry-run").refused(2, path, "[base]")


def test_a_table_keeps_the_runs_of_other_variants_and_seeds(ddfw, done, here):
    """Broken: after `--only` or `--seeds`, finished runs would be missing from the table."""
    whole = {(r["variant"], r["subject"]): r["means"] for r in done.record["rows"]}
    first = done.record["rows"][0]["variant"]
    copy = shutil.copytree(done.out, here / "copy")
    said = ddfw(
        *done.arguments, "--out", copy, "--only", first, "--seeds", done.record["rows"][0]["seeds"][0], "--json"
    )
    assert said.code == 0, said.err
    assert {(r["variant"], r["subject"]): r["means"] for r in json.loads(said.out)["rows"]} == whole


def test_the_tables_for_people_say_the_same(done):
    """Broken: people would read other numbers than programs do."""
    text = (done.out / "comparison.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == (2 + 4) + (2 + 3)  # the table, and how the runs of each variant went
    for line, row in zip(lines[2:6], done.record["rows"], strict=True):
        spread = f" ± {100 * row['std']:.1f}" if row["n"] > 1 else ""  # one run has none
        figure = f"{100 * row['mean']:.1f}{spread}"
        assert figure in line and figure in done.said.out
        for mean in row["means"]:
            assert f"{100 * mean:.1f}" in line
        assert f"{row['floats']['strict']:,}" in line
    assert "pixels on checkpoints" in lines[2] and "random real images (standard)" in lines[3]
    assert "# mine" in text and "two ways" in text and "240" in text and "validation" in text
    assert str(done.out / "comparison.md") in done.said.out
    assert "\x1b" not in done.said.out + done.said.err
    assert "4/5" in done.said.err and "pixels on checkpoints, seed 1" in done.said.err


def test_the_same_command_again_runs_nothing(ddfw, done, monkeypatch):
    """Broken: an interrupted comparison could not go on, or a finished one would cost days again."""
    from ddfw_plugins.executors.cpu import CpuSession

    def forbidden(*args, **kwargs):
        raise AssertionError("it computes again")

    for method in ("train_experts", "meta_gradient", "evaluate"):
        monkeypatch.setattr(CpuSession, method, forbidden)
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in done.out.rglob("*") if p.parent != done.out and p.is_file()
    }
    said = ddfw(*done.arguments, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out) == done.record == json.loads((done.out / "comparison.json").read_text())
    after = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in done.out.rglob("*") if p.parent != done.out and p.is_file()
    }
    assert after == before


def test_a_run_that_is_missing_is_the_only_one_that_is_made(ddfw, done, here):
    """Broken: one lost run would cost all."""
    import shutil

    shutil.copytree(done.out, here / "out")
    (here / "out" / "comparison.json").unlink()  # which would do for the lost run
    shutil.rmtree(here / "out" / "spaces" / "seed-1")
    before = {p: p.stat().st_mtime_ns for p in (here / "out").rglob("summary.json")}
    said = ddfw(*done.arguments[:2], "--out", here / "out", *done.arguments[4:], "-q")
    assert said.code == 0 and said.err == ""
    after = {p: p.stat().st_mtime_ns for p in (here / "out").rglob("summary.json")}
    assert {p: after[p] for p in before} == before
    assert [str(p.relative_to(here / "out")) for p in after if p not in before] == ["spaces/seed-1/summary.json"]
    again = json.loads((here / "out" / "comparison.json").read_text())
    assert [r["means"] for r in again["rows"]] == [r["means"] for r in done.record["rows"]]


def test_only_some_variants_and_other_seeds(ddfw, done):
    """Broken: a study could not be split over machines."""
    said = ddfw(*done.arguments, "--only", "once", "--only", "spaces", "--seeds", "3,5", "--dry-run", "--json")
    assert said.code == 0 and said.err == ""
    found = [(r["variant"], r["seed"]) for r in json.loads(said.out)]
    assert found == [("spaces", 3), ("once", 3), ("spaces", 5), ("once", 5)]


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(ddfw, here):
    """Broken: looking before leaping would leave files, or hide a variant's mistake."""
    write(here, TEXT)
    said = ddfw("compare", "mine.toml", "--dry-run", "--json")
    assert said.code == 0, said.err
    rows = json.loads(said.out)
    # Seed by seed, so that an interrupted comparison has whole rows.
    assert [(r["variant"], r["seed"]) for r in rows] == [
        ("pixels", 0), ("spaces", 0), ("pixels", 1), ("spaces", 1), ("once", 7),
    ]  # fmt: skip
    assert [r["outer steps"] for r in rows] == [8] * 5
    assert rows[1]["directory"].endswith("mine/spaces/seed-0")
    human = ddfw("compare", "mine.toml", "--dry-run")
    assert human.code == 0 and "spaces" in human.out and "\x1b" not in human.out
    assert [p.name for p in here.iterdir()] == ["mine.toml"]


def test_a_file_without_costs_takes_the_steps_as_they_are(here):
    """Broken: a comparison of other things than cost could not be written."""
    text = TEXT.replace("image_gradients = 240\nselections = 2\n", "").replace(
        "syn_steps = 3", "syn_steps = 3, steps = 11"
    )
    comparison = files.read(str(write(here, text)))
    assert (comparison.settings.image_gradients, comparison.settings.selections) == (None, None)
    for job in jobs.jobs(comparison, Places()):
        assert (job.config.outer.steps, job.config.eval.every) == (11, 50)


TUNED = "selections = 2\n[comparison.tuning]\ntrials = 2\n"
TUNE = 'tune = [{ "param.lr" = 1.0 }, { "param.lr" = 2.0 }]\n'
CONTRAST = '\n[contrasts.better]\nclaim = "c"\nplus = ["pixels"]\nminus = ["spaces"]\n'
MISTAKES = {
    "tune without tuning": (
        TEXT.replace("seeds = [7]\n", "seeds = [7]\n" + TUNE),
        ["variants.once.tune", "[comparison.tuning]"],
    ),
    "fewer trials": (
        TEXT.replace("selections = 2\n", TUNED),
        ["variants.pixels.tune", "lists 0 settings", "trials = 2"],
    ),
    "tuned as nobody": (
        TEXT.replace("selections = 2\n", TUNED).replace('title = "pixels on checkpoints"', 'tuned_as = "space"'),
        ["variants.pixels.tuned_as", "'space'", "Did you mean 'spaces'?"],
    ),
    "tuned as one without trials": (
        TEXT.replace("selections = 2\n", TUNED).replace('title = "pixels on checkpoints"', 'tuned_as = "spaces"'),
        ["variants.pixels.tuned_as", "spaces has no `tune`"],
    ),
    "contrast of nobody": (
        TEXT + CONTRAST.replace('"spaces"', '"space"'),
        ["contrasts.better", "Did you mean 'spaces'?"],
    ),
    "contrast of nothing": (TEXT + CONTRAST.replace('["pixels"]', "[]"), ["contrasts.better.plus", "at least 1"]),
    "unknown measure": (TEXT + CONTRAST + 'measure = "speed"\n', ["contrasts.better.measure", "accuracy"]),
    "chart of nobody": (
        TEXT + '\n[charts.a]\ntitle = "t"\nvariants = ["pixel"]\n',
        ["charts.a", "Did you mean 'pixels'?"],
    ),
    "no toml": ("[comparison", ["not a readable TOML file"]),
    "no head": ("[variants.a]\n", ["comparison: missing, expected a table"]),
    "no seeds": (TEXT.replace("seeds = [0, 1]\n", ""), ["comparison.seeds: missing, expected a list of integers"]),
    "empty seeds": (TEXT.replace("seeds = [0, 1]\n", "seeds = []\n"), ["comparison.seeds: must have at least 1"]),
    "seed below 0": (TEXT.replace("seeds = [0, 1]\n", "seeds = [-1]\n"), ["comparison.seeds[0]: must be >= 0, got -1"]),
    "no variants": (TEXT.split("[variants")[0], ["variants: missing, expected a table"]),
    "unknown key": (
        TEXT.replace("selections = 2", "selection = 2"),
        ["comparison.selection: unknown", "Did you mean 'selections'?"],
    ),
    "unknown table": (TEXT + "\n[variant.b]\n", ["variant: unknown", "Did you mean 'variants'?"]),
    "steps and gradients": (
        TEXT.replace("batch_syn = 5", "batch_syn = 5, steps = 9"),
        ["variants.spaces.outer.steps", "comparison.image_gradients"],
    ),
    "steps in the base": (TEXT.replace("syn_steps = 3", "syn_steps = 3, steps = 9"), ["variants.pixels.outer.steps"]),
    "bad option": (TEXT.replace("rank = 3", "rank = -3"), ["variants.spaces.param.rank"]),
    "option that does not fit": (TEXT.replace("rank = 3", "rank = 8"), ["variants.spaces.param", "ipc"]),
    "unknown option": (TEXT.replace("rank = 3", "ranks = 3"), ["variants.spaces.param.ranks", "rank"]),
    "unknown component": (TEXT.replace('"pixel", lr', '"pixels", lr'), ["variants.pixels.param", "'pixel'"]),
    "folder's name": (TEXT.replace("[variants.once]", '[variants."../once"]'), ["../once"]),
    "head is no table": ("comparison = 3\n", ["comparison: expected a table, got 3"]),
    "variant is no table": (TEXT + "\n[variants]\nb = 3\n", ["variants.b: expected a table, got 3"]),
    "base is no table": ("base = 3\n" + TEXT.split("[base]")[0] + "[variants.a]\n", ["base"]),
    "outer is no table": (TEXT.replace("outer = { segments_per_step = 2, batch_syn = 5 }", "outer = 3"), ["outer"]),
    "run is no table": (TEXT.replace("[base]", "[base]\nrun = 3"), ["run"]),
    "seed is no whole number": (TEXT.replace("seeds = [0, 1]\n", "seeds = [0.5]\n"), ["comparison.seeds[0]: ", "0.5"]),
    "parent's name": (TEXT.replace("[variants.once]", '[variants.".."]'), [".."]),
    "title is no text": (TEXT.replace('title = "pixels on checkpoints"', "title = 3"), ["title"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_is_named_before_anything_runs(ddfw, here, mistake):
    """Broken: a comparison would fail in its third hour, or with an internal error."""
    text, words = MISTAKES[mistake]
    write(here, text)
    ddfw("compare", "mine.toml", "-q", "--dry-run").refused(2, *words)
    assert [p.name for p in here.iterdir()] == ["mine.toml"]


def test_an_unknown_name_is_refused_with_the_nearest_one(ddfw, here):
    """Broken: a slip would be a riddle."""
    ddfw("compare", "digits-ipc2").refused(2, "Did you mean 'digits-ipc1'?")
    write(here, TEXT)
    ddfw("compare", "mine.toml", "--only", "pixel").refused(2, "unknown variant 'pixel'", "Did you mean 'pixels'?")
    for seeds in ("a", "1,1", "-1", ""):
        assert ddfw("compare", "mine.toml", "--seeds", seeds).code == 2
    assert [p.name for p in here.iterdir()] == ["mine.toml"]


def test_recipes_of_variants_have_to_judge_alike(ddfw, here):
    """Broken: a variant whose recipe trains its networks longer, or stores more, would win by that."""
    text = TEXT.split("[base]")[0].replace("image_gradients = 240\n", "") + (
        '[base]\ndata = "digits"\n[variants.a]\nrecipe = "digits-ipc1-pixel-mct"\n'
        '[variants.b]\nrecipe = "default"\nparam = "pixel"\nlabels = "hard"\n'
    )
    write(here, text)
    ddfw("compare", "mine.toml", "--dry-run").refused(2, "variants.b.eval.", "by its recipe", "[base]")
    write(here, text.replace('recipe = "default"\nparam = "pixel"', 'recipe = "digits-ipc1-lss-mct"'))
    said = ddfw("compare", "mine.toml", "--dry-run", "--json")
    assert said.code == 0, said.err
    assert {("pixel" in row["run"], "lss" in row["run"]) for row in json.loads(said.out)} == {
        (True, False),
        (False, True),
    }


@pytest.mark.parametrize("name", [name for name in sorted(files.shipped()) if name.startswith("papers-")])
def test_comparisons_at_the_papers_size_are_on_equal_terms(name, monkeypatch):
    """Broken: a study that waits for a GPU would be refused there, or compare protocols."""
    layout = SimpleNamespace(num_images=40)
    monkeypatch.setattr("ddfw.fits", lambda config, root: layout)  # the data are not here
    comparison = files.read(name)
    found = jobs.jobs(comparison, Places())
    assert len(found) == 3 * len(comparison.variants)
    assert {job.config.data.name for job in found} == {name.split("-")[1]}
    assert {f"ipc{job.config.budget.ipc}" for job in found} == {name.split("-")[2]}
    assert {job.config.budget.accounting for job in found} == {"strict"}


@pytest.mark.parametrize("name", sorted(files.shipped()))
def test_the_comparisons_that_ship_are_comparisons(name):
    """Broken: `ddfw compare NAME` would fail before its first run."""
    comparison = files.read(name)
    assert comparison.name == name and comparison.settings.summary and comparison.settings.source
    assert len(comparison.variants) >= 2 and len(comparison.settings.seeds) >= 2
    if comparison.base.get("data") != "digits":
        return
    asked = jobs.jobs(comparison, Places())[: len(comparison.variants)]
    images = [plan(job.config).layout.num_images for job in asked]
    for job, count in zip(asked, images, strict=True):
        sizes = batch_sizes(count, job.config.outer.batch_syn, job.config.outer.syn_steps)
        assert job.step_gradients == job.config.outer.segments_per_step * sum(sizes)
        assert job.config.outer.steps % job.config.eval.every == 0
    spent = [
        job.config.outer.steps * job.step_gradients / (1 if comparison.settings.equal_floats else job.config.budget.ipc)
        for job in asked
    ]
    assert max(spent) <= 1.05 * min(spent)
