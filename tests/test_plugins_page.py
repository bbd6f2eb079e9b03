"""The page about plugins, as newcomers follow it: each file is pasted, run on digits, and passes its check."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

import ddfw as package
from ddfw import testing
from ddfw.config.catalog import catalog
from ddfw.kinds import KINDS

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
#: For each file its code and the commands below it.
PLUGINS = {
    file: (code, re.search(rf"```sh\n(ddfw run --plugin \./{re.escape(file)} .*?)```", PAGE, re.DOTALL)[1].splitlines())
    for file, code in re.findall(r"<!-- plugin: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL)
}
TINY = (
    "model.width=4 experts.count=1 experts.epochs=3 outer.steps=2 outer.syn_steps=2 window.max_start=1 window.start=1 "
    "eval.networks=2 eval.epochs=3 eval.full_epochs=1 eval.every=2 eval.select_networks=1 executor.threads=1"
)


@pytest.fixture(autouse=True)
def alone(plain_terminal, here, monkeypatch):
    """A folder of its own, in which the files of the page are modules."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(here)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("_ddfw_local_") or name + ".py" in PLUGINS:
            del sys.modules[name]


def test_there_is_an_example_of_every_kind():
    """Broken: a kind that its author has to guess."""
    hooks = [hook for code, _ in PLUGINS.values() for hook in re.findall(r"def (ddfw_register_\w+)", code)]
    assert sorted(hooks) == sorted(kind.hook for kind in KINDS)
    anchors = re.findall(r"hooks\.md#([\w-]+)", PAGE)
    reference = (Path(__file__).parents[1] / "docs" / "hooks.md").read_text(encoding="utf-8")
    titles = {
        re.sub(r"[^\w -]", "", title).replace(" ", "-").lower() for title in re.findall(r"(?m)^## (.*)", reference)
    }
    assert set(anchors) <= titles and len(set(anchors)) >= 8


@pytest.mark.parametrize("file", PLUGINS)
def test_a_file_of_the_page_runs_with_the_command_below_it(file, ddfw, here):
    """Broken: what a newcomer pastes does not run."""
    code, commands = PLUGINS[file]
    (here / file).write_text(code)
    words = [word for word in shlex.split(commands[0])[1:] if word != "--quick"]
    # The model and the executor of the page have other options than those of the recipe.
    kept = [s for s in TINY.split() if not s.startswith(tuple(w.removeprefix("--") + "." for w in words))]
    done = ddfw(*words, *(word for s in kept for word in ("--set", s)), "--out", "run", "-q")
    assert done.code == 0, done.err
    assert "distilled" in done.out
    if file == "losses.py":
        assert len((here / "run" / "losses.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("file", PLUGINS)
def test_a_file_of_the_page_passes_the_check_of_its_kind(file, here):
    """Broken: the documented way would be one that ddfw.testing refuses."""
    code, commands = PLUGINS[file]
    (here / file).write_text(code)
    kind, name = re.search(r" --(?!plugin)(\w+) (\w+)", commands[0]).groups()
    module = importlib.import_module(Path(file).stem)
    offered = getattr(module, next(k.hook for k in KINDS if k.id == kind))()
    (cls,) = offered
    assert cls.name == name
    assert not any(entry.name == name for entry in catalog().entries(kind))
    getattr(testing, f"check_{kind}")(cls(), *([here] if kind == "data" else []))


def test_the_commands_and_the_test_of_the_ten_minutes_work(ddfw, here):
    """Broken: the second command of a newcomer, or the first test."""
    code, commands = PLUGINS["power.py"]
    (here / "power.py").write_text(code)
    listed = ddfw(*shlex.split(commands[2])[1:])
    assert listed.code == 0 and "exponent" in listed.out
    dry = ddfw(*shlex.split(commands[1])[1:], "--print-config")
    assert "exponent = 2.0" in dry.out
    before = re.search(r"`ddfw (--plugin \./power\.py list loss)`", PAGE)[1]
    assert "power" in ddfw(*before.split()).out
    test = re.search(r"<!-- test: test_power.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]
    (here / "test_power.py").write_text(test)
    importlib.import_module("test_power").test_power_keeps_the_contract()
    del sys.modules["test_power"]


def test_the_package_of_the_page_offers_the_loss(here):
    """Broken: the module that an entry point names, as the page shows it."""
    folder = here / "your_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "power.py").write_text(PLUGINS["power.py"][0])
    (folder / "plugin.py").write_text(
        re.search(r"<!-- package: your_package/plugin.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]
    )
    plugin = importlib.import_module("your_package.plugin")
    assert [cls.name for cls in plugin.ddfw_register_losses()] == ["power"]
    assert package.HOOK_API == plugin.DDFW_HOOK_API
    one_line = package.offers("ddfw_register_losses", "your_package.power:Power")
    assert one_line.ddfw_register_losses() == plugin.ddfw_register_losses()
    for name in [n for n in sys.modules if n.startswith("your_package")]:
        del sys.modules[name]
