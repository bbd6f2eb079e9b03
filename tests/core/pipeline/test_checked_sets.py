"""Sets whose hashes are right and whose tensors are not: each entrance refuses them and names the file."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file

import ddfw
from ddfw import DataError
from ddfw.artifacts import atomic
from ddfw.artifacts.expert_store import ExpertStore
from ddfw.artifacts.snapshots import Snapshot, read_snapshot, write_snapshot
from ddfw.artifacts.synthetic import read_learned, sealed_card
from ddfw.cli.main import invoke
from ddfw.contracts.executor import TrainedExpert
from ddfw.contracts.space import WhitenedSpace
from ddfw.engine.inner import Network

OLD = Path(__file__).parents[2] / "fixtures" / "v0_1"
NAN, INF = float("nan"), float("inf")


def sealed(folder, **facts):
    """Gives a card other facts and the hashes that fit the files beside it, as anybody can."""
    card = {**json.loads((folder / "card.json").read_text()), **facts}
    card["sha256"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in card["sha256"]}
    card.pop("card_sha256")
    (folder / "card.json").write_text(json.dumps(sealed_card(card)))


@pytest.fixture
def run(tmp_path):
    """A copy of a run that may be spoilt."""
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


@pytest.fixture
def export(tmp_path):
    """A copy of an export that may be spoilt."""
    return Path(shutil.copytree(OLD / "exports" / "safetensors", tmp_path / "export"))


def changed(path, key, change):
    """Changes one tensor of a file."""
    tensors = load_file(path)
    tensors[key] = change(tensors[key])
    atomic.write_tensors(path, tensors, {"schema": 1})


def with_value(value):
    def change(tensor):
        tensor.view(-1)[3] = value
        return tensor

    return change


IMAGES = {
    "NaN": with_value(NAN),
    "infinity": with_value(INF),
    "minus infinity": with_value(-INF),
    "no images": lambda t: t[:0],
    "no pixels": lambda t: t[:, :, :0],
    "no channels": lambda t: t[:, 0],
    "whole numbers": lambda t: t.to(torch.int64),
    "bytes": lambda t: t.to(torch.uint8),
    "truth values": lambda t: t > 0,
}
TARGETS = {
    "NaN": with_value(NAN),
    "infinity": with_value(INF),
    "negative": with_value(-1.0),
    "no classes": lambda t: t[:, :0],
    "fewer": lambda t: t[:5],
    "three axes": lambda t: t[None],
    "too large": lambda t: t * 2,
    "truth values": lambda t: t > 0,
    "fewer classes": lambda t: t[:, :5] / t[:, :5].sum(dim=1, keepdim=True),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_that_are_none_are_refused_with_their_file_however_they_enter(run, export, tmp_path, kind):
    """Broken: sealed NaN would be trained on, and only their figures would show it, if at all."""
    changed(run / "synthetic" / "images.safetensors", "images", IMAGES[kind])
    sealed(run / "synthetic")
    changed(export / "set.safetensors", "images", IMAGES[kind])
    sealed(export)
    for path, file in ((run, r"images\.safetensors"), (export, r"set\.safetensors")):
        for enter in (ddfw.load, ddfw.read_images, lambda p: ddfw.export(p, "npz", tmp_path / "out")):
            with pytest.raises(DataError, match=file):
                enter(path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", TARGETS)
def test_labels_that_are_none_are_refused_with_their_file(run, kind):
    """Broken: a network would be trained on labels that are no probabilities."""
    changed(run / "synthetic" / "labels.safetensors", "targets", TARGETS[kind])
    sealed(run / "synthetic")
    file = r"card\.json.*5 classes.*names 10" if kind == "fewer classes" else r"labels\.safetensors"
    for enter in (ddfw.load, ddfw.read_images):
        with pytest.raises(DataError, match=file):
            enter(run)


@pytest.mark.parametrize("rate", [NAN, INF, 0.0, -0.1, "fast", None, 10**400])
def test_a_step_size_that_is_no_positive_number_is_refused_with_its_card(run, rate):
    """Broken: networks would be trained with it."""
    sealed(run / "synthetic", step_size=rate)
    for enter in (ddfw.load, ddfw.read_images):
        with pytest.raises(DataError, match=r"card\.json"):
            enter(run)


@pytest.mark.parametrize(
    "space",
    [
        {"mean": [NAN]},
        {"std": [0.0]},
        {"std": [1e-300]},
        {"std": [1e300]},
        {"max_value": INF},
        {"max_value": -16.0},
        {"max_value": 1e308},
        {"mean": [0.1] * 3, "std": [1.0] * 3},
    ],
)
def test_a_training_space_that_gives_no_pixels_is_refused(run, space):
    """Broken: the pixels of a set would be infinite, though its images are not."""
    there = json.loads((run / "synthetic" / "card.json").read_text())["training_space"]
    sealed(run / "synthetic", training_space={**there, **space})
    with pytest.raises(DataError, match=r"card\.json"):
        ddfw.load(run)


def test_stored_parameters_and_matrices_have_to_be_finite_and_to_fit(run, tmp_path):
    """Broken: a run that starts from a set would start from NaN; a long mean would ask for a terabyte."""
    path = run / "synthetic" / "params.safetensors"
    key = next(k for k, t in load_file(path).items() if t.is_floating_point())
    changed(path, key, with_value(NAN))
    sealed(run / "synthetic")
    with pytest.raises(DataError, match=r"params\.safetensors.*NaN or infinite"):
        read_learned(run)
    learned = ddfw.load(OLD / "run")
    pixels = learned.space.decode(learned.images).clamp(0, 1)
    space = WhitenedSpace.fit(pixels, 1.0, 0.1)
    white = evolve(learned, images=space.encode(pixels, torch.float32), space=space)
    card = {**learned.card, "training_space": space.record()}
    ddfw.export(evolve(white, card=card), "safetensors", tmp_path / "white")
    assert torch.equal(ddfw.load(tmp_path / "white").images, white.images)
    for name, change in (("mean", lambda t: torch.zeros(10**6)), ("transform_upper", with_value(INF))):
        spoilt = Path(shutil.copytree(tmp_path / "white", tmp_path / name))
        changed(spoilt / "space.safetensors", name, change)
        sealed(spoilt)
        with pytest.raises(DataError, match=r"space\.safetensors"):
            ddfw.load(spoilt)


def test_a_set_in_memory_that_is_no_longer_finite_is_not_exported(tmp_path):
    """Broken: what a notebook spoilt would be given away with hashes that fit."""
    learned = ddfw.load(OLD / "run")
    for spoilt in (evolve(learned, images=learned.images * NAN), evolve(learned, step_size=INF)):
        with pytest.raises(DataError, match="nothing was written"):
            ddfw.export(spoilt, "npz", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_experts_and_snapshots_have_to_be_finite(tmp_path):
    """Broken: a trajectory through NaN would be matched, or a page would show nothing."""
    network = Network(torch.nn.Linear(3, 2))
    store = ExpertStore(tmp_path, {"data": "toy"}, "toy-net")
    rows = torch.rand(3, 8)
    rows[2, 5] = NAN
    store.add(TrainedExpert(seed=0, snapshots=rows, validation_accuracy=(), train_loss=()), network)
    source = store.source([0], network, torch.device("cpu"), torch.float32)
    assert torch.equal(source.snapshots(0, [0, 1]), rows[:2])
    with pytest.raises(DataError, match=r"expert-0\.safetensors: snapshots holds values that are NaN"):
        source.snapshots(0, [1, 2])
    shown = Snapshot(pixels=torch.rand(2, 1, 3, 3) / 0, targets=torch.eye(2), per_class=1, of_per_class=1, step=5)
    write_snapshot(tmp_path, shown)
    with pytest.raises(DataError, match=r"step-000005\.safetensors: pixels holds values that are NaN or infinite"):
        read_snapshot(tmp_path, 5)


@pytest.mark.parametrize("command", [["eval"], ["export", "--format", "npz", "--out", "out"], ["run", "--init-from"]])
def test_the_commands_refuse_it_in_one_line(run, capsys, monkeypatch, tmp_path, command):
    """Broken: a command would compute with NaN, or end in a traceback."""
    monkeypatch.chdir(tmp_path)
    changed(run / "synthetic" / "images.safetensors", "images", with_value(NAN))
    sealed(run / "synthetic")
    assert invoke([*command, str(run)]) == 4
    said = capsys.readouterr().err.strip()
    assert "images.safetensors: images are not finite numbers" in said.splitlines()[-1] and "Traceback" not in said
