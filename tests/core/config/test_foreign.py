"""Every field of a card and every table of a configuration from outside, with what it may do."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from copy import deepcopy

import attrs
import pytest

from ddfw import ConfigError, DataError, RegistryError
from ddfw.artifacts.synthetic import sealed_card
from ddfw.config.foreign import reaching, read_run_file
from ddfw.config.load import configure
from ddfw.config.own_runs import is_own_run, own_runs_file, remember_run
from ddfw.config.run_config import RunConfig
from ddfw.config.toml import toml_text
from ddfw.pipeline.evaluation.asked import _start
from ddfw.pipeline.sets import read_images

#: What a field of card.json may do. `images`: it says what the images are. `network`: it chooses network or
#: augmentation, by name, with options that are checked. `words`: it stands in a note or a message. `nothing`: it is
#: for people and other programs.
CARD = {
    "schema": "nothing",
    "what": "words",
    "status": "nothing",
    "load": "nothing",
    "source_data.name": "words",
    "source_data.origin": "nothing",
    "source_data.licence": "nothing",
    "source_data.sha256": "words",
    "source_data.class_names": "images",
    "images": "nothing",
    "training_space": "images",
    "step_size": "images",
    "floats.strict": "words",
    "floats.pixels": "words",
    "floats.labels": "nothing",
    "floats.budget": "nothing",
    "floats.accounting": "nothing",
    "floats.over_budget": "words",
    "floats.counted_in": "nothing",
    "floats.exempt": "nothing",
    "trajectories": "nothing",
    "experts.imported": "words",
    "experts": "nothing",
    "outer": "nothing",
    "selected.step": "words",
    "selected.by": "words",
    "accuracies": "nothing",
    "protocol": "nothing",
    "components.model": "network",
    "components.augment": "network",
    "components.data": "nothing",
    "components.param": "nothing",
    "components.traj": "nothing",
    "components.loss": "nothing",
    "components.labels": "nothing",
    "components.executor": "nothing",
    "citations": "nothing",
    "privacy": "nothing",
    "device": "nothing",
    "sha256": "images",
    "card_sha256": "images",
    "quick": "words",
    "warm_start": "nothing",
}
#: What a table of a configuration that was not run here may do in `ddfw eval`.
CONFIG = {
    "run": "precision and the note that a run was a quick one",
    "data": "taken, where no option is a path or an address",
    "model": "taken, with options that are checked",
    "augment": "taken, with options that are checked",
    "eval": "taken within bounds",
    "budget": "taken within bounds",
    "experts": "nothing",
    "param": "nothing",
    "traj": "nothing",
    "loss": "nothing",
    "labels": "nothing",
    "cross": "nothing",
    "executor": "nothing",
    "observers": "nothing",
    "outer": "nothing",
    "window": "nothing",
    "gradient": "nothing",
}
GARBAGE = (
    None,
    -1,
    10**12,
    float("nan"),
    "x" * 5000,
    "/etc/passwd",
    [],
    [1] * 100,
    {},
    {"name": "ray", "address": "x:1"},
)
SAID = ({"data": {"name": "digits"}}, ())


def rule(path):
    """What the table says of a place: the entry of the place, or of the nearest table around it."""
    parts = list(path)
    while parts:
        if found := CARD.get(".".join(parts)):
            return found
        parts.pop()
    return None


def leaves(table, path=()):
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def chosen(folder):
    found = read_images(folder)
    start, _ = _start(None, None, found, folder, SAID)
    return configure(start, *SAID).config


@pytest.fixture(scope="module")
def card(finished):
    return json.loads((finished.out / "synthetic" / "card.json").read_text())


def test_every_field_of_a_card_has_a_rule(card, finished):
    """Broken: a new field of the card could come to choose something, and nobody would have said what."""
    assert not [".".join(path) for path in leaves(card) if rule(path) is None]
    assert set(CONFIG) == {field.name for field in attrs.fields(RunConfig)}


def test_a_field_of_a_card_chooses_what_its_rule_says_and_no_more(card, finished, tmp_path):
    """Broken: data, executor, cost or paths would come from a card."""
    folder = shutil.copytree(finished.out / "synthetic", tmp_path / "set")
    plain = chosen(folder)
    assert plain.model.width == 4 and plain.eval.epochs == 300, "its network is the card's, its protocol is not"
    for place, path in enumerate(leaves(card)):
        for number, value in enumerate(GARBAGE):
            if rule(path) in ("nothing", "words") and number != place % len(GARBAGE):
                continue  # one of the values for each of so many fields
            changed = deepcopy(card)
            table = changed
            for key in path[:-1]:
                table = table[key]
            table[path[-1]] = value
            changed.pop("card_sha256")
            (folder / "card.json").write_text(json.dumps(sealed_card(changed)))
            try:
                config = chosen(folder)
            except (DataError, ConfigError, RegistryError) as error:
                assert len(str(error).splitlines()) <= 6
                continue
            same = attrs.evolve(config, model=plain.model, augment=plain.augment, run=plain.run)
            assert same == plain, (path, value)
            if rule(path) != "network":
                assert (config.model, config.augment) == (plain.model, plain.augment), (path, value)


def foreign(finished, place, table, value):
    """A copy of the run with another table in its configuration, and its start for `ddfw eval`."""
    shutil.copytree(finished.out, place)
    tables = tomllib.loads((place / "config.toml").read_text())
    tables[table] = value
    (place / "config.toml").write_text(toml_text(tables))
    file = read_run_file(place / "config.toml", trust=False)
    assert not file.own
    start, _ = _start(None, file, read_images(place), place, ({}, ()))
    return configure(start, {}).config


OTHERS = {
    "experts": {"count": 10**9, "store": "../up"},
    "param": {"name": "pixel"},
    "traj": {"name": "mtt"},
    "loss": {"name": "nearest"},
    "labels": {"name": "hard"},
    "cross": {"x": {"name": "mlp", "width": 10**9}},
    "executor": {"name": "ray", "address": "ray://127.0.0.1:1"},
    "observers": {"x": {"name": "progress", "every_s": 1e-9}},
    "outer": {"steps": 10**9, "init_from": "/etc"},
    "window": {"max_start": 10**9},
    "gradient": {"memory": 10**15},
}


@pytest.mark.parametrize("table", sorted(OTHERS))
def test_a_table_of_a_configuration_from_outside_that_may_do_nothing_does_nothing(finished, tmp_path, table):
    """Broken: a directory that is only looked at would choose where and how much is computed."""
    assert CONFIG[table] == "nothing" and set(OTHERS) == {t for t, may in CONFIG.items() if may == "nothing"}
    plain = foreign(finished, tmp_path / "plain", "run", {"recipe": "default", "seed": 77})
    found = foreign(finished, tmp_path / "other", table, OTHERS[table])
    assert found == plain
    assert found.model.width == 4 and found.eval.epochs == 3, "its network and its protocol are the run's"


@pytest.mark.parametrize(
    "data",
    [
        {"name": "npz", "path": "x.npz"},
        {"name": "imagefolder", "path": "/etc"},
        {"name": "imagefolder", "path": "../.."},
        {"name": "npz", "path": "http://127.0.0.1:1/x"},
    ],
    ids=["here", "etc", "up", "address"],
)
def test_data_with_a_path_need_the_users_own_word(finished, tmp_path, data):
    """Broken: a file that a stranger names would be opened."""
    with pytest.raises(ConfigError, match=r"data\.path.*--data.*--trust-config"):
        foreign(finished, tmp_path / "run", "data", data)


def test_data_without_a_path_come_from_a_configuration_with_their_options(finished, tmp_path):
    """Broken: a colleague's run could not be evaluated as it was meant."""
    config = foreign(finished, tmp_path / "run", "data", {"name": "digits", "classes": [0, 1, 2], "test": 0.5})
    assert config.data.classes == (0, 1, 2) and config.data.test == 0.5


def test_what_leads_elsewhere_is_named(finished):
    """Broken: an honest configuration would look dangerous, or an address would not be named."""
    tables = tomllib.loads((finished.out / "config.toml").read_text())
    assert not reaching(tables)
    tables["executor"] = {"name": "ray", "address": "ray://x:1"}
    tables["observers"]["x"] = {"name": "x", "url": "http://x"}
    tables["experts"]["store"], tables["model"]["weights"] = "a", "/etc/x"
    named = {"executor.address", "observers.x.url", "experts.store", "model.weights"}
    assert {text.split(" ")[0] for text in reaching(tables)} == named


# --- which configurations are the user's own ------------------------------------------------------------------------


def test_a_run_that_was_made_here_is_the_users_own_wherever_it_lies(finished, tmp_path):
    """Broken: one's own runs would be refused after they were moved, or a stranger's edit of them would pass."""
    text = (finished.out / "config.toml").read_text()
    assert is_own_run(text)
    assert read_run_file(shutil.copy(finished.out / "config.toml", tmp_path / "config.toml"), trust=False).own
    assert not is_own_run(text.replace("seed = 0", "seed = 98765", 1)) and not is_own_run("")


def test_the_list_of_own_runs_is_private_and_grows_once_for_each(tmp_path, monkeypatch):
    """Broken: others could add to it, or it would grow with every start of the same run."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for _ in range(3):
        remember_run("a")
        remember_run("b")
    file = own_runs_file()
    assert file.is_relative_to(tmp_path) and len(file.read_text().split()) == 2
    assert file.stat().st_mode & 0o077 == 0 and file.parent.stat().st_mode & 0o077 == 0
    file.write_bytes(b"\xff damaged\n" + file.read_bytes()[:70])
    assert is_own_run("a") and not is_own_run("b")
    remember_run("b")
    remember_run("b")
    assert is_own_run("a") and is_own_run("b")


def test_a_run_goes_on_where_the_list_cannot_be_written(tmp_path, monkeypatch):
    """Broken: a run would fail for the sake of a list, or an unreadable list would let everybody in."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "below"))
    remember_run("a")
    assert not is_own_run("a")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    own_runs_file().parent.mkdir(parents=True)
    os.mkfifo(own_runs_file())
    remember_run("a")
    assert not is_own_run("a")


def test_a_loaded_set_has_the_data_of_ones_own_run_and_none_of_a_strangers_path(
    finished, ddfw, tiny, two_archives, tmp_path
):
    """Broken: `learned.data` would open a file that a stranger names, or would be lost for one's own runs."""
    import ddfw as package

    words = ("--data", "npz", "--set", f"data.path={two_archives[0]}", "--set=outer.steps=0", "--set=eval.baselines=[]")
    out = tmp_path / "run"
    start = [w for w in tiny if w != "--set=outer.steps=3"]
    said = ddfw(*start, *words, "--out", out, "--experts-dir", tmp_path / "experts", "-q")
    assert said.code == 0, said.err
    assert package.load(out).data.path == str(two_archives[0]) and package.load(out / "synthetic").data is not None
    assert ddfw("export", out, "--format", "npz", "--out", tmp_path / "set").code == 0
    learned = package.load(tmp_path / "set")
    assert learned.data is None and learned.model is not None and learned.augmentation is not None
    assert package.load(finished.out).data.name == "digits"
    text = (out / "config.toml").read_text()
    (out / "config.toml").write_text(text.replace("seed = 0", "seed = 5", 1))
    assert package.load(out).data is None
