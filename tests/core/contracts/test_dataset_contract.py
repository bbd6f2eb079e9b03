"""Splits, the seal on the test split, and the map between pixels and training space."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import pytest
import torch
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw.contracts.dataset import AbstractDataset, ImageSpec, RealImages, SealedSplit, Split, Splits, stratified_split
from ddfw.contracts.space import AffineSpace
from ddfw.errors import DataError

CLASS_SIZES = st.lists(st.integers(2, 40), min_size=1, max_size=5)


def split(labels, images=None, **shape):
    labels = torch.as_tensor(labels)
    if images is None:
        sides = {"c": 1, "h": 2, "w": 3, **shape}
        images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
        images = images.repeat(1, sides["c"], sides["h"], sides["w"])
    return Split(images=images, labels=labels)


def carve(train, test, names=("a", "b"), max_value=255.0, fraction=0.25, seed=0):
    return Splits.carve(
        train, test, validation_fraction=fraction, split_seed=seed, max_value=max_value, class_names=names,
        source="s", licence="l",
    )  # fmt: skip


@settings(deadline=None)
@given(sizes=CLASS_SIZES, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**63 - 1))
def test_a_stratified_split_takes_its_share_of_every_class(sizes, fraction, seed):
    """Broken: a class could be missing from training or validation, or an image be in both."""
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed % 97))]
    kept, held = stratified_split(labels, fraction, seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist()) and held.tolist() == sorted(held.tolist())
    for label, size in enumerate(sizes):
        taken = int((labels[held] == label).sum())
        assert 1 <= taken <= size - 1
        assert abs(taken - fraction * size) <= 1


def test_the_seed_decides_the_split_and_the_global_generator_does_not():
    """Broken: validation images of one run would be training images of the next."""
    labels = torch.arange(2).repeat_interleave(50)
    first = stratified_split(labels, 0.2, 1)
    torch.rand(3)
    again, other = stratified_split(labels, 0.2, 1), stratified_split(labels, 0.2, 2)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_carving_keeps_images_with_their_labels_and_loses_none():
    """Broken: images and labels would be shuffled against each other."""
    labels = torch.tensor([i % 2 for i in range(40)])
    found = carve(split(labels), split([0, 1]))
    numbers = torch.cat([found.train.images[:, 0, 0, 0], found.validation.images[:, 0, 0, 0]])
    assert sorted(numbers.tolist()) == list(range(40))
    for part in (found.train, found.validation):
        assert torch.equal(part.labels, part.images[:, 0, 0, 0] % 2)
    assert len(found.validation.labels) == 10
    assert found.spec == ImageSpec(channels=1, height=2, width=3, num_classes=2)
    assert (found.max_value, found.class_names, found.source, found.licence) == (255.0, ("a", "b"), "s", "l")


def test_the_test_split_is_handed_over_whole_and_every_reading_is_counted():
    """Broken: nobody could show that the test split was read once."""
    test = split([0, 1, 1])
    found = carve(split([0, 1] * 4), test)
    assert found.test.reads == 0 and len(found.test) == 3
    assert found.test.reads == 0
    assert found.test.read() is test
    assert found.test.reads == 1
    found.test.read()
    assert found.test.reads == 2


def test_the_seal_cannot_be_reset_by_whoever_makes_it():
    """Broken: a reader could claim readings that did not happen, or hide some."""
    with pytest.raises(TypeError):
        SealedSplit(split([0, 1]), reads=5)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (split([0, 1] * 4), split([0, 2]), r"test: labels .* expected \[0, 1\]"),
        (split([0, 1, -1, 0]), split([0, 1]), r"train: labels"),
        (split([0, 1] * 4), split([0, 1], h=5), "both splits need one shape"),
        (split([0, 1] * 4), split([0, 1], c=3), "both splits need one shape"),
        (split([0, 0, 0, 0]), split([0, 1]), "at least 2 training images.*b"),
        (split([0, 0, 0, 1]), split([0, 1]), "at least 2 training images.*b"),
        (split(torch.zeros(0, dtype=torch.int64)), split([0, 1]), "train: expected images"),
        (split([0, 1] * 4), split(torch.zeros(0, dtype=torch.int64)), "test: expected images"),
        (split([0, 1, 0], images=torch.zeros(4, 1, 2, 2)), split([0, 1]), "train: expected images"),
        (split([0, 1], images=torch.zeros(2, 2, 2)), split([0, 1]), "train: expected images"),
        (split([[0, 1], [0, 1]], images=torch.zeros(2, 1, 2, 3)), split([0, 1]), "train: expected images"),
        (split([0, 1] * 2, images=torch.full((4, 1, 2, 3), 256.0)), split([0, 1]), "train: pixels .* 255"),
        (split([0, 1] * 2, images=torch.full((4, 1, 2, 3), -0.1)), split([0, 1]), "train: pixels"),
        (split([0, 1] * 2), split([0, 1], images=torch.full((2, 1, 2, 3), float("nan"))), "test: pixels .*NaN"),
        (split([0, 1] * 2), split([0, 1], images=torch.full((2, 1, 2, 3), float("inf"))), "test: pixels"),
    ],
)
def test_impossible_data_is_refused_by_name(train, test, message):
    """Broken: a garbled data set would fail deep inside training, or train on nonsense."""
    with pytest.raises(DataError, match=message):
        carve(train, test)


def test_a_single_bad_pixel_among_many_is_found():
    """Broken: one NaN would poison every network without a word."""
    images = torch.rand(8, 1, 2, 3)
    images[5, 0, 1, 2] = float("nan")
    with pytest.raises(DataError, match="NaN"):
        carve(split([0, 1] * 4, images=images), split([0, 1], images=torch.rand(2, 1, 2, 3)), max_value=1.0)


@pytest.mark.parametrize("height", [0, 3])
def test_images_without_pixels_are_refused(height):
    """Broken: an empty axis would end as an internal error."""
    empty = torch.zeros(4, 1, height, 0, dtype=torch.uint8)
    with pytest.raises(DataError):
        carve(split([0, 1, 0, 1], images=empty), split([0, 1, 0, 1], images=empty))


def random_images(channels=3, dtype=torch.uint8):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (20, channels, 5, 4), generator=rng).to(dtype)


def test_the_standard_space_is_measured_per_channel_by_the_closed_form():
    """Broken: networks would see data that is off centre."""
    raw = random_images()
    space = AffineSpace.fit("standard", raw, 255.0)
    pixels = raw.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(space.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(space.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    found = space.encode(raw, torch.float64).numpy()
    expected = (pixels - pixels.mean((0, 2, 3), keepdims=True)) / pixels.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", ["standard", "none"])
def test_decoding_undoes_encoding(dtype, tolerance, kind):
    """Broken: pictures and exported images would have wrong colours."""
    raw = random_images()
    space = AffineSpace.fit(kind, raw, 255.0)
    encoded = space.encode(raw, dtype)
    assert encoded.dtype == dtype and encoded.shape == raw.shape
    decoded = space.decode(encoded)
    assert decoded.dtype == dtype
    np.testing.assert_allclose(decoded.numpy(), raw.numpy() / 255, rtol=0, atol=tolerance)


def test_the_plain_space_is_pixels_from_nought_to_one():
    """Broken: `space = none` would still shift or scale."""
    raw = torch.tensor([0.0, 4.0, 16.0]).view(3, 1, 1, 1)
    space = AffineSpace.fit("none", raw, 16.0)
    assert space.encode(raw, torch.float32).flatten().tolist() == [0.0, 0.25, 1.0]
    assert (space.mean, space.std) == ((0.0,), (1.0,))


def test_learned_images_outside_the_range_are_not_clipped_when_decoded():
    """Broken: decoding and encoding again would change a learned set."""
    space = AffineSpace(kind="standard", max_value=1.0, mean=(0.5,), std=(0.25,))
    images = torch.tensor([-8.0, 0.0, 8.0]).view(3, 1, 1, 1)
    assert space.decode(images).flatten().tolist() == [-1.5, 0.5, 2.5]


def test_a_constant_channel_stays_finite():
    """Broken: a data set with an empty colour channel would turn into NaN."""
    raw = random_images(channels=2)
    raw[:, 1] = 7
    space = AffineSpace.fit("standard", raw, 255.0)
    encoded = space.encode(raw, torch.float32)
    assert encoded.isfinite().all() and encoded[:, 1].abs().max() < 1


def test_the_measured_space_does_not_depend_on_the_number_of_threads():
    """Broken: the key of the expert cache holds these numbers, so another thread count would retrain every expert."""
    raw = torch.randint(0, 17, (1300, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(AffineSpace.fit("standard", raw, 16.0))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("per_class", [1, 3, 5, 12])
def test_picked_images_stand_in_class_order_and_repeat_only_when_a_class_runs_out(per_class):
    """Broken: a synthetic image could start from another class, or twice from the same image without need."""
    labels = torch.tensor([2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 1, 1, 2, 1, 2])
    real = RealImages(images=torch.zeros(15, 1, 1, 1), labels=labels, num_classes=3)
    picked = real.pick(per_class, torch.Generator().manual_seed(3))
    assert labels[picked].tolist() == [c for c in range(3) for _ in range(per_class)]
    for c in range(3):
        uses = torch.bincount(picked[c * per_class : (c + 1) * per_class], minlength=15)[labels == c]
        assert int(uses.max() - uses.min()) <= 1
    assert torch.equal(picked, real.pick(per_class, torch.Generator().manual_seed(3)))
    assert per_class == 5 or not torch.equal(picked, real.pick(per_class, torch.Generator().manual_seed(4)))


def distinct(labels, first=0, **shape):
    """Images that are all different."""
    found = split(labels, **shape)
    numbers = torch.arange(first, first + len(found.labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return Split(images=numbers.expand_as(found.images).clone(), labels=found.labels)


def a_data_set(train, test, validation=None, names=("a", "b", "c"), max_value=255.0):
    """A data set of somebody else's, which builds its splits without `carve`."""

    @final
    @frozen(kw_only=True)
    class Own(AbstractDataset):
        """Somebody's."""

        name: ClassVar[str] = "own"

        def load(self, root):
            return Splits(
                train=train,
                validation=test if validation is None else validation,
                test=SealedSplit(test),
                spec=ImageSpec(channels=1, height=2, width=3, num_classes=len(names)),
                max_value=max_value,
                class_names=names,
                source="s",
                licence="l",
            )

    return Own()


TRAIN, TEST = distinct([0, 1, 2] * 40), distinct([0, 1, 2], first=200)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": distinct([0] * 9), "test": distinct([0], 50), "names": ("a",)}, "1 class; a network needs two"),
        ({"train": distinct([0, 2] * 9)}, "no training image of class b"),
        ({"train": distinct([1, 2] * 9)}, r"train: labels lie in \[1, 2\], but count from 0: save them as labels - 1"),
        ({"train": distinct([1, 2, 3] * 9)}, r"labels lie in \[1, 3\], expected \[0, 2\]; .*save them as labels - 1"),
        ({"test": distinct([0, 3]), "validation": TEST}, r"test: labels lie in \[0, 3\], expected \[0, 2\]"),
        ({"validation": distinct([0, -1])}, "validation: labels lie in"),
        ({"validation": distinct([0, 1], h=5)}, "train images .* but validation images"),
        ({"names": ("a", "b", "b")}, "two classes are named 'b'"),
        ({"train": Split(images=TRAIN.images, labels=TRAIN.labels == 1)}, "labels are torch.bool, expected"),
        ({"train": Split(images=TRAIN.images, labels=TRAIN.labels.float())}, "labels are torch.float32"),
        ({"train": Split(images=TRAIN.images.to(torch.uint16), labels=TRAIN.labels)}, "images are torch.uint16"),
        ({"train": Split(images=TRAIN.images * 0, labels=TRAIN.labels)}, "all 120 training images are the same"),
        ({"max_value": 9.0}, "train: pixels lie in"),
    ],
)
def test_a_data_set_that_builds_its_splits_itself_is_checked_like_any_other(changes, message):
    """Broken: a data set of a plugin would reach training with one class, or with labels of no class."""
    with pytest.raises(DataError, match=message):
        a_data_set(**{"train": TRAIN, "test": TEST, **changes}).splits(None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ()),
        ({"test": distinct([0, 0], 200), "validation": TEST}, ("2 of 3 classes have no test image (classes b, c)",)),
        ({"validation": distinct([1, 2], 210)}, ("1 of 3 classes have no validation image (class a)",)),
        (
            {"test": Split(images=TRAIN.images[:30], labels=TRAIN.labels[:30]), "validation": TEST},
            ("30 of the 30 test images are copies of training images", "brightest test pixel is 29"),
        ),
        (
            {"train": Split(images=TRAIN.images // 2, labels=TRAIN.labels), "validation": distinct([0, 1, 2], 70)},
            ("60 of the 120 train images are copies of others", "60 train images are copies of training images of ano"),
        ),
        ({"max_value": 4000.0}, ("the brightest training pixel is 119 of 4000",)),
    ],
)
def test_what_makes_figures_mean_something_else_is_said(changes, said):
    """Broken: nobody would know that some classes were never tested, or that test images were trained on."""
    data = a_data_set(**{"train": TRAIN, "test": TEST, **changes})
    splits = data.splits(None)
    for words in said:
        assert any(words in note for note in splits.notes), splits.notes
    assert said or splits.notes == ()
    assert splits.test.reads == 0


def test_many_classes_without_test_images_are_counted_and_five_are_named():
    """Broken: a note of a thousand names."""
    names = tuple(f"c{k}" for k in range(9))
    train = distinct(list(range(9)) * 3)
    splits = a_data_set(train, distinct([0], 200), distinct(range(9), 100), names=names).splits(None)
    assert "8 of 9 classes have no test image (classes c1, c2, c3, c4, c5, …)" in splits.notes[0]
