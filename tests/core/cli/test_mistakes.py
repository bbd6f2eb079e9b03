"""Mistakes that people make: each ends with its exit code, and its answer names the way out in one to six lines.

One table; a row is a command, its exit code, and what the answer has to hold. The files that it names are made here.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

#: What makes a run small; the tests of notes need one that is possible.
SMALL = (
    "--set model.depth=2 --set model.width=4 --set experts.count=2 --set outer.steps=3 --set outer.syn_steps=3 "
    "--set eval.networks=2 --set eval.epochs=3 --set eval.full_epochs=1 --set executor.threads=1"
)

#: Files that the commands name.
TEXTS = {
    "syntax.toml": '[param]\nname = "lss"\nrank = = 3\n',
    "option.toml": '[param]\nname = "lss"\nrnak = 3\n',
    "table.toml": '[parm]\nname = "lss"\n',
    "name.toml": '[param]\nname = "lls"\n',
    "value.toml": '[param]\nname = "lss"\nranks = [1, "a"]\n[outer]\nsteps = -5\n',
    "other.toml": '[param]\nname = "pixel"\nrank = 3\n',
    "pathless.toml": '[data]\nname = "npz"\n',
    "deep.toml": '[model]\nname = "convnet"\ndepth = 5\n',
    "sweep-syntax.toml": "[grid\n",
    "sweep-key.toml": '[sweep]\nrecepi = "digits"\n[grid]\n"outer.steps" = [1]\n',
    "sweep-base.toml": '[base.param]\nname = "lss"\nrnak = 3\n[grid]\n"outer.steps" = [1, 2]\n',
    "sweep-axis.toml": '[grid]\n"outer.stpes" = [1, 2]\n',
    "sweep-fit.toml": '[base.model]\nname = "convnet"\ndepth = 5\n[grid]\n"outer.steps" = [1]\n',
    "compare-key.toml": '[comparison]\nsedes = [0]\n[variants.a]\nparam = "lss"\n',
    "compare-base.toml": '[comparison]\nseeds = [0]\n[base.outer]\nstpes = 3\n[variants.a]\nparam = "lss"\n',
    "compare-variant.toml": '[comparison]\nseeds = [0]\n[variants.a.param]\nname = "pixel"\nrank = 3\n',
    "full/notes.txt": "not a run",
    "a-file": "",
}

MISTAKES: list[tuple[str, int, tuple[str, ...]]] = [
    # flags, options and tables that do not exist
    ("run --parm lss", 2, ("--param",)),
    ("run --param lls", 2, ("'lss'",)),
    ("run --set param.rnak=3", 2, ("param.rnak", "'rank'")),
    ("run --set param.rank=three", 2, ("param.rank", "an integer", "'three'")),
    ("run --set param.rank=2.5", 2, ("param.rank", "an integer", "2.5")),
    ("run --set param.rank=-2", 2, ("param.rank", ">= 1", "-2")),
    ("run --set rank=3", 2, ("'param.rank'",)),
    ("run --set rnak=3", 2, ("'param.rank'",)),
    ("run --set seed=5", 2, ("'run.seed'", "--seed")),
    ("run --set ipc=5", 2, ("'budget.ipc'", "--ipc")),
    ("run --set init_from=x", 2, ("'outer.init_from'", "--init-from")),
    ("run --set steps=5", 2, ("'outer.steps'",)),
    ("run --set experts.steps=5", 2, ("experts.steps", "'outer.steps'")),
    ("run --set lr=5", 2, ("'experts.lr'", "'param.lr'")),
    ("run --set path=x.npz", 2, ("data = imagefolder", "data = npz")),
    ("run --set parm.rank=3", 2, ("'param'",)),
    ("run --set lss.rank=3", 2, ("lss is a parameterisation", "'param'")),
    ("run --set progress.every_s=3", 2, ("progress is an observer", "'observers.progress'")),
    ("run --set every_s=3", 2, ("'observers.progress.every_s'",)),
    ("run --set param.rank", 2, ("key.path=value",)),
    ("run --param pixel --set param.rank=3", 2, ("param.rank", "'rank'", "belongs to lss")),
    ("run --param pixel --set param.rnak=3", 2, ("param.rnak", "'rank' of lss")),
    ("run --traj mtt --set traj.waypoints=official", 2, ("traj.waypoints", "belongs to mct")),
    ("run --set data.path=x.npz", 2, ("data.path", "belongs to imagefolder and npz")),
    # values that are impossible
    ("run --ipc 0", 2, ("x>=1",)),
    (
        "run --param lss --labels soft --set param.rank=8 --set param.subspaces=5",
        2,
        ("740", "640", "What would fit", "budget.ipc >= 2", "param.rank <= "),
    ),
    ("run --set outer.steps=-5", 2, ("outer.steps", ">= 0", "-5")),
    ("run --set model.depth=5", 2, ("model.depth", "8×8", "at most 3")),
    ("run --set window.max_start=99", 2, ("window.max_start", "<= 19", "20 epochs")),
    ("run --traj mtt --set traj.expert_epochs=50", 2, ("traj", "20 epochs", "experts.epochs", "shorten the segments")),
    ("run --seeds a,b", 2, ("--seeds", "0,1,2")),
    ("run --seed 1 --seeds 1,2", 2, ("--seed", "--seeds", "exclude")),
    ("run --max-time 5x", 2, ("--max-time", "30m", "'5x'")),
    ("run --executor cuda", 2, ("executor cpu",)),
    ("run --model resnet", 2, ("'resnet18'",)),
    ("run --set 'eval.baselines=[\"random\"]'", 2, ("'random_real'", "herding_real", "full_data")),
    ("run --set 'data.classes=[\"cat\"]'", 2, ("data.classes", "'cat'", "Known: 0, 1, 2")),
    # data
    ("run --data cifar10", 4, ("cifar-10-batches-py", "--data-root")),
    ("run --data cifar10 --data-root full", 4, ("full/cifar-10-batches-py", "--download", "https://")),
    ("run --data npz", 2, ("data.path", "the file", "--set data.path=")),
    ("run --data imagefolder", 2, ("data.path", "the folder", "--set data.path=")),
    ("run --data npz --set data.path=none.npz", 4, ("none.npz", "data.path")),
    ("run --data npz --set data.path=names.npz", 4, ("names.npz", "train_images", "x_train", "it holds a, b")),
    ("run --data npz --set data.path=from-1.npz", 4, ("from-1.npz", "1 … 3", "count from 0", "labels - 1")),
    ("run --data npz --set data.path=from-5.npz", 4, ("from-5.npz", "5 … 7", "labels - 5")),
    ("run --data npz --set data.path=mixed.npz", 4, ("mixed.npz", "uint8", "float64", "max_value")),
    # files
    ("run syntax.toml", 2, ("syntax.toml", "line 3", "column 8")),
    ("run option.toml", 2, ("option.toml: param.rnak", "'rank'")),
    ("run table.toml", 2, ("table.toml: parm", "'param'")),
    ("run name.toml", 2, ("name.toml: param", "'lss'")),
    ("run value.toml", 2, ("value.toml: param.ranks[1]", "value.toml: outer.steps")),
    ("run other.toml", 2, ("other.toml: param.rank", "belongs to lss")),
    ("run pathless.toml", 2, ("pathless.toml: data.path", "missing")),
    ("run deep.toml", 2, ("deep.toml: model.depth", "at most 3")),
    ("run option.toml --set param.rnak=4", 2, ("error: param.rnak", "'rank'")),
    ("run lss-mct-cifar10", 2, ("'lss-mct-cifar10-ipc1'",)),
    ("run none.toml", 2, ("none.toml", "no such file")),
    ("run full", 2, ("full", "is a folder", "full/config.toml")),
    ("run good.npz", 2, ("good.npz", "not a readable TOML file", "no text")),
    ("sweep full", 2, ("full", "is a folder", "expected a TOML file")),
    ("sweep sweep-syntax.toml", 2, ("sweep-syntax.toml", "line 1")),
    ("sweep sweep-key.toml", 2, ("sweep-key.toml: sweep.recepi", "'recipe'")),
    ("sweep sweep-base.toml", 2, ("sweep-base.toml: param.rnak", "'rank'")),
    ("sweep sweep-axis.toml", 2, ("sweep-axis.toml: outer.stpes", "'steps'")),
    ("sweep sweep-fit.toml", 2, ("sweep-fit.toml: model.depth", "at most 3")),
    ("compare compare-key.toml", 2, ("compare-key.toml: comparison.sedes", "'seeds'")),
    ("compare compare-base.toml", 2, ("compare-base.toml: base.outer.stpes", "'steps'")),
    ("compare compare-variant.toml", 2, ("compare-variant.toml: variants.a.param.rank", "belongs to lss")),
    # places
    ("run --out full", 1, ("full", "not a run of ddfw", "another --out")),
    ("run --out a-file", 1, ("a-file", "is a file", "another --out")),
    ("run --out /proc/x", 74, ("/proc/x", "no folder can be made there", "--out")),
    ("run --out a-file/x", 74, ("a-file/x", "Not a directory", "--out")),
    ("run --init-from nothing.pt", 4, ("nothing.pt", "does not exist", "--init-from")),
    ("run --set outer.init_from=nothing", 4, ("nothing", "does not exist", "--init-from")),
    ("eval runs/none", 4, ("runs/none", "expected a run directory", "an export")),
    ("export runs/none --format npz", 4, ("runs/none", "expected a run directory")),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands name."""
    place = tmp_path_factory.mktemp("mistakes")
    for name, text in TEXTS.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for n in (30, 9))
    for name, first, shown in (("good", 0, test), ("from-1", 1, test), ("from-5", 5, test), ("mixed", 0, test / 255)):
        labels = {"y_train": np.arange(30) % 3 + first, "y_test": np.arange(9) % 3 + first}
        np.savez(place / f"{name}.npz", x_train=train, x_test=shown, **labels)
    np.savez(place / "names.npz", a=train, b=test)
    return place


@pytest.fixture(autouse=True)
def among_files(alone, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run where their files are, on a machine without a GPU."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("command", "code", "words"), MISTAKES, ids=[command for command, *_ in MISTAKES])
def test_a_mistake_is_answered_with_the_way_out(ddfw: Callable, command: str, code: int, words: tuple[str, ...]):
    """Broken: whoever makes this mistake is left alone; or a dry run promises what the run refuses."""
    arguments = shlex.split(command)
    said = ddfw(*arguments).refused(code, *words)
    if arguments[0] == "run":
        assert ddfw(*arguments, "--dry-run").refused(code).endswith(said)


#: Settings of which something is cut, and figures that mean little: what is said, and nothing is refused.
NOTES = [
    (
        "--param pixel --traj mct --set traj.expert_epochs=50 --set experts.epochs=20",
        ("50", "20 epochs", "all targets are cut"),
    ),
    (
        "--param pixel --traj mct --set traj.expert_epochs=15 --set experts.epochs=20 --set window.max_start=8",
        ("traj.expert_epochs is 15", "after epoch 5", "cut to the last epoch, 20"),
    ),
    (
        "--param pixel --labels hard --ipc 2 --set outer.batch_syn=1000",
        ("outer.batch_syn is 1000", "20 images", "all of them"),
    ),
    (
        "--data npz --set data.path=good.npz --ipc 3",
        ("validation split has 3 images", "33.3 points", "data.validation", "test split has 9 images", "16.7 points"),
    ),
]


@pytest.mark.parametrize(("flags", "words"), NOTES, ids=[flags for flags, _ in NOTES])
def test_what_is_cut_or_worth_little_is_said_before_anything_runs(ddfw: Callable, flags: str, words: tuple[str, ...]):
    """Broken: a run silently does something else than its settings say, or nine images pass for a measurement."""
    arguments = ("run", "default", *shlex.split(flags), *shlex.split(SMALL), "--dry-run")
    said = ddfw(*arguments)
    assert said.code == 0, said.err
    notes, _, _ = said.err.partition("measuring")  # they stand before everything that takes time
    assert all(word in notes for word in words), said.err
    assert all(any(word in note for note in ddfw(*arguments, "--json").events[0]["notes"]) for word in words)


def test_an_ordinary_run_has_nothing_to_be_noted(ddfw: Callable):
    """Broken: notes on every run, which nobody reads any more."""
    said = ddfw("run", "--dry-run", "--param", "lss", "--traj", "mct")
    assert said.code == 0 and "note" not in said.err


def test_a_run_that_kept_its_initial_set_names_three_things_to_try(ddfw: Callable, tiny: list[str], tmp_path: Path):
    """Broken: whoever learned nothing hears that it is so, and not what may help."""
    still = ("--set=param.lr=0", "--set=labels.lr=0", "--set=outer.step_size_lr=0")
    said = ddfw(*tiny, *still, "-q", "--out", tmp_path / "run", "--experts-dir", tmp_path / "experts")
    assert said.code == 0 and "step 0 was selected" in said.out
    advice = said.out.partition("Worth a try:")[2].splitlines()[1:4]
    for line, setting in zip(advice, ("param.lr", "experts.count", "eval.select_networks"), strict=True):
        assert setting in line


def test_a_directory_with_another_configuration_names_what_differs_and_the_ways_out(ddfw: Callable, finished):
    """Broken: people would compare two files by eye, or remove a run that they need."""
    arguments = [*finished.arguments, "-q"]
    other = ddfw(*arguments, "--seed", "1", "--set", "outer.syn_steps=4").refused(1, "run.seed: 0 there, 1 asked for")
    assert "outer.syn_steps: 3 there, 4 asked for" in other and "another --out" in other and "--init-from" in other
    assert "ddfw extend" not in other
    longer = ddfw(*arguments, "--set", "outer.steps=9").refused(1, "outer.steps: 3 there, 9 asked for")
    assert f"`ddfw extend {finished.out} --steps 9`" in longer
    assert ddfw(*arguments, "--set", "outer.steps=9", "--dry-run").refused(1).endswith(longer)


@pytest.mark.parametrize("arguments", ["describe lss", "describe param", "describe param lss", "list param"])
def test_what_is_described_is_found_by_a_name_or_a_kind(ddfw: Callable, arguments: str):
    """Broken: whoever leaves out the kind, or wants to see all of it, is sent away."""
    said = ddfw(*shlex.split(arguments))
    assert said.code == 0 and "lss" in said.out and "low-rank" in said.out


def test_runs_given_to_compare_belong_to_diff(ddfw: Callable, finished):
    """Broken: the nearest word for comparing two runs leads nowhere."""
    ddfw("compare", finished.out, finished.out).refused(2, "ddfw diff")
    ddfw("compare", finished.out).refused(2, "ddfw diff")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("extend {run} --steps 3", 2, ("has made 3 outer steps", "ask for more")),
        ("extend {run} --steps 0", 2, ("--steps",)),
        ("extend nothing --steps 5", 4, ("nothing", "no run directory")),
        ("show {run} --step 77", 2, ("77",)),
        ("show {run} --class 99", 2, ("99",)),
        ("diff {run} nothing", 4, ("nothing", "run directory")),
        ("report nothing", 4, ("nothing", "run directory")),
        ("runs nothing", 4, ("nothing",)),
        ("new-plugin mine --kind los", 2, ("'loss'",)),
        ("cache lst", 2, ("list",)),
        ("run --plugin nothing.py", 3, ("nothing.py",)),
    ],
)
def test_a_mistake_with_runs_and_plugins_is_answered_too(ddfw: Callable, finished, command: str, code: int, words):
    """Broken: the newer commands would answer worse than the older ones."""
    ddfw(*shlex.split(command.format(run=finished.out))).refused(code, *words)
