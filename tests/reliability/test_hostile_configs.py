"""Cards, exports and run directories of strangers: nothing connects, nothing outside is opened, errors are short.

A plugin of these tests offers an executor, an observer and a data set that call a listening socket as soon as they are
used. That they would call is shown first, by giving the user's own word.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import tomllib
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddfw import ConfigError, DataError
from ddfw.artifacts import checkpoint
from ddfw.artifacts.seal import write_sealed
from ddfw.artifacts.synthetic import sealed_card
from ddfw.config.foreign import BOUNDS, LARGEST
from ddfw.config.load import configure
from ddfw.config.own_runs import is_own_run, own_runs_file
from ddfw.config.toml import toml_text
from ddfw.errors import DdfwError, PluginError, RegistryError
from ddfw.pipeline.evaluation.asked import _start
from ddfw.pipeline.sets import read_images

PLUGIN = '''
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar, final
from attrs import frozen
from ddfw import AbstractDataset, AbstractExecutor, AbstractObserver, component, hookimpl, option


def call():
    socket.create_connection(("127.0.0.1", PORT), timeout=5).close()


@final
@frozen(kw_only=True)
class Caller(AbstractExecutor):
    """Calls somebody before it computes."""

    name: ClassVar[str] = "caller"
    address: str = option("", help="whom it would call")

    def assemble(self):
        call()
        return super().assemble()

    def open(self, context):
        call()
        return component("executor", "cpu").open(context)


@final
@frozen(kw_only=True)
class Teller(AbstractObserver):
    """Tells somebody of every run."""

    name: ClassVar[str] = "teller"
    for_people: ClassVar[bool] = True
    address: str = option("", help="whom it would tell")

    def open(self, run):
        call()
        return nullcontext()


@final
@frozen(kw_only=True)
class Fetched(AbstractDataset):
    """Fetches its images from an address."""

    name: ClassVar[str] = "fetched"
    address: str = option("", help="where from")

    def load(self, root):
        call()
        return component("data", "digits").load(root)


@hookimpl
def ddfw_register_executors():
    return [Caller]


@hookimpl
def ddfw_register_observers():
    return [Teller]


@hookimpl
def ddfw_register_datasets():
    return [Fetched]
'''

#: Paths that were opened while `watched` looked on.
_OPENED: list[str] = []
_watching = False


def _hook(event, arguments):
    if _watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _OPENED.append(os.fsdecode(arguments[0]))
    if _watching and event in ("subprocess.Popen", "os.system", "os.exec", "socket.connect"):
        _OPENED.append(f"{event} {arguments[:2]}")


sys.addaudithook(_hook)  # hooks cannot be removed again; this one is quiet outside of `watched`


@contextlib.contextmanager
def watched(seconds=60):
    """Records what is opened in the block, which is ended after some time, also where it waits for a fifo."""
    global _watching

    def late(number, frame):
        raise TimeoutError(f"not done within {seconds} s")

    previous = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    _OPENED.clear()
    _watching = True
    try:
        yield _OPENED
    finally:
        _watching = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module")
def listener():
    """A socket of this machine that counts who calls."""
    server = socket.create_server(("127.0.0.1", 0))
    heard = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, who = server.accept()
                heard.append(who)
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield SimpleNamespace(port=server.getsockname()[1], heard=heard)
    server.close()


@pytest.fixture(scope="module")
def world(listener, ddfw, finished, tmp_path_factory):
    """The plugin that calls, what must not be touched, and an honest export."""
    place = tmp_path_factory.mktemp("world")
    outside = place / "outside"
    outside.mkdir()
    os.mkfifo(outside / "fifo")
    (outside / "canary.toml").write_text("[run]\n")
    (place / "calls.py").write_text(PLUGIN.replace("PORT", str(listener.port)))
    assert ddfw("export", finished.out, "--format", "safetensors", "--out", place / "set").code == 0
    address = f"ray://127.0.0.1:{listener.port}"
    return SimpleNamespace(
        plugin=place / "calls.py", outside=outside, set=place / "set", run=finished.out, address=address,
        fifo=str(outside / "fifo"), up=f"../../{outside.name}/canary.toml", listener=listener,
    )  # fmt: skip


def set_in(table, path, value):
    *keys, last = path
    for key in keys:
        table = table.setdefault(key, {}) if isinstance(table, dict) else table[key]
    table[last] = value


def hostile_export(world, place, *changes):
    """A copy of the export whose card says something else, with hashes that fit."""
    shutil.copytree(world.set, place)
    card = json.loads((place / "card.json").read_text())
    for path, value in changes:
        set_in(card, path, value)
    card.pop("card_sha256")
    (place / "card.json").write_text(json.dumps(sealed_card(card)))
    return place


def hostile_run(world, place, *changes):
    """A copy of the run whose config.toml says something else, with seals that fit."""
    shutil.copytree(world.run, place, ignore=shutil.ignore_patterns("again-*"))
    tables = tomllib.loads((place / "config.toml").read_text())
    for path, value in changes:
        set_in(tables, path, value)
    text = toml_text(tables).replace(f'"{LONG}"', "0x" + "f" * 20_000)
    (place / "config.toml").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    checkpoint.allow_config(place / "checkpoints", sha256)
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["seal"]
    write_sealed(place / "manifest.json", {**manifest, "config_sha256": sha256})
    return place


#: Stands for an integer of so many digits that Python does not write it in decimal.
LONG = "an integer of many digits"


def kinds(world):
    """What a configuration of a stranger would like to have done: the tables of components and of settings."""
    return {
        "caller": [(("executor",), {"name": "caller"})],
        "ray": [(("executor",), {"name": "ray", "address": world.address})],
        "torchrun": [(("executor",), {"name": "torchrun"})],
        "teller": [(("observers", "x"), {"name": "teller"})],
        "fetched": [(("data",), {"name": "fetched", "address": world.address})],
        "fifo": [(("data",), {"name": "npz", "path": world.fifo})],
        "etc": [(("data",), {"name": "imagefolder", "path": "/etc"})],
        "up": [(("data",), {"name": "npz", "path": world.up})],
        "store": [(("experts", "store"), f"http://127.0.0.1:{world.listener.port}/x"),
                  (("eval", "baselines"), ["random_real_teacher"])],
        "start": [(("outer", "init_from"), world.fifo)],
        "costs": [(("eval", "epochs"), 10**9), (("eval", "networks"), 10**9)],
        "budget": [(("budget", "ipc"), 10**9), (("experts", "count"), 10**9), (("outer", "steps"), 10**9)],
        "width": [(("model", "width"), 10**9)],
        "digits of a number": [(("model", "width"), LONG)],
        "depth": [(("model",), {"name": "mlp", "depth": 1000, "width": 1024})],
        "cross": [(("cross", "mlp"), {"name": "mlp", "width": 10**9})],
        "network": [(("model",), {"name": "../../outside/canary"})],
        "escape": [(("model", "norm"), "\x1b[31m" + "x" * 5000)],
        "unknown": [(("model", "weights"), world.fifo), (("more",), {"a": world.fifo})],
    }  # fmt: skip


#: All kinds; those that the default run leaves out are marked.
KINDS = tuple(
    pytest.param(kind, marks=() if kind in ("caller", "fifo", "width") else pytest.mark.extended)
    for kind in kinds(SimpleNamespace(address="", fifo="", up="", listener=SimpleNamespace(port=0)))
)
SMALL = ("--networks", "2", "--set=eval.epochs=1")


def as_card(changes):
    """The same wishes where a card has them: components below `components`, [eval] in `protocol`."""
    where = {"eval": ("protocol",), "model": ("components", "model"), "budget": ("floats",)}
    for path, value in changes:
        head = where.get(path[0], ("components", path[0]))
        yield (*head, *path[1:]), value


def quiet(world, said, opened, before):
    """Nobody was called, nothing outside was opened or written, and an error is short."""
    assert not world.listener.heard, said.err
    assert not [p for p in opened if str(world.outside) in p or p.startswith(("/etc/", "socket"))], opened
    assert said.code in (0, 2, 4), (said.code, said.err)
    assert "Traceback" not in said.err and "internal error" not in said.err
    if said.code:
        assert 1 <= len(said.err.splitlines()) <= 8, said.err
    assert sorted(p.name for p in world.outside.iterdir()) == before


def test_what_would_call_does_call_where_the_user_asks_for_it(world, ddfw, tmp_path):
    """Broken: the tests below would hear nothing because nothing can be heard."""
    run = hostile_run(world, tmp_path / "run", (("executor",), {"name": "caller"}))
    said = ddfw("eval", run, "--plugin", world.plugin, *SMALL, "--trust-config", "-q")
    assert said.code == 0 and world.listener.heard, said.err
    world.listener.heard.clear()
    said = ddfw("eval", run, "--plugin", world.plugin, *SMALL, "--executor", "caller", "-q")
    assert said.code == 0 and world.listener.heard, said.err
    world.listener.heard.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_card_reaches_nobody(world, ddfw, here, kind):
    """Broken: a set that was downloaded would choose an executor, open a file, or run for years."""
    folder = hostile_export(world, here / "set", *as_card(kinds(world)[kind]))  # JSON has no integers that long
    before, plugin = sorted(p.name for p in world.outside.iterdir()), ("--plugin", world.plugin)
    with watched() as opened:
        ddfw("eval", folder, *plugin).refused(2, "--data", "--like")
        said = ddfw("eval", folder, "--data", "digits", *SMALL, *plugin, "--json")
        quiet(world, said, opened, before)
    if kind in ("width", "digits of a number", "depth", "network", "escape", "unknown"):
        assert said.code == (2 if kind == "network" else 4) and "card.json" in said.err, said.err
    else:
        assert said.code == 0, said.err
        protocol = said.events[0]["protocol"]
        assert said.events[0]["n"] == 2 and protocol["eval"]["epochs"] == 1 and protocol["network"]["width"] == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_run_directory_reaches_nobody(world, ddfw, here, kind):
    """Broken: looking at somebody's run would do what its configuration says."""
    run = hostile_run(world, here / "run", *kinds(world)[kind])
    text, plugin = (run / "config.toml").read_bytes(), ("--plugin", world.plugin)
    before = sorted(p.name for p in world.outside.iterdir())
    with watched() as opened:
        said = ddfw("eval", run, *plugin, "--json")
        quiet(world, said, opened, before)
        told = said.err
        quiet(world, ddfw("extend", run, "--steps", "9", *plugin), opened, before)
        for words in (("report", run), ("diff", run, world.run), ("show", run), ("runs", here)):
            quiet(world, ddfw(*words), opened, before)
        quiet(world, ddfw("export", run, "--format", "npz", "--out", here / "set"), opened, before)
        quiet(world, ddfw("eval", world.set, "--like", run, *plugin, *SMALL), opened, before)
    assert "not run by you here" in told or "config.toml" in told, told
    assert (run / "config.toml").read_bytes() == text
    assert not is_own_run(text.decode())


def test_extend_names_what_it_would_run_and_asks_for_the_users_word(world, ddfw, here):
    """Broken: a directory from elsewhere would be trained on, on whatever machine it names."""
    changes = [(("executor",), {"name": "ray", "address": world.address}), (("outer", "init_from"), world.fifo)]
    run = hostile_run(world, here / "run", *changes)
    said = ddfw("extend", run, "--steps", "9")
    said.refused(2, "--trust-config", "'ray'", "'digits'", "executor.address", "outer.init_from", "9 outer steps")
    own = shutil.copytree(world.run, here / "own")
    assert ddfw("extend", own, "--steps", "4", "--experts-dir", world.run.parent / "experts", "-q").code == 0


def test_a_set_is_a_start_and_nothing_more(world, ddfw, tiny, here):
    """Broken: --init-from would take more than images from a stranger."""
    run = hostile_run(world, here / "start", *[c for kind in ("ray", "fifo", "start") for c in kinds(world)[kind]])
    before = sorted(p.name for p in world.outside.iterdir())
    words = ["--init-from", run, "--out", here / "run", "--experts-dir", world.run.parent / "experts", "-q"]
    with watched() as opened:
        said = ddfw(*tiny, *words, "--set=outer.steps=1", "--set=eval.baselines=[]", "--plugin", world.plugin)
        quiet(world, said, opened, before)
    assert said.code == 0, said.err


def test_no_file_of_a_directory_makes_it_the_users_own(world, here):
    """Broken: a forged directory would say of itself that it can be trusted."""
    run = hostile_run(world, here / "run", *kinds(world)["ray"])
    text = (run / "config.toml").read_text()
    for name in ("own-runs", "ddfw/own-runs", "state/ddfw/own-runs"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(hashlib.sha256(text.encode()).hexdigest() + "\n")
    assert not is_own_run(text) and is_own_run((world.run / "config.toml").read_text())
    assert not own_runs_file().is_relative_to(here)


# --- many cards ---------------------------------------------------------------------------------------------------

VALUES = (
    *(0, 1, -1, 7, 10**9, 10**18, 1 << 80, 1e9, -0.5, 1e308, 1e-300, float("nan"), float("inf"), True, False, None),
    *("", "x", "x" * 5000, "../../etc/passwd", "/etc/passwd", "ray://127.0.0.1:1", "caller", "\x1b[31m", "‮a", "a\nb"),
    *("mlp", "convnet", "resnet18", "torchvision", "dsa", "none", "npz", "float64"),
    *([], {}, [1] * 300, ["x"] * 3, [[[[]]]], {"name": "ray", "address": "ray://127.0.0.1:1"}, {"name": "mlp"}),
    *({"name": "npz", "path": "/etc/passwd"}, {"name": "mlp", "depth": 10**9}, {"name": "convnet", "width": 1e9}),
)
#: Where wishes are dearest, besides anywhere.
DEAR = ("components", "protocol", "training_space", "source_data", "step_size", "selected", "floats")


#: Tables that no card says anything of.
NOTHING = ("data", "executor", "eval", "budget", "experts", "outer", "param", "traj", "observers", "cross")


def places(table, path=()):
    """Every place of nested tables and lists."""
    inside = table.items() if isinstance(table, dict) else enumerate(table[:3]) if isinstance(table, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated(card, draw):
    """A card with one to four changes: other values, missing ones, and new ones."""
    card = json.loads(json.dumps(card))
    for _ in range(draw.randint(1, 4)):
        known = list(places(card))
        dear = [p for p in known if p[0] in DEAR]
        *keys, last = draw.choice(dear if dear and draw.random() < 0.7 else known)
        table = card
        for key in keys:
            table = table[key]
        change = draw.random()
        if change < 0.15:
            del table[last]
        elif change < 0.3 and isinstance(table, dict):
            table[draw.choice(("path", "address", "name", "weights", "executor", "x"))] = deepcopy(draw.choice(VALUES))
        else:
            table[last] = deepcopy(draw.choice(VALUES))
    return card


def test_no_mutated_card_chooses_more_than_network_and_augmentation(world, here, size, figures):
    """Broken: some field of a card would choose work, or a mutated one would end in somebody else's exception."""
    count, draw, said = size(80, 5000), random.Random(14), ({"data": {"name": "digits"}}, ())
    honest = json.loads((world.set / "card.json").read_text())
    folder = shutil.copytree(world.set, here / "set")
    plain = configure(None, *said).config
    refused = taken = 0
    with watched(3600) as opened:
        for number in range(count):
            card = mutated(honest, draw)
            card.pop("card_sha256", None)
            text = json.dumps(sealed_card(card))
            (folder / "card.json").write_text(text)
            try:
                found = read_images(folder)
                start, _ = _start(None, None, found, folder, said)
                config = configure(start, *said).config
            except (DdfwError, RegistryError) as error:
                assert isinstance(error, DataError | ConfigError | PluginError | RegistryError), (number, text)
                assert len(str(error).splitlines()) <= 6, (number, error)
                refused += 1
                continue
            taken += 1
            for table in NOTHING:
                assert getattr(config, table) == getattr(plain, table), (number, table, text)
            numbers = [v for v in vars_of(config.model) + vars_of(config.augment) if isinstance(v, int | float)]
            assert all(abs(v) <= LARGEST for v in numbers), (number, text)
    assert not world.listener.heard
    allowed = (str(here), str(Path(sys.prefix)), str(Path(__file__).parents[2]), "/usr", "/dev/null", sys.base_prefix)
    assert not [p for p in opened if os.path.isabs(p) and not p.startswith(allowed)]
    assert taken > count // 10 and refused > count // 10
    figures(cards=count, refused=refused, taken=taken, connections=0)


def vars_of(component):
    return [getattr(component, name) for name in type(component).__slots__ if not name.startswith("__")]


def test_a_configuration_from_outside_stays_within_its_bounds(world, ddfw, here):
    """Broken: a stranger's protocol would be reduced without a word, or run for years."""
    for path, most in BOUNDS.items():
        place = here / path
        run = hostile_run(world, place, (tuple(path.split(".")), most + 1))
        ddfw("eval", run, "--json").refused(4, path, f"{most}", "--trust-config")


LINKS = {
    "metrics.jsonl": "fifo",
    ".lock": "fifo",
    "report.html": "canary.toml",
    "eval": "",
    "export": "",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("metrics.jsonl", "eval") else pytest.mark.extended) for n in LINKS]
)
def test_links_and_fifos_in_a_run_directory_lead_nowhere(world, ddfw, here, name):
    """Broken: looking at a run would wait for ever, or write files where a link in it leads."""
    run = hostile_run(world, here / "run")
    place = run / name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(world.outside / LINKS[name])
    before, text = sorted(p.name for p in world.outside.iterdir()), (world.outside / "canary.toml").read_text()
    with watched(20) as opened:
        for words in (("show", run), ("report", run), ("runs", here), ("export", run, "--format", "npz")):
            said = ddfw(*words)
            assert said.code in (0, 4), said.err
        said = ddfw("eval", run, "--networks", "2", "-q")
        assert said.code == (4 if name in ("eval", "metrics.jsonl") else 0), said.err
    assert sorted(p.name for p in world.outside.iterdir()) == before
    assert (world.outside / "canary.toml").read_text() == text
    assert not [p for p in opened if p.startswith(str(world.outside / "fifo"))]
