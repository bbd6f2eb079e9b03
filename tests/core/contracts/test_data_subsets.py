"""`data.classes`, `data.per_class`, `data.test_per_class`: a seeded, fair part of any data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw.cli.main import invoke
from ddfw.contracts.dataset import Split, Splits
from ddfw.errors import DataError, OptionError
from ddfw_plugins.datasets.digits import Digits
from ddfw_plugins.datasets.npz import Npz


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Writes an .npz in which every image is its own number, so that images can be told apart."""
    place = tmp_path_factory.mktemp("archives")

    def write(train, test, name="set", **options):
        arrays = {}
        first = 0
        for which, sizes in (("train", train), ("test", test)):
            labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
            ids = np.arange(first, first + len(labels))
            first += len(labels)
            images = np.zeros((len(labels), 2, 2), np.float32)
            images[:, 0, 0], images[:, 0, 1] = ids / 1000, labels / 1000
            arrays |= {f"{which}_images": images, f"{which}_labels": labels}
        np.savez(place / f"{name}.npz", **arrays)
        return Npz(path=str(place / f"{name}.npz"), **options)

    return write


def ids(split):
    return [round(1000 * v) for v in split.images[:, 0, 0, 0].tolist()]


def parts(splits):
    """Train, validation and test; the seal is not broken, this is a test of the data themselves."""
    return splits.train, splits.validation, splits.test.read()


def sizes(split, m):
    return split.labels.bincount(minlength=m).tolist()


def data_sets(archive, **options):
    return {
        "digits": Digits(**options),
        "npz": archive([40, 50, 60, 45, 41, 42, 43, 44, 46, 47], [12] * 10, name="both", **options),
    }


@pytest.mark.parametrize("name", ["digits", "npz"])
def test_per_class_counts_the_images_for_validation(archive, name):
    """Broken: a user who asks for 20 images of each class would use 22."""
    found = data_sets(archive, per_class=20, validation=0.2)[name].splits(None)
    train, validation, test = parts(found)
    assert sizes(train, 10) == [16] * 10 and sizes(validation, 10) == [4] * 10
    whole = data_sets(archive, validation=0.2)[name].splits(None)
    assert torch.equal(test.images, whole.test.read().images)
    assert found.class_counts() == (20,) * 10


@pytest.mark.parametrize("name", ["digits", "npz"])
def test_test_per_class_cuts_the_test_split_alone(archive, name):
    """Broken: training images would be others, or a class have more test images than another."""
    found, whole = (data_sets(archive, **o)[name].splits(None) for o in ({"test_per_class": 7}, {}))
    assert sizes(found.test.read(), 10) == [7] * 10
    assert torch.equal(found.train.images, whole.train.images)
    assert torch.equal(found.validation.images, whole.validation.images)


@pytest.mark.parametrize("name", ["digits", "npz"])
def test_choosing_is_no_reading_of_the_test_split(archive, name):
    """Broken: the manifest would count a reading that nobody learned from, or miss one."""
    found = data_sets(archive, test_per_class=3, per_class=9, classes=(4, 2))[name].splits(None)
    assert found.test.reads == 0 and len(found.test) == 6


def test_a_part_is_a_part_of_the_whole_and_nothing_comes_twice(archive):
    """Broken: a training image would be a validation image of the smaller set."""
    options = {"per_class": 12, "test_per_class": 5, "classes": (3, 0, 2)}
    found = archive([40, 50, 60, 45], [12, 9, 8, 7], **options).splits(None)
    whole = archive([40, 50, 60, 45], [12, 9, 8, 7]).splits(None)
    new = {3: 0, 0: 1, 2: 2}
    every = []
    for part, of in zip(parts(found), parts(whole), strict=True):
        numbers = ids(part)
        assert set(numbers) <= set(ids(of)) and numbers == sorted(numbers)
        every += numbers
        old = [round(1000 * v) for v in part.images[:, 0, 0, 1].tolist()]
        assert part.labels.tolist() == [new[label] for label in old]
    assert len(set(every)) == len(every) == 3 * (12 + 5)


def test_the_same_seed_chooses_the_same_images_and_another_one_others(archive):
    """Broken: two runs of one configuration would see different data, or a seed decide nothing."""

    def chosen(**options):
        found = archive([40, 50], [30, 30], per_class=8, test_per_class=6, **options).splits(None)
        return [ids(p) for p in parts(found)]

    first = chosen()
    torch.manual_seed(123)
    np.random.seed(5)
    assert chosen() == first
    other = chosen(split_seed=1)
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("classes", "names"),
    [((7, 1, 4), ("7", "1", "4")), (("7", "1", "4"), ("7", "1", "4")), (("4", 1, 7), ("4", "1", "7"))],
)
def test_classes_count_in_the_order_in_which_they_are_said(classes, names):
    """Broken: class 0 of a run would be another one than its user thinks."""
    found = Digits(classes=classes).splits(None)
    assert found.class_names == names and found.spec.num_classes == 3
    whole = Digits().splits(None)
    for part, of in zip(parts(found), parts(whole), strict=True):
        for new, name in enumerate(names):
            assert torch.equal(part.images[part.labels == new], of.images[of.labels == int(name)])


def test_classes_are_said_by_their_names(archive):
    """Broken: people would have to look up numbers."""
    options = {"class_names": ("cat", "dog", "owl")}
    found = archive([9, 9, 9], [3, 3, 3], classes=("owl", "cat"), **options).splits(None)
    assert found.class_names == ("owl", "cat")
    with pytest.raises(OptionError, match="Did you mean 'owl'") as caught:
        archive([9, 9, 9], [3, 3, 3], classes=("owls", "cat"), **options).splits(None)
    assert caught.value.option == "classes"


@pytest.mark.parametrize("classes", [(), (1,), (1, 1), (1, "1"), (0, 99), (-1, 0), ("x", 0), (0, 1.0)])
def test_classes_that_are_none_are_refused(classes):
    """Broken: a run would learn one class, the same twice, or the last one for -1."""
    with pytest.raises((OptionError, TypeError)):
        Digits(classes=classes).splits(None)


def test_more_images_than_there_are_are_refused_with_the_number_there_is(archive):
    """Broken: images would come twice, or the message not help."""
    for option, number, there in (("per_class", 41, "40"), ("test_per_class", 10, "9")):
        with pytest.raises(OptionError, match=there) as caught:
            archive([40, 50], [12, 9], **{option: number}).splits(None)
        assert caught.value.option == option
    assert archive([40, 50], [12, 9], per_class=40, test_per_class=9).splits(None).class_counts() == (40, 40)
    for option, number in (("per_class", 1), ("per_class", 0), ("test_per_class", 0)):
        with pytest.raises(ValueError, match=option):
            Digits(**{option: number})


def test_a_class_without_a_test_image_is_refused_when_it_is_chosen(archive):
    """Broken: after hours of training there would be nothing to judge."""
    data = archive([9, 9, 9], [4, 0, 0], name="unjudged", classes=(1, 2))
    with pytest.raises((OptionError, DataError)):
        data.splits(None)


@settings(deadline=None, max_examples=80)
@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    fraction=st.floats(0.02, 0.95),
    data=st.data(),
    seed=st.integers(0, 2**31),
)
def test_any_number_of_images_that_a_class_has_can_be_had(counts, fraction, data, seed):
    """Broken: rounding would refuse a number of images that is there, or give another one."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.arange(len(labels), dtype=torch.float32).view(-1, 1, 1, 1)
    split = Split(images=images, labels=labels)
    names = [str(k) for k in range(len(counts))]
    whole = Splits.carve(split, split, validation_fraction=fraction, split_seed=seed, max_value=1000.0,
                         class_names=names, source="s", licence="l")  # fmt: skip
    wanted = data.draw(st.integers(2, min(counts)))
    found = whole.narrowed(per_class=wanted, validation_fraction=fraction, seed=seed)
    assert found.class_counts() == (wanted,) * len(counts)
    held = found.validation.labels.bincount(minlength=len(counts))
    assert int(held.min()) >= 1 and int(held.max()) == int(held.min()) < wanted
    together = torch.cat([found.train.images, found.validation.images]).flatten().tolist()
    assert len(set(together)) == len(together)
    assert set(found.train.images.flatten().tolist()) <= set(whole.train.images.flatten().tolist())


def test_classes_of_very_different_sizes_are_pointed_out(archive):
    """Broken: nobody would notice that a set with as many images of each class is learned from unequal ones."""
    words = archive([90, 30, 60], [9, 9, 9], name="uneven", class_names=("cat", "dog", "owl")).splits(None).counts()
    assert "imbalanced" in words and "30 of dog" in words and "90 of cat" in words
    assert "imbalanced" not in archive([50, 41, 60], [9, 9, 9], name="even").splits(None).counts()
    evened = archive([90, 30, 60], [9, 9, 9], name="uneven", per_class=30).splits(None)
    assert "imbalanced" not in evened.counts()
    assert "imbalanced" not in archive([60, 30, 60], [9, 9, 9], name="middle", classes=(0, 2)).splits(None).counts()


def test_a_dry_run_points_out_classes_of_very_different_sizes(archive, tmp_path, capsys):
    """Broken: people would hear of it after the run."""
    data = archive([90, 30, 60], [9, 9, 9], name="uneven")
    words = ["run", "default", "--data", "npz", f"--set=data.path={data.path}", "--param", "pixel", "--dry-run",
             "--model", "mlp", "--experts-dir", str(tmp_path)]  # fmt: skip
    for more, said in (([], True), (["--set=data.per_class=30"], False)):
        assert invoke([*words, *more]) == 0
        assert ("imbalanced" in capsys.readouterr().out) == said


def test_options_reach_the_command_line_with_their_place(archive, capsys):
    """Broken: a wrong class would be an internal error, or its message name no option."""
    for text, words in (
        ('data.classes=["x", 1]', ("data.classes", "'x'")),
        ("data.per_class=9999", ("data.per_class", "9,999")),
        ("data.test_per_class=9999", ("data.test_per_class", "9,999")),
        ("data.per_class=1", ("data.per_class",)),
        ("data.classes=3", ("data.classes",)),
    ):
        assert invoke(["run", "default", f"--set={text}", "--dry-run"]) == 2, text
        err = capsys.readouterr().err
        assert all(word in err for word in words), err
