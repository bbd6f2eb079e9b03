"""Sweeps: files, grids, studies, going on after an interruption, and executors."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest

import ddfw
from ddfw import Crew, Places
from ddfw.errors import DirectoryInUseError, ResumeError
from ddfw_plugins.commands.sweep import files as sweep_files
from ddfw_plugins.commands.sweep import runner as sweeps
from ddfw_plugins.commands.sweep import tables as sweep_tables
from ddfw_plugins.commands.sweep import trials as sweep_trials
from ddfw_registry import ConfigError, UnknownComponentError

needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")

BASE = """
[base]
model = { depth = 2, width = 8 }
experts = { count = 2, epochs = 2 }
outer = { steps = 2, syn_steps = 2 }
window = { start = 1, max_start = 1 }
traj = "mtt"
labels = "hard"
param = { name = "pixel", lr = 10.0 }
observers = { metrics = {} }
eval = { networks = 2, epochs = 2, every = 1, select_networks = 1, baselines = [] }
"""
GRID = f"""
[sweep]
recipe = "digits"
summary = "learning rates"
{BASE}
[grid]
param.lr = [1.0, 1000.0]
"outer.step_size" = [0.01, 0.02]
"""
SPACE = f"""
[sweep]
recipe = "digits"
trials = 4
{BASE}
[space]
"outer.step_size" = {{ low = 1e-3, high = 0.1, log = true }}
outer.syn_steps = {{ low = 1, high = 5, step = 2 }}
labels = {{ values = ["hard", {{ name = "soft", lr = 2.0 }}] }}
"""


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Experts are trained once for all tests."""
    return tmp_path_factory.mktemp("experts")


@pytest.fixture
def places(tmp_path, experts):
    return Places(out=tmp_path / "out", experts=experts)


def written(tmp_path, text, name="mine.toml"):
    (tmp_path / name).write_text(text)
    return sweep_files.read(tmp_path / name)


def record_of(places):
    return json.loads((places.out / "sweep.json").read_text())


def same_schema(record):
    path = Path(__file__).parents[4] / "docs" / "schema" / "sweep.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(record, schema)


@pytest.fixture
def runs(monkeypatch):
    """The directories that were really run; `runs.limit` interrupts before the run after so many."""
    real = ddfw.run

    class Runs(list):
        limit = math.inf

    made = Runs()

    def counted(config, places, **options):
        if len(made) >= made.limit:
            raise KeyboardInterrupt
        made.append(places.out.name)
        return real(config, places, **options)

    monkeypatch.setattr("ddfw.run", counted)
    return made


def test_a_grid_goes_on_where_it_was_interrupted(tmp_path, places, runs):
    """Broken: trials would be lost, run twice, or hold other settings than the file says."""
    sweep = written(tmp_path, GRID)
    runs.limit = 2
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(sweep, places, quiet=True)
    half = record_of(places)
    same_schema(half)
    assert [t["status"] for t in half["trials"]] == ["finished", "finished", "waiting", "waiting"]
    said = []
    runs.limit = math.inf
    root, record = sweeps.run(sweep, places, say=said.append, quiet=True)
    assert runs == ["0000", "0001", "0002", "0003"] and root == places.out
    assert "2 of 4" in said[0] and "── 3/4  param.lr=1000 outer.step_size=0.01" in said[1]
    assert record == record_of(places)
    same_schema(record)
    combinations = [(1.0, 0.01), (1.0, 0.02), (1000.0, 0.01), (1000.0, 0.02)]
    for row, (lr, step_size) in zip(record["trials"], combinations, strict=True):
        assert row["parameters"] == {"param.lr": lr, "outer.step_size": step_size}
        directory = places.out / row["directory"]
        config = tomllib.loads((directory / "config.toml").read_text())
        assert (config["param"]["lr"], config["outer"]["step_size"]) == (lr, step_size)
        assert config["param"]["name"] == "pixel" and config["run"]["recipe"] == "mine"
        summary = json.loads((directory / "summary.json").read_text())
        distilled = next(r for r in summary["rows"] if r["subject"] == "distilled")
        assert row["validation_accuracy"] == summary["selected_accuracy"]
        assert row["test"] == {k: distilled[k] for k in ("mean", "std", "n")} | {"used_for_choosing": False}
        assert row["seconds"] == pytest.approx(sum(summary["seconds"].values()), abs=1e-3)
    assert record["trials"][:2] == half["trials"][:2]


def test_a_trial_that_cannot_go_on_starts_anew(tmp_path, places, monkeypatch):
    """Broken: one trial that another node began, with other threads, ends the whole sweep, each time."""
    real, asked = ddfw.run, []

    def other_node(config, places, **options):
        asked.append(places.out.name)
        checkpoints = places.out / "checkpoints"
        if len(asked) == 1:
            checkpoints.mkdir(parents=True)
            (checkpoints / "latest.json").write_text("{}")
        if checkpoints.exists():
            raise ResumeError("threads 1, not 2")
        return real(config, places, **options)

    sweep = written(tmp_path, GRID)
    monkeypatch.setattr("ddfw.run", other_node)
    _, record = sweeps.run(sweep, places, quiet=True)
    assert [t["status"] for t in record["trials"]] == ["finished"] * 4
    assert asked == ["0000", "0000", "0001", "0002", "0003"]


def test_the_selected_accuracy_is_the_best_on_the_validation_split(tmp_path, places):
    """Broken: trials would be ranked by another figure than the one that chose the step."""
    sweep = written(tmp_path, GRID.replace("[1.0, 1000.0]", "[1000.0]").replace("[0.01, 0.02]", "[0.02]"))
    sweeps.run(sweep, places, quiet=True)
    lines = (places.out / "trials" / "0000" / "metrics.jsonl").read_text().splitlines()
    looks = [e for e in map(json.loads, lines) if e["event"] == "evaluated" and e["split"] == "validation"]
    assert len(looks) == 3  # the start, and after each step
    summary = json.loads((places.out / "trials" / "0000" / "summary.json").read_text())
    assert summary["selected_accuracy"] == max(e["mean"] for e in looks)


def row(number, validation, test, status="finished"):
    done = status == "finished"
    return {
        "number": number, "parameters": {"param.lr": number}, "status": status, "validation_accuracy": validation,
        "selected_step": 1 if done else None, "seconds": 1.0 if done else None, "directory": f"trials/{number:04d}",
        "test": {"mean": test, "std": 0.0, "n": 2, "used_for_choosing": False} if done else None,
    }  # fmt: skip


def test_the_table_is_ranked_by_validation_accuracy_and_never_by_the_test_split():
    """Broken: the best of many test accuracies would pass for a test accuracy."""
    rows = [row(0, 0.5, 0.99), row(1, 0.7, 0.1), row(2, 0.7, 0.9), row(3, None, None, "waiting")]
    assert [r["number"] for r in sweep_tables.ranked(rows)] == [1, 2, 0, 3]


def test_a_whole_table_and_one_of_its_settings_go_together(tmp_path, places):
    """Broken: a sweep could not compare components, or the order in the file would decide who wins."""
    text = GRID.replace("param.lr = [1.0, 1000.0]", '"param.lr" = [7.0]\nparam = ["pixel", {name = "lss", rank = 3}]')
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        written(tmp_path, text.replace('"param.lr"', "param.lr"))  # TOML itself has no such thing
    trials = sweep_trials.grid(written(tmp_path, text), places)
    found = [(t.config.param.name, t.config.param.lr, t.config.outer.step_size) for t in trials]
    assert found == [("pixel", 7.0, 0.01), ("pixel", 7.0, 0.02), ("lss", 7.0, 0.01), ("lss", 7.0, 0.02)]
    assert trials[2].config.param.rank == 3


def test_a_setting_of_the_base_stays_where_a_trial_names_the_same_component(tmp_path, places):
    """Broken: what all trials share would be lost in those trials that name the recipe's component."""
    text = GRID.replace('param = { name = "pixel", lr = 10.0 }', "param.lr = 7.0\nlabels = 'hard'").replace(
        'labels = "hard"\n', "", 1
    )
    text = text.replace('recipe = "digits"', 'recipe = "digits-ipc1-pixel-mct"').replace(
        "param.lr = [1.0, 1000.0]", 'param = ["pixel", {name = "lss", rank = 3}]'
    )
    pixel, _, lss, _ = sweep_trials.grid(written(tmp_path, text), places)
    other = lss.config.param
    assert pixel.config.param.lr == 7.0 and other.lr != 7.0 and other == type(other)(rank=3)


def test_lists_are_values_too(tmp_path, places):
    """Broken: a setting that is a list could not be swept."""
    text = GRID.replace("param.lr = [1.0, 1000.0]", '"augment.families" = [["crop"], ["crop", "scale"]]')
    found = [t.config.augment.families for t in sweep_trials.grid(written(tmp_path, text), places)]
    assert found == [("crop",), ("crop",), ("crop", "scale"), ("crop", "scale")]


def test_without_a_recipe_each_trial_has_the_one_that_a_run_would_have(tmp_path, places):
    """Broken: a sweep's trial and `ddfw run` with the same words would be different runs."""
    text = f"{BASE}\n[grid]\ntraj = ['mtt', {{name = 'mct', expert_epochs = 1}}]"
    text = text.replace('param = { name = "pixel", lr = 10.0 }', 'param = { name = "lss", rank = 3 }')
    trials = sweep_trials.grid(written(tmp_path, text), places)
    assert [t.recipe for t in trials] == ["digits-ipc1-lss-mtt", "digits-ipc1-lss-mct"]
    assert [t.config.run.recipe for t in trials] == ["mine", "mine"]


def test_a_trial_that_diverges_is_recorded_and_not_tried_again(tmp_path, places, runs):
    """Broken: one bad learning rate would end a night's sweep, or cost its time again each morning."""
    sweep = written(tmp_path, GRID.replace("[0.01, 0.02]", "[1e15, 0.01]"))
    _, record = sweeps.run(sweep, places, quiet=True)
    same_schema(record)
    assert [t["status"] for t in record["trials"]] == ["diverged", "finished", "diverged", "finished"]
    for one in record["trials"][::2]:
        assert "diverged" in one["reason"]
        assert one["validation_accuracy"] is one["test"] is one["seconds"] is None
    text = (places.out / "sweep.md").read_text()
    assert text.index("| 0001 |") < text.index("| 0000 |") and "trial 0000 diverged: " in text
    assert f"| trial | {' | '.join(record['paths'])} | validation % | test % | step | seconds | status |" in text
    before = list(runs)
    assert sweeps.run(sweep, places, quiet=True)[1] == record and runs == before


def test_a_folder_of_another_grid_is_refused_before_anything_runs(tmp_path, places, runs):
    """Broken: after an edit, trials of two files would stand in one table."""
    sweeps.run(written(tmp_path, GRID.replace("[0.01, 0.02]", "[0.01]")), places, quiet=True)
    before = list(runs)
    with pytest.raises(DirectoryInUseError, match=r"trials/0001.*another configuration"):
        sweeps.run(written(tmp_path, GRID), places, quiet=True)
    assert runs == before


class Elsewhere:
    """An executor whose machines get text and give text, the last payload first."""

    def __init__(self):
        self.tasks, self.sizes, self.closed = [], [], 0

    def assemble(self):
        return contextlib.nullcontext(Crew())

    def scatter(self, task, payloads):
        self.tasks.append(task)
        self.sizes.append(len(payloads))
        try:
            for position in reversed(range(len(payloads))):
                payload = json.loads(json.dumps(payloads[position], allow_nan=False))
                assert Path(payload["out"]).is_absolute() and Path(payload["experts"]).is_absolute()
                assert payload["quiet"]
                module, _, name = task.partition(":")
                function = getattr(sys.modules[module], name)
                yield position, json.loads(json.dumps(function(payload), allow_nan=False))
        finally:
            self.closed += 1


@pytest.fixture
def elsewhere(monkeypatch):
    found = Elsewhere()
    monkeypatch.setattr("ddfw.component", lambda kind, name: {("executor", "there"): found}[kind, name])
    return found


def without_times(record):
    return [{k: v for k, v in t.items() if k != "seconds"} for t in record["trials"]]


def test_an_executor_gets_whole_trials_and_gives_the_same_figures(tmp_path, places, elsewhere):
    """Broken: a sweep on several machines would differ from one on one, or mix up who got what."""
    sweep = written(tmp_path, GRID)
    _, here = sweeps.run(sweep, places, quiet=True)
    said = []
    out = Places(out=tmp_path / "there", experts=places.experts)
    _, there = sweeps.run(sweep, out, on="there", say=said.append)
    assert without_times(there) == without_times(here)
    assert (
        elsewhere.tasks == ["ddfw_plugins.commands.sweep.runner:run_trial"]
        and elsewhere.sizes == [4]
        and elsewhere.closed == 1
    )
    assert [line.split("  ")[0] for line in said] == ["── 4/4", "── 3/4", "── 2/4", "── 1/4"]
    assert all("validation" in line for line in said)


def test_an_interrupt_reaches_the_executor(tmp_path, places, elsewhere, runs):
    """Broken: other machines would go on with trials that nobody waits for."""
    runs.limit = 1
    with pytest.raises(KeyboardInterrupt):
        sweeps.run(written(tmp_path, GRID), places, on="there")
    assert elsewhere.closed == 1
    assert [t["status"] for t in record_of(places)["trials"]] == ["waiting"] * 3 + ["finished"]


def test_an_executor_of_this_machine_takes_trials_too(tmp_path, places):
    """Broken: `--on cpu`, which has no machines of its own, would not run what it is given."""
    sweep = written(tmp_path, GRID.replace("[1.0, 1000.0]", "[1000.0]").replace("[0.01, 0.02]", "[0.02]"))
    _, record = sweeps.run(sweep, places, on="cpu")
    assert [t["status"] for t in record["trials"]] == ["finished"]


def test_values_are_shown_in_few_words():
    """Broken: a table's cells and a trial's title would be too long to read, or hide what differs."""
    values = ["kmeans", 0.0123456, 8, True, {"name": "lss", "rank": 3}, {"name": "pixel"}, [["crop"], []], {"a": 1e-7}]
    words = ["kmeans", "0.01235", "8", "true", "lss(rank=3)", "pixel", "[[crop], []]", "{a=1e-07}"]
    assert [sweep_files.shown(value) for value in values] == words


def test_columns_have_the_ends_of_paths_that_tell_them_apart():
    """Broken: two columns would have one heading."""
    short = list(sweep_tables._short(["param.lr", "labels.lr", "param", "outer.step_size", "experts.gsam.lr", "lr"]))
    assert short == ["param.lr", "labels.lr", "param", "step_size", "gsam.lr", "lr"]


def test_an_executor_that_has_nowhere_to_send_trials_is_refused(tmp_path, places, monkeypatch):
    """Broken: `--on torchrun` without torchrun runs everything here without a word."""
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(ConfigError, match=r"--on: .*torchrun --nproc-per-node"):
        sweeps.run(written(tmp_path, GRID), places, on="torchrun", quiet=True)


def test_an_executor_that_no_plugin_offers_is_refused(tmp_path, places):
    """Broken: a slip in --on would be an internal error."""
    with pytest.raises(UnknownComponentError, match=r"'cpus'.*'cpu'.*--on"):
        sweeps.run(written(tmp_path, GRID), places, on="cpus")
    with pytest.raises(ConfigError, match="--workers"):
        sweeps.run(written(tmp_path, GRID), places, workers=2)
    assert not places.out.exists()


def grid(*lines):
    return "\n".join([BASE, "[grid]", *lines])


def space(*lines):
    return "\n".join([BASE, "[space]", *lines])


MISTAKES = {
    "no toml": ("[sweep", ["not a readable TOML file"]),
    "nothing differs": (BASE, ["grid: missing", "[space]"]),
    "empty grid": (grid(), ["grid: names nothing"]),
    "grid and space": (grid("param.lr = [1.0]") + "\n[space]\n", ["space: ", "not both"]),
    "unknown table": (grid("param.lr = [1.0]") + "\n[spaces]\n", ["spaces: ", "Did you mean 'space'?"]),
    "table of settings": (grid("param.lr = [1.0]") + "\n[outer]\n", ["outer: ", "Known: sweep, base, grid, space"]),
    "no table": ("grid = 3", ["grid: expected a table, got 3"]),
    "unknown key": (f"[sweep]\ntrial = 3\n{space()}", ["sweep.trial: ", "Did you mean 'trials'?"]),
    "unknown method": (f"[sweep]\nmethod = 'optun'\n{space()}", ["sweep.method: ", "Did you mean 'optuna'?"]),
    "method without table": (f"[sweep]\nmethod = 'grid'\n{space()}", ["sweep.method: ", "[grid]", "[space]"]),
    "unknown sampler": (f"[sweep]\nsampler = 'tpee'\n{space()}", ["sweep.sampler: ", "Did you mean 'tpe'?"]),
    "unknown recipe": (f"[sweep]\nrecipe = 'digit'\n{space()}", ["sweep.recipe: ", "Did you mean 'digits'?"]),
    "trials of a grid": (f"[sweep]\ntrials = 3\n{grid('param.lr = [1.0]')}", ["sweep.trials: ", "[space]"]),
    "no trials": (f"[sweep]\ntrials = 0\n{space()}", ["sweep.trials: ", ">= 1, got 0"]),
    "no seed": (f"[sweep]\nseed = -1\n{space()}", ["sweep.seed: ", ">= 0, got -1"]),
    "summary": (f"[sweep]\nsummary = 3\n{space()}", ["sweep.summary: expected text, got 3"]),
    "recipe in the base": (grid("a.b = [1]") + "\n[base.run]\nrecipe = 'x'\n", ["base.run.recipe", "sweep.recipe"]),
    "recipe in the grid": (grid("run.recipe = ['x']"), ["grid.run.recipe: "]),
    "no list": (grid("param.lr = 1.0"), ["grid.param.lr: expected a list", "[base]"]),
    "empty list": (grid("param.lr = []"), ["grid.param.lr: needs at least one"]),
    "value twice": (grid("param.lr = [1.0, 1.0]"), ["grid.param.lr: 1 stands there twice"]),
    "path twice": (grid('"param.lr" = [1.0]', "param.lr = [2.0]"), ["grid.param.lr: stands there twice"]),
    "no path": (grid('"param..lr" = [1.0]'), ["'param..lr' is no path"]),
    "scalar in a space": (space("param.lr = [1.0]"), ["space.param.lr: expected {low", "values"]),
    "key of a range": (space("param.lr = {low = 1, hig = 3}"), ["space.param.lr.hig: ", "Did you mean 'high'?"]),
    "key of a choice": (space("param.lr = {values = [1], log = true}"), ["space.param.lr.log: unknown option"]),
    "choice is no list": (space("param.lr = {values = 3}"), ["space.param.lr.values: expected a list"]),
    "half a range": (space("param.lr = {low = 1}"), ["space.param.lr.high: missing"]),
    "range of texts": (space("param.lr = {low = 'a', high = 3}"), ["space.param.lr.low: expected an integer or a num"]),
    "endless range": (space("param.lr = {low = 1, high = inf}"), ["space.param.lr.high: expected a finite number"]),
    "range upside down": (space("param.lr = {low = 3, high = 1}"), ["space.param.lr: low is 3"]),
    "log of nothing": (space("param.lr = {low = 0, high = 1, log = true}"), ["space.param.lr.low: ", "> 0"]),
    "log is no truth": (space("param.lr = {low = 1, high = 2, log = 1}"), ["space.param.lr.log: expected true"]),
    "log with steps": (space("param.lr = {low = 1, high = 2, log = true, step = 1}"), ["space.param.lr.step: "]),
    "step back": (space("param.lr = {low = 1, high = 2, step = -1}"), ["space.param.lr.step: must be > 0, got -1"]),
    "steps that miss": (space("param.lr = {low = 0.1, high = 0.4, step = 0.2}"), ["space.param.lr.high: 0.4"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_is_named_with_its_place(tmp_path, mistake):
    """Broken: a slip would be a riddle, or be found after hours."""
    text, said = MISTAKES[mistake]
    with pytest.raises(ConfigError) as refused:
        written(tmp_path, text)
    for part in said:
        assert part in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 6


def test_steps_that_fit_are_taken_though_floats_do_not_add_up(tmp_path):
    """Broken: 0.1 to 0.7 in steps of 0.2 would be refused, since floats say 0.7 - 0.1 is no multiple of 0.2."""
    (part,) = written(tmp_path, space("param.lr = {low = 0.1, high = 0.7, step = 0.2}")).axes.values()
    assert (part.low, part.high, part.step, part.whole) == (0.1, 0.7, 0.2, False)


def test_a_file_name_that_is_no_name_is_refused(tmp_path):
    """Broken: every trial would be refused for its run.recipe, which no file names."""
    with pytest.raises(ConfigError, match="my sweep"):
        written(tmp_path, GRID, "my sweep.toml")
    with pytest.raises(ConfigError, match="no such file"):
        sweep_files.read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["param.lr = [1.0, -3.0]"], ["param.lr in trial 1 (param.lr=-3): ", ">= 0"]),
        (["param.momentun = [0, 1]"], ["param.momentun in trial 0 (param.momentun=0) and 1 more: ", "'momentum'?"]),
        (["parm.lr = [1.0]"], ["parm in trial 0", "Did you mean 'param'?"]),
        (['param = ["pixel", "lsss"]'], ["param", "trial 1 (param=lsss)", "Did you mean 'lss'?"]),
        (
            ['param = ["pixel", {name = "lss", rank = 8}]', 'labels = ["soft"]'],
            ["param in trial 1 (param=lss(rank=8) labels=soft): ", "ipc"],
        ),
        (["window.max_start = [1, 9]"], ["window.max_start in trial 1"]),
        (["outer = [3]"], ["outer in trial 0 (outer=3): "]),
        (['"model" = ["convnet"]', '"model.name" = ["convnet", "convnet2"]'], ["model", "trial 1"]),
        (['param = ["pixel", {name = "pixel"}]'], ["grid: trials 0 (param=pixel) and 1", "are the same run"]),
    ],
)
def test_an_invalid_value_of_a_grid_is_refused_with_trial_and_path(tmp_path, places, runs, lines, said):
    """Broken: the fourth trial of a sweep would fail in its third hour."""
    with pytest.raises(ConfigError) as refused:
        sweeps.run(written(tmp_path, grid(*lines)), places)
    for part in said:
        assert part in str(refused.value)
    assert not runs and not places.out.exists()


def test_without_optuna_a_space_says_what_to_install(tmp_path, places, monkeypatch):
    """Broken: the extra that is missing would be an internal error, or a grid would need it, too."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r'sweep.method: .*pip install "ddfw\[sweep\]"'):
        sweeps.run(written(tmp_path, SPACE), places)
    assert not places.out.exists()
    assert len(sweep_trials.grid(written(tmp_path, GRID), places)) == 4


@needs_optuna
def test_a_study_goes_on_as_if_it_had_not_been_interrupted(tmp_path, places, runs):
    """Broken: after Ctrl-C, other trials would follow than without, or one would be run twice."""
    sweep = written(tmp_path, SPACE)
    _, whole = sweeps.run(sweep, Places(out=tmp_path / "whole", experts=places.experts), quiet=True)
    same_schema(whole)
    assert [t["status"] for t in whole["trials"]] == ["finished"] * 4
    runs.clear()
    for runs.limit in (2, 3, math.inf):
        try:
            _, parts = sweeps.run(sweep, places, quiet=True)
        except KeyboardInterrupt:
            assert record_of(places)["trials"][-1]["status"] == "waiting"
    assert without_times(parts) == without_times(whole)
    assert runs == ["0000", "0001", "0002", "0003"]
    assert (places.out / "study.journal").is_file()
    more = written(tmp_path, SPACE.replace("trials = 4", "trials = 5"))
    assert without_times(sweeps.run(more, places, quiet=True)[1])[:4] == without_times(whole)
    assert runs[4:] == ["0004"]


@needs_optuna
def test_what_a_study_draws_is_what_the_space_says(tmp_path, places):
    """Broken: whole numbers would become fractions, or steps, ranges and choices be left."""
    from ddfw_plugins.commands.sweep.study import preview

    trials = preview(written(tmp_path, SPACE.replace("trials = 4", "trials = 30\nsampler = 'random'")), places)
    assert len(trials) == 30
    for one in trials:
        drawn = one.parameters
        assert 1e-3 <= drawn["outer.step_size"] <= 0.1
        assert type(drawn["outer.syn_steps"]) is int and one.config.outer.syn_steps == drawn["outer.syn_steps"]
        assert drawn["labels"] in ("hard", {"name": "soft", "lr": 2.0})
        assert one.config.labels.name == ("hard" if drawn["labels"] == "hard" else "soft")
    assert {one.parameters["outer.syn_steps"] for one in trials} == {1, 3, 5}
    assert len({one.config.labels.name for one in trials}) == 2
    assert sum(one.parameters["outer.step_size"] < 0.01 for one in trials) > 5  # log: about a half of them
    other = preview(written(tmp_path, SPACE.replace("trials = 4", "trials = 4\nseed = 1")), places)
    assert other[0].parameters != trials[0].parameters


@pytest.fixture
def played(monkeypatch):
    """Trials that cost nothing: their accuracy is a function of the step size; `played.limit` interrupts."""

    class Played(dict):
        limit = math.inf

    done = Played()

    def run_trial(payload):
        if len(done) >= done.limit:
            raise KeyboardInterrupt
        size = payload["config"]["outer"]["step_size"]
        if 0.05 < size < 0.06:
            outcome = sweeps._without_figures("diverged", "far too large")
        else:
            figures = {"validation_accuracy": 1 / (1 + abs(math.log(size / 0.02))), "selected_step": 1}
            outcome = {"status": "finished", **figures, "seconds": 0.0, "test": {}}
            outcome["test"] = {"mean": 0.5, "std": 0.1, "n": 2, "used_for_choosing": False}
        done[payload["out"]] = outcome
        return outcome

    real = sweeps.ended
    monkeypatch.setattr(sweeps, "run_trial", run_trial)
    monkeypatch.setattr(sweeps, "ended", lambda t: real(t) if t.config is None else done.get(str(t.directory)))
    monkeypatch.setattr("ddfw.fits", lambda config, root: None)  # the data need not be loaded so often
    return done


LONG = SPACE.replace("trials = 4", "trials = 25\nseed = 3")


@needs_optuna
def test_a_study_that_learns_goes_on_as_if_it_had_not_been_interrupted(tmp_path, places, played):
    """Broken: from the eleventh trial on, an interrupted study would draw from another history than a whole one."""
    sweep = written(tmp_path, LONG)
    _, whole = sweeps.run(sweep, Places(out=tmp_path / "whole", experts=places.experts))
    played.clear()
    for played.limit in (3, 12, 13, 21, math.inf):
        try:
            _, parts = sweeps.run(sweep, places)
        except KeyboardInterrupt:
            continue
    assert without_times(parts) == without_times(whole)
    assert {t["status"] for t in whole["trials"]} >= {"finished"}
    sizes = [t["parameters"]["outer.step_size"] for t in whole["trials"]]
    near = [abs(math.log(size / 0.02)) for size in sizes]
    assert sum(near[12:]) / 13 < sum(near[:10]) / 10  # it learned where the good ones are


@needs_optuna
def test_a_study_asks_for_several_trials_at_a_time(tmp_path, places, played, elsewhere):
    """Broken: other machines would wait for one another, or more trials be run than the file says."""
    _, record = sweeps.run(written(tmp_path, LONG), places, on="there", workers=4)
    assert elsewhere.sizes == [4] * 6 + [1] and len(record["trials"]) == len(played) == 25
    assert len({json.dumps(t["parameters"]) for t in record["trials"]}) == 25


@needs_optuna
def test_a_combination_that_cannot_be_is_a_failed_trial_of_a_study(tmp_path, places, runs):
    """Broken: a space in which not everything goes together would end at the first such trial."""
    text = SPACE.replace("[space]", '[space]\nparam = {values = ["pixel", {name = "lss", rank = 8}]}')
    text = text.replace('"hard", {', "{").replace("trials = 4", "trials = 7")
    _, record = sweeps.run(written(tmp_path, text), places, quiet=True)
    same_schema(record)
    status = {json.dumps(t["parameters"]["param"]): t["status"] for t in record["trials"]}
    assert status == {'"pixel"': "finished", '{"name": "lss", "rank": 8}': "impossible"}
    impossible = [t for t in record["trials"] if t["status"] == "impossible"]
    assert all("ipc" in t["reason"] and not (places.out / t["directory"]).exists() for t in impossible)
    assert len(runs) == 7 - len(impossible)
    assert sweeps.run(written(tmp_path, text), places, quiet=True)[1] == record


@needs_optuna
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("outer.syn_steps", "outer.syn_stpes", ["outer.syn_stpes: ", "Did you mean 'syn_steps'?"]),
        ('["hard", ', '["hrad", ', ["space.labels: hrad is impossible", "Did you mean 'hard'?"]),
        ("low = 1, high = 5", "low = -1, high = 5", ["space.outer.syn_steps: -1 is impossible", ">= 1"]),
        ("low = 1, high = 5, step = 2", "low = 1.0, high = 5.0", ["outer.syn_steps", "1.0"]),
    ],
)
def test_a_value_that_never_works_is_refused_before_a_study_starts(tmp_path, places, runs, old, new, said):
    """Broken: a slip in a space would be a study of failed trials."""
    text = SPACE.replace(old, new)
    assert text != SPACE
    with pytest.raises(ConfigError) as refused:
        sweeps.run(written(tmp_path, text), places)
    for part in said:
        assert part in str(refused.value)
    assert not runs and not places.out.exists()


@needs_optuna
def test_a_folder_of_another_study_is_refused(tmp_path, places, played):
    """Broken: after an edit, a study would learn from trials of another space."""
    sweeps.run(written(tmp_path, SPACE), places)
    for old, new in (("high = 0.1", "high = 0.2"), ("trials = 4", "trials = 4\nseed = 1")):
        with pytest.raises(DirectoryInUseError, match=r"another \[space\], seed or sampler"):
            sweeps.run(written(tmp_path, SPACE.replace(old, new)), places)


@needs_optuna
def test_optuna_says_nothing_and_gets_its_voice_back(tmp_path, places, played, capfd):
    """Broken: its lines would stand between ours, or a program that uses optuna itself would go silent."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    sweeps.run(written(tmp_path, SPACE), places)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    said = capfd.readouterr()
    assert said.out == said.err == ""


def test_two_sweeps_at_a_time_do_not_share_a_folder(tmp_path, places):
    """Broken: two processes would run the same trials and overwrite each other's table."""
    from ddfw.artifacts import atomic

    places.out.mkdir()
    with (
        atomic.locked(places.out, "the sweep's folder", wait=False),
        pytest.raises(DirectoryInUseError, match="the sweep's folder"),
    ):
        sweeps.run(written(tmp_path, GRID), places)
