"""`--plugin`: a component in a file of one's own, without an installation and without a variable."""

from __future__ import annotations

import json
import os
import sys

import pytest

from ddfw.config.named_plugins import VARIABLE

LOSS = '''
from typing import ClassVar, final
from attrs import frozen
from ddfw import AbstractMatchingLoss, hookimpl, option


@final
@frozen(kw_only=True)
class Power(AbstractMatchingLoss):
    """The p-th power of what remains, relative to the way the expert went."""

    name: ClassVar[str] = "NAME"
    p: float = option(2.0, help="the power")

    def loss(self, path, segment):
        remains = (path[-1] - segment.target).abs().pow(self.p).sum()
        return remains / (segment.start - segment.target).abs().pow(self.p).sum()


@hookimpl
def ddfw_register_losses():
    return [Power]
'''


def written(path, name):
    path.write_text(LOSS.replace("NAME", name))
    return path


@pytest.fixture(autouse=True)
def no_trace(monkeypatch):
    """Nothing is named beforehand, and no module of a test is left."""
    monkeypatch.delenv(VARIABLE, raising=False)
    before = set(sys.modules)
    yield
    assert VARIABLE not in os.environ
    for name in set(sys.modules) - before:
        if name.startswith("_ddfw_local_"):
            del sys.modules[name]


def test_a_loss_in_a_file_runs_and_goes_on_with_the_same_words(ddfw, tiny, here, tmp_path):
    """Broken: the first thing that an author tries; or a run with a local plugin could not be found again."""
    written(here / "mine.py", "power-a")
    command = [*tiny, "--plugin", "./mine.py", "--loss", "power-a", "--set", "loss.p=1.5", "--out", "run"]
    done = ddfw(*command, "--json")
    assert done.code == 0, done.err
    assert done.events[-1]["status"] == "finished"
    assert 'name = "power-a"\np = 1.5' in (here / "run" / "config.toml").read_text()
    again = ddfw("run", "run/config.toml", "--plugin", here / "mine.py", "--out", "run", "-q")
    assert again.code == 0 and "nothing to do" in again.err
    without = ddfw("run", "run/config.toml", "--out", "run")
    assert without.code == 2 and "unknown matching loss 'power-a'" in without.err
    assert "--plugin FILE.py" in without.err


def test_several_plugins_are_named_before_or_after_the_command_and_beside_the_variable(ddfw, here, monkeypatch):
    """Broken: one plugin would replace another, or `list` and `describe` would not show what `run` can use."""
    written(here / "one.py", "power-b")
    written(here / "two.py", "power-c")
    written(here / "three.py", "power-d")
    (here / "modules").mkdir()
    written(here / "modules" / "four_of_mine.py", "power-e")
    monkeypatch.syspath_prepend(here / "modules")
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, "./three.py")
        both = ("--plugin", "one.py", "--plugin", "./two.py", "--plugin", "four_of_mine", "--plugin", "./three.py")
        for words in ((*both, "list", "loss", "--json"), ("list", *both, "loss", "--json")):
            names = {row["name"] for row in json.loads(ddfw(*words).out)}
            assert {"power-b", "power-c", "power-d", "power-e", "ratio"} <= names
        assert os.environ[VARIABLE] == "./three.py"
    assert "power-b" not in ddfw("list", "loss").out
    assert "the power" in ddfw("describe", "loss", "power-b", "--plugin", "./one.py").out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["local:mine", "no such file"]),
        ("import nothing_of_this_name", ["local:mine", "nothing_of_this_name"]),
        ("def (", ["local:mine", "SyntaxError"]),
        (LOSS + "\n\nDDFW_HOOK_API = 99\n", ["local:mine", "needs hook API 99"]),
        ("class Mine: ...", ["local:mine", "it offers no hook"]),
        (
            "from ddfw import hookimpl\n@hookimpl\ndef ddfw_register_loses():\n    return []",
            ["local:mine", "ddfw_register_loses"],
        ),
    ],
    ids=["missing", "import", "syntax", "newer", "no hook", "a hook's typo"],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_plugin_that_was_named_and_does_not_work_ends_the_command(ddfw, here, text, words, first):
    """Broken: the author would be told that the component is unknown, and not why."""
    if text is not None:
        (here / "mine.py").write_text(text)
    named = ("--plugin", "./mine.py")
    ddfw(*((*named, "list") if first else ("run", *named, "--loss", "mine"))).refused(3, *words)


def test_a_class_that_breaks_a_rule_is_named_beside_the_unknown_name(ddfw, here):
    """Broken: a component that its plugin offers would be unknown without a reason."""
    (here / "mine.py").write_text(LOSS.replace("NAME", "Power-F"))
    done = ddfw("run", "--plugin", "mine.py", "--loss", "power-f")
    done.refused(3, "unknown matching loss 'power-f'", "plugin local:mine does not work", "Power-F")


def test_a_module_that_is_a_file_in_this_folder_is_asked_after(ddfw, here):
    """Broken: an author who forgets `.py` would be told of a missing module, with the file before their eyes."""
    written(here / "good_of_mine.py", "power-g")
    ddfw("list", "--plugin", "good_of_mine").refused(3, "local:good_of_mine", "Did you mean ./good_of_mine.py?")


def test_a_path_with_a_comma_is_refused(ddfw, here):
    """Broken: DDFW_PLUGINS, which other processes read, would name two files that do not exist."""
    (here / "a,b.py").write_text("")
    ddfw("list", "--plugin", "./a,b.py").refused(3, "commas separate plugins")
