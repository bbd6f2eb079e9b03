"""`ddfw eval`: a stored set is judged as it was, and damage is noticed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest


@pytest.fixture
def copy(finished, here):
    """A copy of the finished run that may be changed."""
    return shutil.copytree(finished.out, here / "copy")


def test_the_runs_own_protocol_gives_the_runs_own_accuracies(ddfw, copy):
    """Broken: what a user takes away would not be what was evaluated."""
    said = ddfw("eval", copy, "--json")
    assert said.code == 0, said.err
    (record,) = said.events
    before = json.loads((copy / "eval" / "distilled.json").read_text())
    assert record["accuracies"] == before["accuracies"]
    assert (record["lr"], record["step"], record["floats"]) == (before["lr"], before["step"], before["floats"])
    assert record["split"] == "test"


def test_what_the_runs_configuration_asks_for_is_named_before_it_is_done(ddfw, copy, unsealed):
    """Broken: nobody would see what a directory makes the machine do, or all of it would be done for a stranger."""
    said = ddfw("eval", copy)
    words = "digits, convnet, executor cpu, 2 networks × 3 epochs"
    assert said.code == 0 and f"as {copy / 'config.toml'} says: {words}" in said.err
    unsealed(copy)
    config = copy / "config.toml"
    config.write_text(config.read_text() + "# edited\n")
    said = ddfw("eval", copy, "-q")
    assert said.code == 0 and "was not run by you here" in said.err and "--trust-config" in said.err
    assert words in said.err, said.err
    said = ddfw("eval", copy, "-q", "--trust-config")
    assert said.code == 0 and said.err == ""


def test_more_networks_contain_the_first_ones(ddfw, copy):
    """Broken: network i would depend on how many others there are."""
    before = json.loads((copy / "eval" / "distilled.json").read_text())["accuracies"]
    (record,) = ddfw("eval", copy, "--networks", "3", "--json").events
    assert record["n"] == 3 and record["accuracies"][:2] == before
    assert record["mean"] == pytest.approx(np.mean(record["accuracies"]))
    assert record["std"] == pytest.approx(np.std(record["accuracies"], ddof=1))


def test_another_seed_gives_other_networks_and_another_file(ddfw, copy):
    """Broken: a repetition would be a copy, or overwrite the run's own evaluation."""
    own = (copy / "eval" / "distilled.json").read_bytes()
    files = {p.name for p in (copy / "eval").iterdir()}
    (first,) = ddfw("eval", copy, "--json").events
    (other,) = ddfw("eval", copy, "--seed", "7", "--networks", "4", "--json").events
    assert other["accuracies"][:2] != first["accuracies"] and other["eval_seed"] == 7
    added = {p.name for p in (copy / "eval").iterdir()} - files
    assert len(added) == 2
    assert (copy / "eval" / "distilled.json").read_bytes() == own


def test_people_get_one_line_and_the_place_of_the_file(ddfw, copy):
    """Broken: the result would be hard to read, or hard to find."""
    said = ddfw("eval", copy)
    record = json.loads(next((copy / "eval").glob("again-*")).read_text())
    assert said.code == 0
    assert f"{100 * record['mean']:.1f} ± {100 * record['std']:.1f} %" in said.out.splitlines()[0]
    assert "again-" in said.out.splitlines()[1] and "\x1b" not in said.out


@pytest.mark.parametrize("name", ["images.safetensors", "labels.safetensors", "params.safetensors"])
def test_a_corrupted_set_is_refused_and_the_file_named(ddfw, copy, name):
    """Broken: an accuracy would be measured on damaged images."""
    path = copy / "synthetic" / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x08
    path.write_bytes(bytes(data))
    ddfw("eval", copy).refused(4, name, "damaged")


@pytest.mark.parametrize("key", ["selected", "step_size", "training_space", "sha256"])
def test_a_card_with_a_hole_is_a_data_error(ddfw, copy, key):
    """Broken: a card that lacks something would end as an internal error."""
    card = json.loads((copy / "synthetic" / "card.json").read_text())
    del card[key]
    (copy / "synthetic" / "card.json").write_text(json.dumps(card))
    ddfw("eval", copy).refused(4, "card.json")


def test_what_is_no_run_or_not_finished_is_a_data_error(ddfw, copy, here):
    """Broken: a wrong path would be an internal error."""
    ddfw("eval", here / "none").refused(4, "none", "config.toml")
    shutil.rmtree(copy / "synthetic")
    ddfw("eval", copy).refused(4, "card.json")
    (copy / "config.toml").write_bytes(b"\xff\xfe")
    ddfw("eval", copy).refused(4, "config.toml")


def test_a_single_network_has_no_deviation_and_is_refused(ddfw, copy):
    """Broken: ± 0.0 would look like perfect agreement."""
    ddfw("eval", copy, "--networks", "1").refused(2, "--networks")
