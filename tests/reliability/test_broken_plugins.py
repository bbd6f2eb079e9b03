"""A plugin that breaks its word is named in every use, and takes nothing down but what uses it."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest

from ddfw.config import listing_file
from ddfw.config.named_plugins import VARIABLE, _ask_again
from ddfw.kinds import KINDS

BROKEN = runpy.run_path(str(Path(__file__).with_name("broken_plugins.py")))["BROKEN"]
#: A few that differ most; the others are met under `poe reliability`.
SAMPLE = (
    "import calls sys.exit",
    "param decode calls sys.exit",
    "labels targets stop being probabilities",
    "traj segment has another signature",
    "loss loss changes the path",
)
#: What a use of one kind cannot take of the tiny run's options.
OTHER = {"param": ("param.",), "model": ("model.",), "executor": ("executor.",)}


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    """No module of a broken plugin outlives its test, and a plugin that hangs is given up soon."""
    monkeypatch.setattr(listing_file, "LIMIT_S", 25.0)
    monkeypatch.delenv(VARIABLE, raising=False)
    before = set(sys.modules)
    yield
    monkeypatch.delenv(VARIABLE, raising=False)
    _ask_again()
    for name in set(sys.modules) - before:
        if name.startswith("_ddfw_local_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("broken")


@pytest.fixture(scope="module")
def chosen(size, folder):
    """The plugins of this run of the test, each written to a file and with a component of a name of its own."""
    count = size(len(SAMPLE), len(BROKEN))
    found = [case for case in BROKEN if count == len(BROKEN) or case.title in SAMPLE]
    for number, case in enumerate(found):
        (folder / f"{case.module}.py").write_text(case.source.replace('"mine"', f'"mine{number}"'))
    return found


@pytest.fixture
def installed(chosen, folder, monkeypatch):
    """All of them are named in the variable, as if they were installed; returns a function that ends this."""
    monkeypatch.setenv(VARIABLE, ",".join(str(folder / f"{case.module}.py") for case in chosen))
    _ask_again()

    def end():
        monkeypatch.delenv(VARIABLE)
        _ask_again()

    return end


def command(tiny, case, number):
    """The words of a tiny run that uses the component of a plugin."""
    others = ("--set=param.", *(f"--set={o}" for o in OTHER.get(case.kind, ())))
    words = [word for word in tiny if not word.startswith(others)]
    words[words.index("--param") + 1] = "pixel"
    if case.kind != "labels":
        words += ["--labels", "hard"]
    if case.kind in ("param", "traj"):
        words[words.index(f"--{case.kind}") + 1] = f"mine{number}"
        return words
    return [*words, f"--{case.kind}", f"mine{number}"]


def test_the_table_of_broken_plugins_covers_every_stage_and_kind():
    """Broken: whole ways of breaking a word would be left untried."""
    assert len(BROKEN) >= 60 and len({case.title for case in BROKEN}) == len(BROKEN)
    stages = Counter(case.stage for case in BROKEN)
    assert set(stages) == {"import", "hook", "contract", "run"} and min(stages.values()) >= 8
    ids = {kind.id for kind in KINDS}
    for stage in ("hook", "run"):
        assert {case.kind for case in BROKEN if case.stage == stage} >= ids - ({"loss"} if stage == "hook" else set())
    assert set(SAMPLE) <= {case.title for case in BROKEN}


def test_with_all_of_them_installed_everything_else_works(chosen, installed, ddfw, tiny, here, figures):
    """Broken: help, lists or a run that uses none of them would fail because of somebody's plugin."""
    for words in (["list", "--json"], ["--help"], [*tiny, "--json", "--out", "run"], ["plugins", "--json"]):
        said = ddfw(*words)
        assert said.code == 0 and "Traceback" not in said.err, (words, said.err)
    assert (here / "run" / "summary.json").is_file()
    rows = json.loads(said.out)
    status = {row["identity"]: row["status"] for row in rows}
    for case in chosen:
        expected = "ok" if case.stage == "run" or case.title == "class that cannot be made" else "failed"
        assert status[f"local:{case.module}"] == expected, case.title
    figures(installed=len(chosen), commands=4, failed=0)


def test_every_use_of_a_broken_plugin_ends_with_3_and_its_name(chosen, installed, folder, ddfw, tiny, here, figures):
    """Broken: a fault of a plugin would be called ours, a user's, a success, or the run would go on with it."""
    wrong = []
    # Those that fail in a run are used with all others beside them, the others alone.
    for number, case in sorted(enumerate(chosen), key=lambda pair: pair[1].stage != "run"):
        named = () if case.stage == "run" else ("--plugin", folder / f"{case.module}.py")
        if named and VARIABLE in os.environ:
            installed()
        experts = "theirs" if case.kind == "executor" else "experts"
        out = ("--out", f"run{number}", "--experts-dir", experts, "-q")
        said = ddfw(*command(tiny, case, number), *named, *out)
        lines = said.err.splitlines()
        owner = [f"local:{case.module}"] if not case.disabled else []
        words = [*owner, *(word.replace("mine", f"mine{number}", 1) for word in case.words)]
        missing = [word for word in words if word not in said.err]
        fits = said.code == (0 if case.disabled else 3) and "Traceback" not in said.err and "internal" not in said.err
        if not fits or missing or not (case.disabled or 1 <= len(lines) <= 6):
            wrong.append(f"{case.title}: code {said.code}, missing {missing}: {said.err[-600:]}")
    figures(uses=len(chosen), named=len(chosen) - len(wrong), **Counter(case.stage for case in chosen))
    assert not wrong, "\n".join(wrong)


def test_what_a_plugin_prints_is_never_part_of_what_a_command_answers(ddfw, tiny, here):
    """Broken: a print() left in a plugin would break whoever reads `--json`."""
    case = next(case for case in BROKEN if case.title == "hook raises")
    noisy = case.source.replace('return params["x"]', 'print("NOISE in decode")\n        return params["x"]')
    noisy = noisy.replace("raise ValueError('not today')", "print('NOISE in the hook')\n    return [Mine]")
    (here / "noisy.py").write_text("print('NOISE at import')\n" + noisy)
    words = command(tiny, case, "")
    said = ddfw(*words, "--plugin", "./noisy.py", "--json", "--out", "run")
    assert said.code == 0, said.err
    assert said.events[-1]["status"] == "finished" and "NOISE" not in said.out
    assert "NOISE in decode" in said.err and "NOISE at import" in said.err and "NOISE in the hook" in said.err
