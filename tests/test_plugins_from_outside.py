"""Plugins that are not ours: installed distributions, disabled built-ins, broken neighbours."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ddfw.cli.main import invoke

ROOT = Path(__file__).parents[1]

MODULE = '''
"""A third party's parameterisation and trajectory source."""
from __future__ import annotations
from typing import ClassVar, final
import torch
from attrs import frozen
from ddfw import AbstractParameterization, AbstractTrajectory, Layout, ParamGroup, Segment, hookimpl, option


@final
@frozen(kw_only=True)
class Mine(AbstractParameterization):
    """Images that are symmetric left and right."""

    name: ClassVar[str] = "mine"
    lr: float = option(10.0, help="learning rate")

    def layout(self, spec, budget, label_floats_per_image):
        """Twice as many images, since half of each is stored."""
        half = spec.channels * spec.height * (spec.width // 2)
        per_class = budget.floats(spec) // (spec.num_classes * (half + budget.label_price(label_floats_per_image)))
        count = spec.num_classes * per_class
        return Layout(spec=spec, budget=budget, images_per_class=per_class, samples_per_class=per_class,
                      parameter_floats=count * half, label_floats=count * label_floats_per_image)

    def init(self, layout, real, rng):
        """The left halves of real images."""
        images = real.images[real.pick(layout.samples_per_class, rng)]
        return {"left": images[..., : layout.spec.width // 2].clone()}

    def decode(self, params, index):
        """Left half and its mirror image."""
        left = params["left"][index]
        return torch.cat([left, left.flip(3)], dim=3)

    def param_groups(self, params):
        """One group."""
        return (ParamGroup(keys=("left",), lr=self.lr),)


@final
@frozen(kw_only=True)
class Line(AbstractTrajectory[list]):
    """Whole experts: from a drawn epoch to the end."""

    name: ClassVar[str] = "mine"

    def prepare(self, experts):
        """All checkpoints."""
        return [experts.snapshots(e, range(experts.num_epochs + 1)) for e in range(experts.num_experts)]

    def segment(self, trajectories, low, high, rng):
        """From a drawn epoch to the last."""
        expert = int(torch.randint(len(trajectories), (), generator=rng))
        epoch = int(low) + int(torch.randint(int(high - low), (), generator=rng))
        path = trajectories[expert]
        return Segment(start=path[epoch], target=path[-1], expert=expert, start_epoch=epoch, target_epoch=len(path) - 1)

    def stored_bytes(self, trajectories):
        """Everything."""
        return sum(t.numel() * t.element_size() for t in trajectories)


@hookimpl
def ddfw_register_parameterizations():
    return [Mine]


@hookimpl
def ddfw_register_trajectories():
    return [Line]
'''

TINY = (
    "model.depth=2 model.width=4 experts.count=2 experts.epochs=3 outer.steps=3 outer.syn_steps=3 eval.networks=2 "
    "eval.epochs=3 eval.full_epochs=1 eval.every=2 window.max_start=1 window.start=1"
)


def process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, where installed distributions are found as anywhere."""
    return subprocess.run(
        [sys.executable, "-m", "ddfw", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )


def forget(folder: Path) -> None:
    """Modules of this folder and what was found of plugins, as in a process that begins."""
    from ddfw.config import catalog, extensions
    from ddfw.config.recipes import recipes

    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}"):
            del sys.modules[name]
    for cached in (
        *(catalog.plugins, catalog.catalog, recipes),
        *(extensions.commands, extensions.formats, extensions.recipe_folders),
    ):
        cached.cache_clear()


@pytest.fixture
def ddfw(tmp_path, monkeypatch):
    """A command in this process and the test's folder, after which nothing of its plugins is left."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        forget(tmp_path)
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            for name, value in environment.items():
                patch.setenv(name, value)
            code = invoke(list(arguments))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    monkeypatch.chdir(tmp_path)
    yield call
    forget(tmp_path)


def tiny(*arguments: str) -> list[str]:
    return ["run", *arguments, *(a for s in TINY.split() for a in ("--set", s))]


def documented(mark: str) -> str:
    """The file that docs/plugins.md shows below a mark such as `command: image_counts.py`."""
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with an installed third-party distribution."""
    work = tmp_path_factory.mktemp("third-party")
    (work / "src").mkdir()
    (work / "src" / "symmetric_plugin.py").write_text(MODULE)
    (work / "src" / "image_counts.py").write_text(documented("command: image_counts.py"))
    (work / "src" / "half_recipes.py").write_text(documented("recipes: half_recipes.py"))
    (work / "src" / "half_recipes").mkdir()
    (work / "src" / "half_recipes" / "half-digits.toml").write_text(documented("recipe: half-digits.toml"))
    (work / "src" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "ddfw-symmetric"\nversion = "2.5"\n'
        '[project.entry-points."ddfw.plugins"]\nsymmetric = "symmetric_plugin"\n'
        'command-images = "image_counts"\nrecipes-half = "half_recipes"\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["*.py", "half_recipes/*.toml"]\n'
    )
    target = work / "site"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"),
            *("--target", str(target), str(work / "src")),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.extended
def test_an_installed_distribution_adds_a_parameterisation_and_a_trajectory_source(installed, ddfw, tmp_path):
    """Broken: third parties would have to touch this repository."""
    done = process(*tiny("--param", "mine", "--traj", "mine", "--json"), cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["summary"]["rows"][0]["subject"] == "distilled"
    config = (Path(tmp_path / last["directory"]) / "config.toml").read_text()
    assert re.search(r'\[param\]\nname = "mine"\nlr = 10.0', config)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(installed)
        listed = json.loads(ddfw("list", "param", "--json").stdout)
        forget(installed)
    mine = next(row for row in listed if row["name"] == "mine")
    assert (mine["distribution"], mine["version"], mine["plugin"]) == (
        "ddfw-symmetric",
        "2.5",
        "ddfw-symmetric:symmetric",
    )
    gone = ddfw("run", "--param", "mine", "--dry-run")
    assert gone.returncode == 2 and "unknown parameterisation 'mine'" in gone.stderr


@pytest.mark.extended
def test_an_installed_distribution_adds_a_command(installed, tmp_path):
    """Broken: a third party's command would have to be part of this repository, or the documented one does not work."""
    outside = {"PYTHONPATH": str(installed)}
    listed = process("--help", cwd=tmp_path, **outside)
    assert re.search(r"images +How many images the budget buys", listed.stdout)
    settings = ("--set", "labels=hard", "--set", "budget.ipc=2")
    done = process("images", "pixel", *settings, "--json", cwd=tmp_path, **outside)
    assert done.returncode == 0, done.stderr
    # Two 8×8 images of each of ten classes; hard labels cost nothing.
    assert json.loads(done.stdout) == [{"param": "pixel", "images": 20, "floats": 20 * 8 * 8}]
    wrong = process("images", "pixle", cwd=tmp_path, **outside)
    assert wrong.returncode == 2 and "Did you mean 'pixel'?" in wrong.stderr
    gone = process("images", "pixel", cwd=tmp_path, **outside, DDFW_DISABLE_PLUGINS="ddfw-symmetric:command-images")
    assert gone.returncode == 2 and "No such command 'images'" in gone.stderr


@pytest.mark.extended
def test_an_installed_distribution_adds_a_recipe(installed, tmp_path):
    """Broken: settings of a third party would have to be part of this repository."""
    outside = {"PYTHONPATH": str(installed)}
    listed = process("list", "recipes", "--json", cwd=tmp_path, **outside)
    assert ("ddfw-symmetric", "recipes: 1, comparisons: 0") in [
        (row["name"], row["summary"]) for row in json.loads(listed.stdout)
    ]
    chosen = process("run", "--param", "pixel", "--ipc", "3", "--print-config", cwd=tmp_path, **outside)
    assert chosen.returncode == 0, chosen.stderr
    assert 'recipe = "half-digits"' in chosen.stdout and "lr = 7.5  # recipe half-digits" in chosen.stdout
    named = process("run", "half-digits", "--print-config", cwd=tmp_path, **outside)
    assert "lr = 7.5  # recipe half-digits" in named.stdout


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"default.toml": '[recipe]\nsummary = "s"\nsource = "o"\n'}, "has the same name"),
        (
            {"mine.toml": '[recipe]\nsummary = "s"\nsource = "o"\nselects = {data = "digits"}\n'},
            "recipe 'digits' selects the same",
        ),
        ({"mine.toml": '[recipe]\nsummary = "s"\n'}, "it lacks 'source'"),
        ({"mine.toml": "[recipe"}, "not a readable TOML file"),
        (
            {"mine.toml": '[recipe]\nsummary = "s"\nsource = "o"\nextends = "nobody"\n'},
            "it extends 'nobody', which is no other recipe",
        ),
    ],
    ids=["name", "selection", "no source", "no TOML", "no base"],
)
def test_a_recipe_that_cannot_stand_beside_ours_is_refused_with_the_way_out(ddfw, tmp_path, files, reason):
    """Broken: which of two recipes a run gets would depend on the order in which plugins are found."""
    (tmp_path / "folder").mkdir()
    for name, text in files.items():
        (tmp_path / "folder" / name).write_text(text)
    (tmp_path / "theirs.py").write_text(
        "from pathlib import Path\nfrom ddfw import hookimpl\n\n\n@hookimpl\ndef ddfw_register_recipes():\n"
        "    return [Path(__file__).parent / 'folder']\n"
    )
    done = ddfw("recipes", "list", DDFW_PLUGINS=str(tmp_path / "theirs.py"))
    assert done.returncode == 3 and reason in done.stderr
    assert "DDFW_DISABLE_PLUGINS=local:theirs leaves it out" in done.stderr
    left_out = {"DDFW_PLUGINS": str(tmp_path / "theirs.py"), "DDFW_DISABLE_PLUGINS": "local:theirs"}
    assert ddfw("recipes", "list", **left_out).returncode == 0


@pytest.mark.extended
def test_a_plugin_for_a_newer_ddfw_is_refused_and_an_older_one_is_not(ddfw, tmp_path):
    """Broken: a plugin would fail in the middle of a run, or every plugin would have to be released anew."""
    for api, works in ((1, True), (2, True), (3, False)):
        path = tmp_path / f"api{api}.py"
        path.write_text(f"DDFW_HOOK_API = {api}\n{MODULE}".replace("from __future__ import annotations\n", ""))
        rows = json.loads(ddfw("plugins", "--json", DDFW_PLUGINS=str(path)).stdout)
        (row,) = [row for row in rows if row["distribution"] == "local"]
        assert (row["status"] == "ok") == works, row
        assert works or "it needs hook API 3, this ddfw has 2" in row["error"]


@pytest.mark.extended
def test_without_the_sweep_command_everything_else_works(tmp_path):
    """Broken: core or another command needs a command that is only a plugin."""
    (tmp_path / "two.toml").write_text(
        '[comparison]\nseeds = [0]\n[base]\ndata = "digits"\nlabels = "hard"\n[variants.one]\nparam = "pixel"\n'
    )
    without = {"DDFW_DISABLE_PLUGINS": "ddfw:command-sweep"}
    listed = process("--help", cwd=tmp_path, **without).stdout
    assert "\n  compare " in listed and "\n  bench " in listed and "\n  sweep " not in listed
    assert "\n  sweep " in process("--help", cwd=tmp_path).stdout
    gone = process("sweep", "two.toml", cwd=tmp_path, **without)
    assert gone.returncode == 2 and "No such command 'sweep'" in gone.stderr
    compared = process("compare", "two.toml", "--dry-run", "--json", cwd=tmp_path, **without)
    assert compared.returncode == 0 and [row["variant"] for row in json.loads(compared.stdout)] == ["one"]
    done = process(*tiny("--param", "pixel", "--traj", "mtt", "--labels", "hard", "-q"), cwd=tmp_path, **without)
    assert done.returncode == 0 and "distilled" in done.stdout, done.stderr


BRIEF = ("outer.steps=1", "eval.epochs=1", "eval.select_networks=1", "eval.baselines=[]")
USED = set(
    [
        "param-lss",
        "traj-mct",
        "loss-ratio",
        "labels-hard",
        "data-digits",
        "model-convnet",
        "augment-dsa",
        "executor-cpu",
    ]
)


@pytest.mark.extended
def test_disabling_any_built_in_leaves_the_rest_working(ddfw):
    """Broken: some part of the program needs a plugin that the run does not use."""
    from ddfw.config import catalog

    names = [p.name for p in catalog.plugins().plugins if p.distribution == "ddfw"]
    assert set(names) > USED and len(names) > 12
    run = [*tiny("--param", "lss", "--traj", "mct", "-q"), "--set=param.rank=4", *(f"--set={s}" for s in BRIEF)]
    for name in names:
        disabled = {"DDFW_DISABLE_PLUGINS": f"ddfw:{name}"}
        kind, _, component = name.partition("-")
        done = ddfw("list", "--json", **disabled)
        listed = {(row["kind"], row["name"]) for row in json.loads(done.stdout)}
        assert done.returncode == 0 and (kind, component) not in listed and len(listed) == len(names) - 1
        done = ddfw(*run, "--out", name, **disabled)
        if kind == "recipes":
            assert done.returncode == 3 and "ships the recipe 'default'" in done.stderr
        elif name in USED:
            assert done.returncode == 2 and component in done.stderr and kind in done.stderr
            assert f"note: ddfw:{name} is disabled" in done.stderr
        else:
            assert done.returncode == 0 and "distilled" in done.stdout, done.stderr


def test_without_the_recipes_every_component_has_to_be_named(ddfw):
    """Broken: ddfw would need our own settings, or fail without a way out."""
    components = {"data": "digits", "param": "pixel", "traj": "mtt", "loss": "ratio", "labels": "hard"}
    components |= {"model": "convnet", "augment": "none", "executor": "cpu"}
    flags = [word for kind, name in components.items() for word in (f"--{kind}", name)]
    done = ddfw("run", *flags[:-2], "--print-config", DDFW_DISABLE_PLUGINS="recipes-ddfw")
    assert done.returncode == 3 and "has to be named; missing: executor" in done.stderr
    done = ddfw("run", *flags, "--print-config", DDFW_DISABLE_PLUGINS="recipes-ddfw")
    assert done.returncode == 0 and 'name = "pixel"' in done.stdout


@pytest.mark.extended
def test_a_broken_neighbour_is_named_and_harms_nobody(ddfw, tmp_path):
    """Broken: one plugin that cannot be imported would end the program."""
    (tmp_path / "broken.py").write_text("raise RuntimeError('no such accelerator')\n")
    (tmp_path / "fine.py").write_text(MODULE)
    both = {"DDFW_PLUGINS": "./broken.py,./fine.py"}
    done = ddfw("plugins", "--json", **both)
    status = {row["identity"]: (row["status"], row["error"]) for row in json.loads(done.stdout)}
    assert status["local:fine"][0] == "ok"
    assert status["local:broken"] == ("failed", "RuntimeError: no such accelerator")
    done = ddfw("run", "--param", "mine", "--dry-run", **both)
    assert done.returncode == 0 and "digits · convnet · mine" in done.stdout


@pytest.mark.extended
def test_a_plugin_that_was_edited_is_another_plugin(ddfw, tmp_path):
    """Broken: a second try at an idea would be answered with the first one's table, or trained on its experts."""
    (tmp_path / "fine.py").write_text(MODULE)
    command = [*tiny("--param", "mine", "-q"), "--out", "run"]
    assert ddfw(*command, DDFW_PLUGINS="./fine.py").returncode == 0
    assert "nothing to do" in ddfw(*command, DDFW_PLUGINS="./fine.py").stderr
    (tmp_path / "fine.py").write_text(MODULE + "\n# another idea\n")
    done = ddfw(*command, DDFW_PLUGINS="./fine.py")
    assert done.returncode == 1 and "other code of its plugins" in done.stderr


@pytest.mark.parametrize("method", ["decode", "segment"])
def test_a_fault_inside_a_plugin_is_reported_as_the_plugins(ddfw, tmp_path, method):
    """Broken: a third party's bug would be called ours, or the run would end without a last report."""
    broken = MODULE.replace(
        f"def {method}(self, ",
        f"def {method}(self, *rest):\n        return rest.nothing\n\n    def old_{method}(self, ",
    )
    (tmp_path / "faulty.py").write_text(broken)
    done = ddfw(*tiny("--param", "mine", "--traj", "mine", "--json"), DDFW_PLUGINS="./faulty.py")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    kind = "param" if method == "decode" else "traj"
    assert f"plugin local:faulty ({kind} mine) failed in {method}: AttributeError" in done.stderr, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["status"]) == ("run_finished", "failed")


def test_a_name_that_two_plugins_offer_is_refused_with_both_owners(ddfw, tmp_path):
    """Broken: one of two plugins would silently win."""
    (tmp_path / "fine.py").write_text(MODULE)
    (tmp_path / "twin.py").write_text(MODULE)
    done = ddfw("run", "--param", "mine", "--dry-run", DDFW_PLUGINS="./fine.py,./twin.py")
    assert done.returncode == 3
    assert "local:fine" in done.stderr and "local:twin" in done.stderr and "DDFW_DISABLE_PLUGINS" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("count * half,", "count,", "but the layout announced"),
        ("torch.cat([left, left.flip(3)], dim=3)", "left", "its layout says"),
        ("start_epoch=epoch,", "start_epoch=epoch + 99,", "the window is [0, 1)"),
        ("target=path[-1],", "target=path[-1][1:],", "and target"),
        ('keys=("left",)', 'keys=("left", "rihgt")', "param_groups names 'rihgt'"),
    ],
    ids=["understates its floats", "decodes to another shape", "leaves the window", "another target", "a group's typo"],
)
def test_a_plugin_that_breaks_its_word_is_refused_before_anything_is_learned(ddfw, tmp_path, old, new, words):
    """Broken: a wrong count or shape would be found after hours, or never."""
    assert old in MODULE
    (tmp_path / "wrong.py").write_text(MODULE.replace(old, new))
    done = ddfw(*tiny("--param", "mine", "--traj", "mine", "-q"), DDFW_PLUGINS="./wrong.py")
    assert done.returncode == 3 and words in done.stderr and "Traceback" not in done.stderr


def test_the_plugin_of_the_readme_works_when_pasted_and_passes_its_check(ddfw, tmp_path, monkeypatch):
    """Broken: the first thing a plugin author tries. Those of docs/plugins.md have tests of their own."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- plugin: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL)
    command = re.search(r"ddfw (run --plugin .*)", text)
    assert block and command, "README.md has lost its plugin"
    assert len([line for line in block[2].splitlines() if line.strip()]) <= 15
    (tmp_path / block[1]).write_text(block[2])
    done = ddfw(*tiny(*command[1].split()[1:], "-q"))
    assert done.returncode == 0, done.stderr
    assert "distilled" in done.stdout
    assert "check_loss(L1())" in text
    code = f"from ddfw.testing import check_loss\nfrom {Path(block[1]).stem} import *\ncheck_loss(L1())\n"
    (tmp_path / "try_it.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path(str(tmp_path / "try_it.py"))
