"""`synthetic/`: what comes back is what was written, the counts are true, and damage is noticed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ddfw
from ddfw.artifacts import synthetic
from ddfw.contracts.space import AffineSpace
from ddfw.errors import DataError

SPACE = AffineSpace(kind="standard", max_value=16.0, mean=(0.1,), std=(0.7,))

FILES = ("params.safetensors", "images.safetensors", "labels.safetensors")


@pytest.fixture
def written(tmp_path):
    """A made-up set in tmp_path/run/synthetic, with what went into it."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 3, 3, generator=rng)
    targets = torch.rand(4, 2, generator=rng).softmax(dim=1)
    params = {"cores": torch.randn(4, 5, generator=rng), "order": torch.arange(4)}
    card = {
        "step_size": 0.0123456789012345,
        "selected": {"step": 7, "by": "validation"},
        "training_space": SPACE.record(),
        "source_data": {"class_names": ["a", "b"]},
        "note": "é",
    }
    folder = tmp_path / "run" / "synthetic"
    hashes = synthetic.write_set(folder, params, {"logits": targets.log()}, images, targets, SPACE, card)
    return folder, images, targets, params, hashes


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the tiny run that may be spoilt."""
    return shutil.copytree(small_run.directory, tmp_path / "copy")


def test_a_set_comes_back_bit_for_bit_from_the_run_or_its_folder(written):
    """Broken: users would train on other images than those that were evaluated."""
    folder, images, targets, _, _ = written
    for place in (folder, folder.parent, str(folder)):
        loaded = ddfw.load(place)
        assert torch.equal(loaded.images, images)
        assert torch.equal(loaded.targets, targets)
        assert loaded.step_size == 0.0123456789012345
        assert loaded.card["note"] == "é"
        assert loaded.step == 7
        assert (loaded.space.kind, loaded.space.max_value) == ("standard", 16.0)
        assert (loaded.space.mean, loaded.space.std) == ((0.1,), (0.7,))


def test_parameters_and_labels_are_stored_side_by_side_under_their_prefixes(written):
    """Broken: a parameter and a label tensor of one name would overwrite each other."""
    folder, _, targets, params, _ = written
    stored = load_file(folder / "params.safetensors")
    assert set(stored) == {"param.cores", "param.order", "labels.logits"}
    assert torch.equal(stored["param.cores"], params["cores"])
    assert torch.equal(stored["labels.logits"], targets.log())


def test_the_returned_hashes_are_those_on_the_card(written):
    """Broken: the manifest and the card would disagree about the same files."""
    folder, _, _, _, hashes = written
    assert set(hashes) == {*FILES, "card.json"}
    card = json.loads((folder / "card.json").read_text())
    assert card["sha256"] == {name: hashes[name] for name in FILES}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_set_with_a_damaged_tensor_file_is_refused(written, name, damage):
    """Broken: a damaged set would be loaded without a word."""
    folder = written[0]
    path = folder / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x01
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(bytes(data) if damage == "flip" else bytes(data[:-1]))
    with pytest.raises(DataError, match=name):
        ddfw.load(folder)


@pytest.mark.parametrize("key", ["sha256", "step_size", "training_space", "selected", "source_data"])
def test_a_card_that_lacks_something_is_a_data_error(written, key):
    """Broken: a card of another program would end in a KeyError."""
    folder = written[0]
    card = json.loads((folder / "card.json").read_text())
    del card[key]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=r"card\.json"):
        ddfw.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sha256", []), ("sha256", None), ("step_size", "fast"), ("training_space", 3), ("training_space", {"kind": 1})],
)
def test_a_card_with_garbled_values_is_a_data_error(written, key, value):
    """Broken: a hand-edited card would end in a TypeError."""
    folder = written[0]
    card = json.loads((folder / "card.json").read_text())
    card[key] = value
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(DataError):
        ddfw.load(folder)


def test_a_folder_without_a_set_is_a_data_error(tmp_path):
    """Broken: a wrong path would look like a bug of ddfw."""
    with pytest.raises(DataError, match=r"is no run and no export; expected a run directory or an export"):
        ddfw.load(tmp_path)


def test_a_real_run_stores_exactly_the_floats_that_its_card_counts(small_run):
    """Broken: the price of a method would be announced wrongly – the one thing that comparisons rest on."""
    stored = load_file(small_run.directory / "synthetic" / "params.safetensors")
    floats = ddfw.load(small_run.directory).card["floats"]
    elements = sum(np.prod(t.shape, dtype=int) for t in stored.values() if t.dtype.is_floating_point)
    # 8×8 images of 10 classes at rank 4: two 8×4 mappers once, 4×4 cores and 10 label floats for each image. One
    # image per class would buy 640 floats, so 64 + 10 · k · 26 ≤ 640 and k = 2.
    assert elements == floats["strict"] == 64 + 20 * (16 + 10) == 584
    assert floats["pixels"] == 64 + 20 * 16
    assert floats["labels"] == 20 * 10
    assert floats["budget"] == 640 and floats["over_budget"] is False


def test_a_real_runs_images_are_in_class_order_with_probabilities(small_run):
    """Broken: targets would belong to other images."""
    loaded = small_run.result.load()
    assert loaded.images.shape == (20, 1, 8, 8) and loaded.targets.shape == (20, 10)
    assert loaded.images.isfinite().all()
    assert torch.allclose(loaded.targets.sum(dim=1), torch.ones(20), atol=1e-5)
    assert loaded.card["images"]["per_class"] * 10 == loaded.card["images"]["count"] == 20
    assert loaded.card["images"]["shape"] == [1, 8, 8]


def test_the_stored_label_logits_are_those_of_the_stored_targets(small_run):
    """Broken: params.safetensors and labels.safetensors would describe different sets."""
    folder = small_run.directory / "synthetic"
    logits = load_file(folder / "params.safetensors")["labels.logits"].double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(load_file(folder / "labels.safetensors")["targets"].numpy(), expected, atol=1e-6)


def test_the_card_says_what_it_is_how_to_load_it_and_whose_data_it_comes_from(small_run):
    """Broken: a set that is passed on would lack what its user has to know."""
    card = json.loads((small_run.directory / "synthetic" / "card.json").read_text())
    assert card["schema"] == 1
    assert "digits" in card["what"]
    assert "ddfw.load" in card["load"]
    assert card["source_data"]["name"] == "digits"
    assert card["source_data"]["licence"] == "CC BY 4.0"
    assert card["source_data"]["class_names"] == [str(i) for i in range(10)]
    assert "no privacy guarantee" in card["privacy"]
    assert card["training_space"]["kind"] == "standard" and card["training_space"]["max_value"] == 16.0
    assert card["step_size"] == small_run.summary["step_size"] > 0
    assert card["components"]["param"]["name"] == "lss" and card["components"]["param"]["rank"] == 4
    assert card["components"]["labels"]["name"] == "soft" and card["components"]["model"]["width"] == 4
    assert len(card["citations"]) == len(set(card["citations"])) >= 3
    assert all(c.startswith("@") for c in card["citations"])
    assert any("zhong2025mct" in c for c in card["citations"])


def test_the_cards_accuracies_come_with_their_protocol_and_statistics(small_run):
    """Broken: an accuracy could not be compared with anyone else's."""
    card = json.loads((small_run.directory / "synthetic" / "card.json").read_text())
    found = {a["subject"]: a for a in card["accuracies"]}
    assert list(found) == ["distilled", *small_run.config.eval.baselines]
    for record in found.values():
        assert record["n"] == len(record["accuracies"]) == len(record["seeds"]) == 2
        assert record["mean"] == pytest.approx(np.mean(record["accuracies"]))
        assert record["std"] == pytest.approx(np.std(record["accuracies"], ddof=1))
        assert all(0 <= a <= 1 for a in record["accuracies"])
        assert record["split"] == "test"
    assert found["distilled"]["selected_by"] == "validation"
    assert found["full_data"]["selected_by"] == "nothing"
    assert found["distilled"]["step"] == card["selected"]["step"] == small_run.summary["selected_step"]
    assert found["distilled"]["floats"] == {"strict": 584, "pixels": 384}
    assert found["distilled"]["lr"] == card["step_size"]
    assert card["protocol"]["networks"] == 2 and card["protocol"]["epochs"] == 3


def test_the_training_space_on_the_card_is_measured_on_the_training_split(small_run):
    """Broken: users would decode the images to wrong pixels."""
    splits = small_run.config.data.load(None)
    pixels = splits.train.images.numpy() / 16.0
    space = small_run.result.load().space
    assert space.mean == pytest.approx((pixels.mean(),), rel=1e-12)
    assert space.std == pytest.approx((pixels.std(),), rel=1e-12)


def test_a_damaged_real_set_does_not_load_through_the_result_either(copy):
    """Broken: `result.load()` in a notebook would skip the check that the command line makes."""
    path = copy / "synthetic" / "images.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"images\.safetensors"):
        ddfw.load(copy)
