"""`digits`: real images, split fairly and the same way each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ddfw_plugins.datasets.digits import Digits


def rows(images):
    """Each image as bytes."""
    return [i.numpy().tobytes() for i in images]


@pytest.fixture(scope="module")
def splits():
    return Digits().load(None)


def test_shapes_types_and_values_are_those_of_the_contract(splits):
    """Broken: every other part would be given something else than it expects."""
    assert splits.spec.shape == (1, 8, 8) and splits.spec.num_classes == 10
    for part in (splits.train, splits.validation, splits.test.read()):
        assert part.images.dtype == torch.uint8 and part.images.shape[1:] == (1, 8, 8)
        assert part.labels.dtype == torch.int64 and len(part.labels) == len(part.images)
        assert sorted(part.labels.unique().tolist()) == list(range(10))
    assert splits.max_value == 16.0 and int(splits.train.images.max()) == 16
    assert splits.class_names == tuple(str(i) for i in range(10))
    assert splits.licence == "CC BY 4.0"


def test_the_three_splits_are_all_images_with_their_own_labels(splits):
    """Broken: images would be lost, doubled or mislabelled."""
    bunch = load_digits()
    expected = sorted((i.astype(np.uint8).tobytes(), int(t)) for i, t in zip(bunch.images, bunch.target, strict=True))
    parts = (splits.train, splits.validation, splits.test.read())
    found = sorted((i, int(t)) for p in parts for i, t in zip(rows(p.images), p.labels, strict=True))
    assert found == expected


def test_no_image_is_in_two_splits(splits):
    """Broken: the test split would have been seen in training. The data set itself holds no image twice."""
    parts = [set(rows(p.images)) for p in (splits.train, splits.validation, splits.test.read())]
    assert len(set().union(*parts)) == sum(len(p) for p in parts) == 1797


def test_every_class_gives_its_share_to_each_split(splits):
    """Broken: an accuracy would depend on which classes happen to be tested."""
    sizes = np.bincount(load_digits().target)
    test = splits.test.read().labels.bincount().numpy()
    validation = splits.validation.labels.bincount().numpy()
    assert np.abs(test - 0.2 * sizes).max() <= 1
    assert np.abs(validation - 0.1 * (sizes - test)).max() <= 1


def test_the_split_seed_decides_and_nothing_else(splits, tmp_path):
    """Broken: a second process would test on other images, or the seed would do nothing."""
    again, elsewhere, other = Digits().load(None), Digits().load(tmp_path), Digits(split_seed=1).load(None)
    for found in (again, elsewhere):
        assert torch.equal(found.train.images, splits.train.images)
        assert torch.equal(found.test.read().images, splits.test.read().images)
    assert set(rows(other.test.read().images)) != set(rows(splits.test.read().images))
    assert set(rows(other.validation.images)) != set(rows(splits.validation.images))


def test_the_validation_fraction_does_not_move_the_test_split(splits):
    """Broken: results with another validation fraction would be judged on other images."""
    other = Digits(validation=0.3).load(None)
    assert torch.equal(other.test.read().images, splits.test.read().images)
    assert len(other.validation.labels) == pytest.approx(0.3 * (1797 - len(other.test)), abs=10)


@pytest.mark.parametrize("field", ["test", "validation"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
def test_a_split_of_nothing_or_everything_is_refused(field, value):
    """Broken: an empty split would fail much later."""
    with pytest.raises(ValueError, match=field):
        Digits(**{field: value})


def test_loading_reads_no_file_below_the_data_root(tmp_path):
    """Broken: the data set that needs no download would need one."""
    assert Digits().load(tmp_path / "none").spec.num_classes == 10
    assert not Path(tmp_path / "none").exists()
