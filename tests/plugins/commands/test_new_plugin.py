"""`ddfw new-plugin`: for every kind a package that installs, whose own tests pass, and which works on digits."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import ddfw as package
from ddfw.kinds import KINDS
from ddfw_plugins.commands.new_plugin.kinds import STARTS, package_files

TINY = (
    "experts.count=1 experts.epochs=3 outer.steps=2 outer.syn_steps=2 window.max_start=1 window.start=1 "
    "eval.networks=2 eval.epochs=3 eval.full_epochs=1 eval.every=2 eval.select_networks=1"
)


def settings(*more: str) -> list[str]:
    return [word for setting in (*TINY.split(), *more) for word in ("--set", setting)]


def test_every_kind_can_be_started():
    """Broken: a kind without a start."""
    assert list(STARTS) == [*(kind.id for kind in KINDS), "command", "format", "recipes"]
    assert {kind.id: kind.hook for kind in KINDS} == {k: STARTS[k].hook for k in list(STARTS)[: len(KINDS)]}


@pytest.mark.parametrize("kind", STARTS)
def test_the_files_of_a_package_are_whole(kind):
    """Broken: a word of a template would be left in what a newcomer opens first, or a file would not be readable."""
    found = package_files(kind, "my-own_thing2")
    for path, text in found.items():
        assert not re.search(r"@\w+@", text), path
        assert text.endswith("\n") and not text.endswith("\n\n")
        assert max(map(len, text.splitlines())) <= 120 or path == "README.md", path
        if path.endswith(".py"):
            tree = ast.parse(text)
            assert ast.get_docstring(tree), path
            for node in ast.walk(tree):
                documented = isinstance(node, ast.ClassDef | ast.FunctionDef) and not path.startswith("tests")
                # The arguments of a session are told by its class.
                assert not documented or node.name == "__init__" or ast.get_docstring(node), f"{path}: {node.name}"
    project = tomllib.loads(found["pyproject.toml"])
    assert project["project"]["name"] == "ddfw-my-own-thing2"
    assert project["project"]["entry-points"]["ddfw.plugins"] == {
        f"{kind}-my-own_thing2": "ddfw_my_own_thing2.plugin",
    }
    assert f"DDFW_HOOK_API = {package.HOOK_API}" in found["src/ddfw_my_own_thing2/plugin.py"]
    commands = re.search(r"```sh\n(.*?)```", found["README.md"], re.DOTALL)[1].splitlines()
    assert len(commands) == 3 and commands[0] == 'pip install -e ".[test]"' and "my-own_thing2" in commands[2]


@pytest.mark.parametrize("kind", STARTS)
def test_light_modules_stay_light(kind):
    """Broken: the first plugin that an author copies would load torch for `ddfw --help`."""
    text = package_files(kind, "mine")["src/ddfw_mine/plugin.py"]
    imported = {node.module for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)}
    assert imported <= {"ddfw", "pathlib"}


def test_it_writes_a_folder_and_says_what_comes_next(ddfw, here):
    """Broken: a newcomer would not know what was written, or what to type."""
    done = ddfw("new-plugin", "my-power", "--kind", "loss", "--out", "deep/er")
    assert done.code == 0, done.err
    there = sorted(str(p.relative_to(here / "deep" / "er")) for p in (here / "deep" / "er").rglob("*") if p.is_file())
    assert there == sorted(package_files("loss", "my-power"))
    assert all(path in done.out for path in there)
    assert re.search(r"cd deep/er\n +pip install.*\n +python -m pytest\n +ddfw run --quick --loss my-power", done.out)
    assert [p.name for p in (here / "deep").iterdir()] == ["er"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("x", "--kind", "los"), 2, ["unknown kind 'los'", "Did you mean 'loss'?"]),
        (("x",), 2, ["--kind"]),
        (("ratio", "--kind", "loss"), 2, ["a loss 'ratio' already, from ddfw:loss-ratio"]),
        (("npz", "--kind", "format"), 2, ["a format 'npz' already, from ddfw:format-npz"]),
        (("sweep", "--kind", "command"), 2, ["a command 'sweep' already, from ddfw:command-sweep"]),
        (("run", "--kind", "command"), 2, ["a command 'run' already, from ddfw"]),
        (("digits", "--kind", "recipes"), 2, ["a recipes 'digits' already"]),
        (("My Loss", "--kind", "loss"), 2, ["'My Loss' cannot be a name", "Did you mean 'my-loss'?"]),
        (("../x", "--kind", "loss"), 2, ["cannot be a name", "Did you mean 'x'?"]),
        (("x-", "--kind", "loss"), 2, ["cannot be a name", "Did you mean 'x'?"]),
        (("9", "--kind", "loss"), 2, ["cannot be a name"]),
        (("plugins", "--kind", "loss"), 2, ["its package ddfw_plugins is installed already"]),
        (("x", "--kind", "loss", "--out", "there"), 1, ["there exists already"]),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(ddfw, here, words, code, said):
    """Broken: a package that cannot work would be written, or one that exists be overwritten."""
    (here / "there").mkdir()
    done = ddfw("new-plugin", *words)
    assert done.code == code and done.out == ""
    for part in said:
        assert part in done.err, done.err
    assert [p.name for p in here.iterdir()] == ["there"] and not list((here / "there").iterdir())


def clean_environment(folder: Path) -> Path:
    """The Python of a new virtual environment, which sees the packages of this one and installs into its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    base = sysconfig.get_path("purelib")
    (site / "base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
    return folder / "bin" / "python"


@pytest.mark.extended
def test_every_kind_is_generated_installed_tested_and_run(tmp_path):
    """Broken: the ten minutes to a plugin of one's own would end in an error that is ours."""
    python = clean_environment(tmp_path / "venv")
    ours = ("DDFW_", "PYTEST_", "PYTHONPATH", "PIP_CONSTRAINT")  # a list of constraints may be named by a relative path
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}

    def call(*words: object, cwd: Path = tmp_path) -> str:
        command = [str(python), "-m", *map(str, words)]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    names = {kind: f"new-{kind}" for kind in STARTS}
    for kind, name in names.items():
        call("ddfw", "new-plugin", name, "--kind", kind)
    pip = ("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    call(*pip, *(word for name in names.values() for word in ("-e", tmp_path / name)))
    for name in names.values():
        assert re.search(r"\d passed", call("pytest", "-q", "-W", "error", cwd=tmp_path / name))

    together = ("param", "traj", "loss", "labels", "model", "augment", "executor", "observer")
    flags = [word for kind in together for word in (f"--{kind}", names[kind])]
    assert "distilled" in call("ddfw", "run", *flags, *settings(), "-q", "--out", "run")
    assert len((tmp_path / "run" / "new-observer.csv").read_text().splitlines()) == 2
    drawn = ("--data", names["data"], "-q", "--out", "drawn", *settings("model.width=4", "budget.ipc=2"))
    assert "distilled" in call("ddfw", "run", *drawn)
    assert "lss" in call("ddfw", names["command"], "pixel", "lss")
    call("ddfw", "export", "run", "--format", names["format"], "--out", "set")
    assert len((tmp_path / "set" / "set.csv").read_text().splitlines()) > 10
    assert "width = 16" in call("ddfw", "run", names["recipes"], "--print-config")
    assert "distilled" in call("ddfw", "run", names["recipes"], "-q", *settings())
