"""Plugins that are not ours: installed distributions, disabled built-ins, broken neighbours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def ddfw(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ddfw", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )


def tiny(*arguments: str) -> list[str]:
    return ["run", *arguments, *(a for s in TINY.split() for a in ("--set", s))]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with an installed third-party distribution."""
    work = tmp_path_factory.mktemp("third-party")
    (work / "src").mkdir()
    (work / "src" / "symmetric_plugin.py").write_text(MODULE)
    (work / "src" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "ddfw-symmetric"\nversion = "2.5"\n'
        '[project.entry-points."ddfw.plugins"]\nsymmetric = "symmetric_plugin"\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["symmetric_plugin.py"]\n'
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


def test_an_installed_distribution_adds_a_parameterisation_and_a_trajectory_source(installed, tmp_path):
    """Broken: third parties would have to touch this repository."""
    done = ddfw(*tiny("--param", "mine", "--traj", "mine", "--json"), cwd=tmp_path, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["summary"]["rows"][0]["subject"] == "distilled"
    config = (Path(tmp_path / last["directory"]) / "config.toml").read_text()
    assert re.search(r'\[param\]\nname = "mine"\nlr = 10.0', config)
    listed = json.loads(ddfw("list", "param", "--json", cwd=tmp_path, PYTHONPATH=str(installed)).stdout)
    mine = next(row for row in listed if row["name"] == "mine")
    assert (mine["distribution"], mine["version"], mine["plugin"]) == (
        "ddfw-symmetric",
        "2.5",
        "ddfw-symmetric:symmetric",
    )
    gone = ddfw("run", "--param", "mine", "--dry-run", cwd=tmp_path)
    assert gone.returncode == 2 and "unknown parameterisation 'mine'" in gone.stderr


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


def test_disabling_any_built_in_leaves_the_rest_working(tmp_path, monkeypatch, capsys):
    """Broken: some part of the program needs a plugin that the run does not use."""
    from ddfw.cli.main import invoke
    from ddfw.config import catalog

    monkeypatch.chdir(tmp_path)
    names = [p.name for p in catalog.plugins().plugins if p.distribution == "ddfw"]
    assert set(names) > USED and len(names) > 12
    run = tiny("--param", "lss", "--traj", "mct", "--set", "param.rank=4", "-q")
    try:
        for name in names:
            monkeypatch.setenv("DDFW_DISABLE_PLUGINS", f"ddfw:{name}")
            for cached in (catalog.plugins, catalog.catalog):
                cached.cache_clear()
            kind, _, component = name.partition("-")
            assert invoke(["list", "--json"]) == 0
            listed = {(row["kind"], row["name"]) for row in json.loads(capsys.readouterr().out)}
            assert (kind, component) not in listed and len(listed) == len(names) - 1
            code = invoke([*run, "--out", name])
            shown = capsys.readouterr()
            if name in USED:
                assert code == 2 and component in shown.err and kind in shown.err
                assert f"note: ddfw:{name} is disabled" in shown.err
            else:
                assert code == 0 and "distilled" in shown.out, shown.err
    finally:
        monkeypatch.undo()
        for cached in (catalog.plugins, catalog.catalog):
            cached.cache_clear()


def test_a_broken_neighbour_is_named_and_harms_nobody(tmp_path):
    """Broken: one plugin that cannot be imported would end the program."""
    (tmp_path / "broken.py").write_text("raise RuntimeError('no such accelerator')\n")
    (tmp_path / "fine.py").write_text(MODULE)
    both = {"DDFW_PLUGINS": "./broken.py,./fine.py"}
    done = ddfw("plugins", "--json", cwd=tmp_path, **both)
    status = {row["identity"]: (row["status"], row["error"]) for row in json.loads(done.stdout)}
    assert status["local:fine"][0] == "ok"
    assert status["local:broken"] == ("failed", "RuntimeError: no such accelerator")
    done = ddfw("run", "--param", "mine", "--dry-run", cwd=tmp_path, **both)
    assert done.returncode == 0 and "digits · convnet · mine" in done.stdout


def test_a_plugin_that_was_edited_is_another_plugin(tmp_path):
    """Broken: a second try at an idea would be answered with the first one's table, or trained on its experts."""
    (tmp_path / "fine.py").write_text(MODULE)
    command = [*tiny("--param", "mine", "-q"), "--out", "run"]
    assert ddfw(*command, cwd=tmp_path, DDFW_PLUGINS="./fine.py").returncode == 0
    assert "nothing to do" in ddfw(*command, cwd=tmp_path, DDFW_PLUGINS="./fine.py").stderr
    (tmp_path / "fine.py").write_text(MODULE + "\n# another idea\n")
    done = ddfw(*command, cwd=tmp_path, DDFW_PLUGINS="./fine.py")
    assert done.returncode == 1 and "other code of its plugins" in done.stderr


@pytest.mark.parametrize("method", ["decode", "segment"])
def test_a_fault_inside_a_plugin_is_reported_as_the_plugins(tmp_path, method):
    """Broken: a third party's bug would be called ours, or the run would end without a last report."""
    broken = MODULE.replace(
        f"def {method}(self, ",
        f"def {method}(self, *rest):\n        return rest.nothing\n\n    def old_{method}(self, ",
    )
    (tmp_path / "faulty.py").write_text(broken)
    done = ddfw(*tiny("--param", "mine", "--traj", "mine", "--json"), cwd=tmp_path, DDFW_PLUGINS="./faulty.py")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert re.search(r"plugin local:faulty \((param|traj) mine\) failed: AttributeError", done.stderr), done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["status"]) == ("run_finished", "failed")


def test_a_name_that_two_plugins_offer_is_refused_with_both_owners(tmp_path):
    """Broken: one of two plugins would silently win."""
    (tmp_path / "fine.py").write_text(MODULE)
    (tmp_path / "twin.py").write_text(MODULE)
    done = ddfw("run", "--param", "mine", "--dry-run", cwd=tmp_path, DDFW_PLUGINS="./fine.py,./twin.py")
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
def test_a_plugin_that_breaks_its_word_is_refused_before_anything_is_learned(tmp_path, old, new, words):
    """Broken: a wrong count or shape would be found after hours, or never."""
    assert old in MODULE
    (tmp_path / "wrong.py").write_text(MODULE.replace(old, new))
    done = ddfw(*tiny("--param", "mine", "--traj", "mine", "-q"), cwd=tmp_path, DDFW_PLUGINS="./wrong.py")
    assert done.returncode == 3 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/plugins.md"])
def test_the_plugin_on_the_page_works_when_pasted(page, tmp_path):
    """Broken: the first thing a plugin author tries."""
    text = (ROOT / page).read_text(encoding="utf-8")
    block = re.search(r"<!-- plugin: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL)
    command = re.search(r"DDFW_PLUGINS=(\S+) ddfw run (.*)", text)
    assert block and command, f"{page} has lost its plugin"
    if page == "README.md":
        assert len([line for line in block[2].splitlines() if line.strip()]) <= 15
    (tmp_path / block[1]).write_text(block[2])
    done = ddfw(*tiny(*command[2].split(), "-q"), cwd=tmp_path, DDFW_PLUGINS=command[1])
    assert done.returncode == 0, done.stderr
    assert "distilled" in done.stdout


@pytest.mark.parametrize(
    ("page", "check", "made"),
    [("README.md", "check_loss", "L1()"), ("docs/plugins.md", "check_param", "HalfSize(lr=3.0)")],
)
def test_the_plugin_of_a_page_passes_the_check_that_the_page_names(page, check, made, tmp_path):
    """Broken: the documented example would fail the documented test."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert f"{check}({made})" in text
    block = re.search(r"<!-- plugin: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL)
    code = f"from ddfw.testing import {check}\nfrom {Path(block[1]).stem} import *\n{check}({made})\n"
    (tmp_path / block[1]).write_text(block[2])
    (tmp_path / "try_it.py").write_text(code)
    done = subprocess.run([sys.executable, "try_it.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
