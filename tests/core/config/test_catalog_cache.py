"""The stored answer of what is installed: equal to the live one, never outdated, and safe from broken plugins."""

from __future__ import annotations

import inspect
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddfw.config.asking import ask_plugins
from ddfw.config.catalog import catalog, plugins
from ddfw.config.extensions import commands, formats, recipe_folders
from ddfw.config.listing import listing, stored_listing
from ddfw.config.listing_file import cache_folder, forget_records
from ddfw.config.recipes import recipes
from ddfw.kinds import KINDS
from ddfw_registry import options

LOSS = '''
from typing import ClassVar, final
from attrs import frozen
from ddfw import AbstractMatchingLoss, hookimpl, option

@final
@frozen(kw_only=True)
class Mine(AbstractMatchingLoss):
    """{summary}"""

    name: ClassVar[str] = "{name}"
    power: int = option(2, help="the power")

    def loss(self, path, segment):
        return path[-1].sum()

@hookimpl
def ddfw_register_losses():
    return [Mine]
'''


def command(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which says on standard error at its end whether it has loaded torch."""
    program = (
        "import atexit, sys; atexit.register(lambda: print('TORCH' if 'torch' in sys.modules else 'LIGHT', "
        "file=sys.stderr)); from ddfw.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="session")
def plain_path() -> list[str]:
    """The search path of a process that has imported nothing."""
    words = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path))"]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def fresh(monkeypatch, plain_path):
    """Nothing is remembered of what was found before, in this process."""

    def forget() -> None:
        forget_records()
        listing.cache_clear()

    # Ray and setuptools put folders of their own on the search path when they are imported, as a test before may have
    # done; what is installed is told by that path.
    monkeypatch.setattr(sys, "path", [*plain_path])
    forget()
    yield forget
    forget()


@pytest.fixture
def own_cache(tmp_path, monkeypatch, fresh) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ddfw"


def test_the_stored_answer_equals_the_live_one_for_every_component(fresh):
    """Broken: `ddfw describe` would tell of other options than those that a run takes."""
    found = listing()
    for kind in KINDS:
        live, stored = catalog().entries(kind.id), found.components(kind.id).entries
        assert [entry.name for entry in live] == list(stored)
        for entry in live:
            offer = stored[entry.name]
            assert (offer.plugin, offer.distribution, offer.version) == (
                entry.plugin,
                entry.distribution,
                entry.version,
            )
            item = offer.item
            assert item.summary == entry.summary and item.description == inspect.getdoc(entry.cls)
            assert item.cls == f"{entry.cls.__module__}.{entry.cls.__qualname__}"
            assert item.source == inspect.getsourcefile(entry.cls) and not item.problem
            assert item.citation == getattr(entry.cls, "citation", "")
            assert list(item.options) == json.loads(json.dumps([o.as_dict() for o in options(entry.cls)]))
        assert found.components(kind.id).duplicates == catalog().duplicates(kind.id)


def test_the_stored_answer_equals_the_live_one_beside_components(fresh):
    """Broken: a command, a format or a recipe would be missing from the lists, or not be what a run takes."""
    found = listing()
    assert [p.identity for p in found.plugins if p.status == "ok"] == [p.identity for p in plugins().plugins]
    assert found.commands == commands() and found.formats == formats()
    live = recipe_folders().entries.values()
    assert [o.item.path for o in found.recipe_folders.entries.values()] == [o.item for o in live]
    assert list(found.recipes) == list(recipes())
    for name, recipe in recipes().items():
        stored = found.recipes[name]
        for fact in ("summary", "source", "extends", "tuned", "origin", "selects"):
            assert getattr(stored, fact) == getattr(recipe, fact)
        assert stored.chooses.get("param") == recipe.tables.get("param", {}).get("name")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("list",), 0),
        (("list", "param", "--json"), 0),
        (("describe", "param", "lss"), 0),
        (("describe", "lss"), 0),
        (("plugins",), 0),
        (("recipes", "list"), 0),
        (("experts", "list"), 0),
        (("--help",), 0),
        (("run", "--param", "lls"), 2),
        (("run", "--param", "lls", "--set", "outer.steps=3", "--set", "param.rank=3", "--seed", "1"), 2),
        (("run", "defualt"), 2),
        (("list", "parma"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_warm_answer_loads_no_torch_and_takes_half_a_second_of_the_processor(fresh, tmp_path, arguments, code):
    """Broken: looking something up, or a typing mistake, would cost seconds."""
    listing().components("param")
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = command(*arguments, code=code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.stderr.splitlines()[-1] == "LIGHT", done.stderr
        took.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(took) <= 0.5


def test_experts_are_listed_without_torch(finished, fresh):
    """Broken: looking at the stores would cost seconds where there are some."""
    done = command("experts", "list", "--experts-dir", finished.experts)
    assert "digits" in done.stdout and done.stderr.splitlines()[-1] == "LIGHT"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--param", "lls"),
        ("--traj", "mtc", "--param", "lls"),
        ("--param", "lls", "--observer", "metrcs"),
        ("--param", "lls", "--set", "outer.steps=3"),
        ("--param", "lls", "--set", "outer.steps=x"),
        ("--param", "lls", "--set", "param.rank=3"),
        ("--param", "lls", "--data", "npz"),
        ("--param", "lls", "--set", "loss.ratio=2"),
        ("--set", "param=lls", "--set", "labels.name=sfot"),
        ("default", "--executor", "gpu"),
        ("--data", "mnsit", "--model", "convnett", "--augment", "dsaa", "--loss", "x", "--labels", "y", "--traj", "z"),
    ],
    ids=" ".join,
)
def test_a_mistyped_component_is_told_in_the_same_words_with_and_without_a_stored_answer(
    ddfw, fresh, monkeypatch, arguments, here, plain_terminal
):
    """Broken: the quick answer would hide other mistakes, or say something else than a run would."""
    listing().components("param")
    warm = ddfw("run", *arguments)
    monkeypatch.setattr("ddfw.config.load.stored_listing", lambda *parts: None)
    live = ddfw("run", *arguments)
    assert warm == live and warm.code == 2 and "unknown" in warm.err


def test_a_run_with_good_names_asks_no_plugin_in_another_process(fresh, own_cache, ddfw, here, plain_terminal):
    """Broken: every first run after an installation would take seconds longer."""
    assert ddfw("run", "--print-config").code == 0
    assert not own_cache.exists()


BROKEN = {
    "hangs": "import time\ntime.sleep(1000)\n",
    "prints": "import os, sys\nprint('NOISE')\nos.write(1, b'NOISE')\nsys.stderr.write('NOISE')\n"
    + LOSS.format(name="noisy", summary="Prints."),
    "exits": "raise SystemExit(3)\n",
    "leaves": "import os\nos._exit(0)\n",
    "raises": "raise RuntimeError('no such luck')\n",
    "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "hangs_late": "import time\n"
    + LOSS.format(name="late", summary="Late.").replace("return [", "return time.sleep(1000) or ["),
    "waits_at_exit": "import atexit, time\natexit.register(time.sleep, 1000)\n"
    + LOSS.format(name="waiting", summary="Waits."),
}
REASONS = {
    "hangs": "did not answer within 3 s",
    "exits": "SystemExit: 3",
    "leaves": "ended the process with exit code 0",
    "raises": "no such luck",
    "dies": "ended the process by signal 9",
    "hangs_late": "did not answer within 3 s",
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in ("hangs", "raises") else pytest.mark.extended) for kind in BROKEN]
)
def test_a_broken_plugin_takes_nothing_but_itself_down(own_cache, fresh, tmp_path, monkeypatch, capfd, kind):
    """Broken: a plugin that hangs, prints, exits or raises would take `ddfw list` down with it."""
    (tmp_path / f"{kind}.py").write_text(BROKEN[kind])
    monkeypatch.setenv("DDFW_PLUGINS", str(tmp_path / f"{kind}.py"))
    found = listing(3.0)
    assert "lss" in found.components("param").entries
    (plugin,) = [p for p in found.plugins if p.distribution == "local"]
    assert plugin.status == ("failed" if kind in REASONS else "ok")
    assert REASONS.get(kind, "") in plugin.error
    assert [f.identity for f in found.failures] == ([f"local:{kind}"] if kind in REASONS else [])
    assert capfd.readouterr() == ("", "")
    fresh()
    assert stored_listing("outline", "components") is not None
    done = command("list", "--json")
    assert json.loads(done.stdout) and "NOISE" not in done.stdout + done.stderr
    assert ("does not work" in done.stderr) == (kind in REASONS)


def names(kind: str = "loss") -> dict[str, str]:
    return {name: offer.item.summary for name, offer in listing().components(kind).entries.items()}


@pytest.mark.extended
def test_a_new_an_edited_and_a_removed_plugin_file_are_seen(own_cache, fresh, tmp_path, monkeypatch):
    """Broken: an author would see the component of yesterday."""
    file = tmp_path / "mine.py"
    monkeypatch.setenv("DDFW_PLUGINS", str(file))
    assert "mine" not in names()
    file.write_text(LOSS.format(name="mine", summary="The first."))
    fresh()
    assert names()["mine"] == "The first."
    fresh()
    assert stored_listing("components") is not None
    file.write_text(LOSS.format(name="mine", summary="Another one."))
    fresh()
    assert stored_listing("components") is None and names()["mine"] == "Another one."
    file.unlink()
    fresh()
    assert "mine" not in names()


def test_a_helper_of_a_plugin_is_watched_too(own_cache, fresh, tmp_path, monkeypatch):
    """Broken: a component that lies beside the plugin's file could be edited unseen."""
    (tmp_path / "helper_of_mine.py").write_text(LOSS.format(name="mine", summary="The first."))
    (tmp_path / "mine.py").write_text("from helper_of_mine import ddfw_register_losses\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DDFW_PLUGINS", str(tmp_path / "mine.py"))
    first = names()
    (tmp_path / "helper_of_mine.py").write_text(LOSS.format(name="mine", summary="Another one."))
    fresh()
    assert stored_listing("components") is None
    assert names() != first or "mine" not in first


def test_a_new_recipe_is_seen(own_cache, fresh, tmp_path, monkeypatch):
    """Broken: a recipe that was added to a plugin's folder could not be found."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (tmp_path / "mine.py").write_text(
        f"from ddfw import hookimpl\n@hookimpl\ndef ddfw_register_recipes():\n    return [{str(folder)!r}]\n"
    )
    monkeypatch.setenv("DDFW_PLUGINS", str(tmp_path / "mine.py"))
    assert "brand-new" not in listing().recipes
    (folder / "brand-new.toml").write_text('[recipe]\nsummary = "s"\nsource = "o"\n')
    fresh()
    assert listing().recipes["brand-new"].summary == "s"
    (folder / "brand-new.toml").write_text('[recipe]\nsummary = "longer"\nsource = "o"\n')
    fresh()
    assert listing().recipes["brand-new"].summary == "longer"


def distribution(site: Path, version: str, points: str) -> None:
    """Installs a distribution with a loss, as pip leaves it."""
    for old in site.glob("*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    info = site / f"theirs-{version}.dist-info"
    info.mkdir(parents=True)
    (site / "theirs_module.py").write_text(LOSS.format(name="theirs", summary="Theirs."))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: theirs\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[ddfw.plugins]\n{points}\n")


@pytest.mark.extended
def test_an_installed_an_upgraded_and_a_changed_distribution_are_seen(own_cache, fresh, tmp_path, monkeypatch):
    """Broken: what pip has just installed could not be found."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    assert "theirs" not in names()
    distribution(site, "1.0", "theirs = theirs_module")
    fresh()
    assert listing().components("loss").entries["theirs"].version == "1.0"
    distribution(site, "2.0", "theirs = theirs_module")
    fresh()
    assert listing().components("loss").entries["theirs"].version == "2.0"
    (site / "theirs-2.0.dist-info" / "entry_points.txt").write_text("[ddfw.plugins]\nrenamed = theirs_module\n")
    fresh()
    assert listing().components("loss").entries["theirs"].plugin == "theirs:renamed"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'{"key": 1}', b"\xff\xfe", b"{}" * 9], ids=repr)
def test_a_damaged_file_is_made_anew_without_a_word(own_cache, fresh, text, capfd):
    """Broken: a full disk or an older version would leave a cache that breaks every command."""
    assert "npz" in listing().formats.entries
    for file in own_cache.iterdir():
        file.write_bytes(text)
    fresh()
    assert stored_listing("outline") is None and "npz" in listing().formats.entries
    fresh()
    assert stored_listing("outline") is not None
    assert capfd.readouterr() == ("", "")


def test_a_file_whose_content_was_changed_is_made_anew(own_cache, fresh):
    """Broken: half of a file, or one of another environment, would be believed."""
    names("param")
    for file in own_cache.glob("components-*"):
        file.write_text(file.read_text().replace("low-rank", "high-rank"))
    fresh()
    assert stored_listing("components") is None


def test_without_a_folder_to_write_to_everything_works(tmp_path, monkeypatch, fresh):
    """Broken: a home folder that is read-only would break every command."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "lss" in names("param")
    fresh()
    assert stored_listing("components") is None
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "ddfw"


@pytest.mark.extended
def test_a_plugin_that_hangs_when_its_component_is_asked_for_is_named_the_first_time_too(
    own_cache, fresh, tmp_path, monkeypatch
):
    """Broken: a component would be missing without a word, until the same command is given again."""
    (tmp_path / "late.py").write_text(BROKEN["hangs_late"])
    monkeypatch.setenv("DDFW_PLUGINS", str(tmp_path / "late.py"))
    found = listing(3.0)
    assert "run" not in found.commands.entries  # the outline is read first, while nothing has failed
    assert [(f.identity, f.error) for f in found.failures] == [("local:late", "it did not answer within 3 s")]
    fresh()
    assert [f.identity for f in listing(3.0).failures] == ["local:late"]


def test_two_processes_at_once_both_answer_and_leave_one_good_file(own_cache, fresh):
    """Broken: two terminals would damage each other's file."""
    words = [sys.executable, "-m", "ddfw", "list", "param", "--json"]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=240)[0] for process in both)
    assert first == second and len(json.loads(first)) >= 5
    assert stored_listing("components") is not None
    assert not [file for file in own_cache.iterdir() if file.suffix != ".json"]


def test_a_disabled_plugin_is_left_out_of_a_stored_answer_without_asking_again(fresh, monkeypatch):
    """Broken: disabling a plugin would cost seconds, or not show."""
    assert "lss" in names("param")
    monkeypatch.setenv("DDFW_DISABLE_PLUGINS", "param-lss,nothing")
    fresh()
    found = stored_listing("outline", "components")
    assert found is not None and "lss" not in found.components("param").entries
    assert "pixel" in found.components("param").entries and found.unknown_disabled == ("nothing",)
    assert [p.identity for p in found.plugins if p.status == "disabled"] == ["ddfw:param-lss"]


def test_the_answer_with_a_disabled_plugin_is_that_of_a_process_that_never_loads_it(fresh, monkeypatch):
    """Broken: leaving a plugin out of a stored answer would differ from asking without it."""
    names("param")
    monkeypatch.setenv("DDFW_DISABLE_PLUGINS", "ddfw:param-lss")
    fresh()
    found, asked = stored_listing("outline", "components"), ask_plugins("components")
    assert found is not None
    assert found._read("components") == asked["components"]
    assert found._read("outline") | {"plugins": 0} == asked["outline"] | {"plugins": 0}
    assert {p.identity: p.status for p in found.plugins} == {
        p["identity"]: p["status"] for p in asked["outline"]["plugins"]
    }


def test_a_failure_is_believed_for_an_hour_only(own_cache, fresh, tmp_path, monkeypatch):
    """Broken: a plugin that failed for want of a file elsewhere would count as broken for ever."""
    (tmp_path / "raises.py").write_text(BROKEN["raises"])
    monkeypatch.setenv("DDFW_PLUGINS", str(tmp_path / "raises.py"))
    assert [p.status for p in listing().plugins if p.distribution == "local"] == ["failed"]
    fresh()
    assert stored_listing("outline") is not None
    fresh()
    now = time.time()
    monkeypatch.setattr("ddfw.config.listing_file.time.time", lambda: now + 4000)
    assert stored_listing("outline") is None
