"""`mtt`: tensors that MTT and DATM read, and sets of theirs."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch

import ddfw
from ddfw import DataError

IMAGES = torch.linspace(-1, 1, 6 * 64).view(6, 1, 8, 8)


def test_the_pt_files_are_tensors_alone(exported, learned):
    """Broken: programs that load with weights_only would refuse them."""
    images, labels, lr = (
        torch.load(exported / "mtt" / f"{name}_best.pt", weights_only=True) for name in ("images", "labels", "lr")
    )
    assert torch.equal(images, learned.images) and not images.requires_grad
    assert labels.shape == (20, 10) and torch.equal(labels, learned.targets)
    assert float(lr) == learned.step_size


def one_hot(learned):
    labels = learned.targets.argmax(dim=1)
    return attrs.evolve(learned, targets=torch.nn.functional.one_hot(labels, 10).to(learned.images.dtype)), labels


def test_hard_labels_are_classes_in_the_pt_files(learned, tmp_path):
    """Broken: cross entropy of other programs would take one-hot rows for soft labels, or refuse them."""
    hard, labels = one_hot(learned)
    ddfw.export(hard, "mtt", tmp_path / "hard")
    found = torch.load(tmp_path / "hard" / "labels_best.pt", weights_only=True)
    assert found.dtype == torch.int64 and torch.equal(found, labels)
    again = ddfw.load(tmp_path / "hard")
    assert torch.equal(again.targets, hard.targets) and again.targets.dtype == hard.targets.dtype


def test_soft_labels_that_are_nearly_certain_stay_soft(learned, tmp_path):
    """Broken: where the largest probability rounds to 1, the rest of a row would be lost."""
    targets = torch.full((20, 10), 1e-9)
    targets[torch.arange(20), torch.arange(20) // 2] = 1.0
    ddfw.export(attrs.evolve(learned, targets=targets), "mtt", tmp_path / "certain")
    assert torch.equal(ddfw.load(tmp_path / "certain").targets, targets)


def test_logits_become_probabilities_with_a_note(bare):
    """Broken: networks would learn from logits as if they were probabilities."""
    logits = torch.tensor(np.random.default_rng(0).normal(size=(6, 3)), dtype=torch.float32)
    found = ddfw.read_images(bare(IMAGES, logits))
    expected = np.exp(logits.double().numpy())
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.targets.numpy(), expected, rtol=1e-6)
    assert any("softmax" in note for note in found.notes)
    certain = ddfw.read_images(bare(IMAGES, torch.from_numpy(expected)))
    assert certain.notes == () and torch.equal(certain.targets, torch.from_numpy(expected).float())


def test_whole_numbers_are_classes_whatever_their_type(bare):
    """Broken: labels that another program saved as floats would be refused, or 2.5 be class 2."""
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64):
        found = ddfw.read_images(bare(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2], dtype=dtype)))
        assert found.targets.dtype == torch.int64 and found.targets.tolist() == [0, 1, 2, 0, 1, 2]
    for odd in ([0, 1, 2.5, 0, 1, 2], [0, 1, 2, 0, 1, float("nan")], [0, 1, float("inf"), 0, 1, 2]):
        with pytest.raises(DataError):
            ddfw.read_images(bare(IMAGES, torch.tensor(odd)))


def test_a_learning_rate_beside_the_images_is_taken_and_a_wrong_one_refused(bare):
    """Broken: networks would train with another step size than the set was learned for."""
    labels = torch.arange(6)
    assert ddfw.read_images(bare(IMAGES, labels)).step_size is None
    for lr in (torch.tensor(0.25), torch.tensor([0.25]), torch.nn.Parameter(torch.tensor(0.25))):
        assert ddfw.read_images(bare(IMAGES, labels, lr)).step_size == 0.25
    for lr in (torch.tensor(-0.1), torch.tensor(0.0), torch.tensor(float("nan")), torch.tensor([0.1, 0.2])):
        with pytest.raises(DataError, match="lr_best"):
            ddfw.read_images(bare(IMAGES, labels, lr))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES[:5], torch.arange(6)),
        (IMAGES[0], torch.arange(1)),
        (IMAGES[:0], torch.arange(0)),
        (IMAGES.to(torch.uint8), torch.arange(6)),
        (IMAGES / 0, torch.arange(6)),
        (IMAGES, torch.zeros(6, 3, 2)),
        (IMAGES, torch.zeros(6, dtype=torch.complex64)),
        (IMAGES.to_sparse(), torch.arange(6)),
        ([IMAGES], torch.arange(6)),
        ({"images": IMAGES}, torch.arange(6)),
        (torch.empty(6, 1, 8, 8, device="meta"), torch.arange(6)),
        (torch.zeros(1).expand(10**12, 1, 8, 8), torch.arange(6)),
    ],
    ids=[
        *("fewer-images", "no-batch", "empty", "bytes", "not-finite", "labels-3d", "complex", "sparse", "list", "dict"),
        *("meta", "more-than-any-memory"),
    ],
)
def test_tensors_that_are_no_labelled_images_are_a_data_error(bare, images, labels):
    """Broken: whatever lies in a .pt file would be trained on, or end as an internal error."""
    with pytest.raises(DataError):
        ddfw.read_images(bare(images, labels))


def test_the_best_images_of_a_folder_are_taken_else_the_last(bare):
    """Broken: of a folder with every iteration, the one before any learning would be judged."""
    folder = bare(IMAGES, torch.arange(6))
    for step in (0, 500, 1000):
        torch.save(IMAGES + step, folder / f"images_{step}.pt")
        torch.save(torch.arange(6), folder / f"labels_{step}.pt")
    assert torch.equal(ddfw.read_images(folder).images, IMAGES)
    assert torch.equal(ddfw.read_images(folder / "images_500.pt").images, IMAGES + 500)
    (folder / "images_best.pt").unlink()
    try:
        found = ddfw.read_images(folder)
    except DataError:
        return  # asking which one is as good
    assert torch.equal(found.images, IMAGES + 1000)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_a_column_of_labels_is_class_numbers(bare, dtype):
    """Broken: labels [n, 1] would be taken for logits of one class; data sets with such labels mean class numbers."""
    found = ddfw.read_images(bare(IMAGES, torch.tensor([0, 1, 2, 0, 1, 2], dtype=dtype)[:, None]))
    assert found.targets.dtype == torch.int64 and found.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.notes == ()
    assert ddfw.read_images(bare(IMAGES, torch.ones(6, 1))).targets.tolist() == [1] * 6
    with pytest.raises(DataError, match="whole numbers"):
        ddfw.read_images(bare(IMAGES, torch.rand(6, 1) + 0.1))


def test_rows_with_a_one_are_probabilities(bare):
    """Broken: one-hot labels would be logits, and every image belong to all classes."""
    rows = torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    for labels in (rows, rows.long(), rows.bool()):
        found = ddfw.read_images(bare(IMAGES, labels))
        assert torch.equal(found.targets, rows) and found.notes == ()


def test_a_named_learning_rate_replaces_a_wrong_one(bare):
    """Broken: a set with a bad learning rate beside it could not be used at all."""
    for lr in (torch.tensor(-0.1), torch.tensor(float("nan")), torch.tensor([0.1, 0.2])):
        assert ddfw.read_images(bare(IMAGES, torch.arange(6), lr), lr=0.5).step_size == 0.5
