"""`npz`: a user's own archive, in every usual layout, and nothing in it is executed."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from ddfw.contracts.dataset import Splits
from ddfw.errors import DataError, OptionError
from ddfw_plugins.datasets.npz import Npz


def arrays(shape=(4, 5), n=12, dtype=np.uint8, classes=3):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, *shape)).astype(dtype)
    if dtype != np.uint8:
        pixels = (pixels / 255).astype(dtype)
    return {
        "train_images": pixels,
        "train_labels": np.arange(n) % classes,
        "test_images": pixels[:6],
        "test_labels": np.arange(6) % classes,
    }


@pytest.fixture
def write(tmp_path):
    """Writes arrays to data.npz and returns a data set that reads it."""

    def make(found, save=np.savez, **options):
        save(tmp_path / "data.npz", **found)
        return Npz(path=str(tmp_path / "data.npz"), **options)

    return make


def test_grey_images_get_a_channel_and_keep_their_pixels(write):
    """Broken: the most common layout would be read wrongly."""
    found = arrays()
    splits = write(found).load(None)
    assert splits.spec.shape == (1, 4, 5) and splits.spec.num_classes == 3
    test = splits.test.read()
    assert test.images.dtype == torch.uint8 and test.labels.dtype == torch.int64
    assert np.array_equal(test.images.numpy()[:, 0], found["test_images"])
    assert test.labels.tolist() == found["test_labels"].tolist()
    assert len(splits.train.labels) + len(splits.validation.labels) == 12
    assert splits.max_value == 255.0 and splits.class_names == ("0", "1", "2")
    assert splits.licence == "not stated" and "data.npz" in splits.source


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_last_or_first(write, channels):
    """Broken: colours and rows would be exchanged."""
    last = arrays((4, 5, channels))
    first = {k: v.transpose(0, 3, 1, 2) if "images" in k else v for k, v in last.items()}
    a, b = write(last).load(None), write(first).load(None)
    assert a.spec.shape == b.spec.shape == (channels, 4, 5)
    assert np.array_equal(a.test.read().images.numpy(), first["test_images"])
    assert torch.equal(a.train.images, b.train.images) and a.train.images.is_contiguous()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_images_are_taken_as_nought_to_one(write, dtype):
    """Broken: scaled images would be scaled again."""
    found = arrays(dtype=dtype)
    splits = write(found).load(None)
    assert splits.max_value == 1.0 and splits.train.images.dtype == torch.float32
    assert np.array_equal(splits.test.read().images.numpy()[:, 0], found["test_images"].astype(np.float32))


def test_another_brightest_value_can_be_given_and_is_enforced(write):
    """Broken: 12-bit or 4-bit images could not be used, or a wrong range would go unnoticed."""
    found = {k: v % 17 if "images" in k else v for k, v in arrays().items()}
    assert write(found, max_value=16.0).load(None).max_value == 16.0
    with pytest.raises(DataError, match="pixels"):
        write(arrays(), max_value=16.0).load(None)


def test_the_field_s_other_array_names_are_known(write):
    """Broken: Keras-style archives would have to be rewritten."""
    found = arrays()
    other = {"x_train": "train_images", "y_train": "train_labels", "x_test": "test_images", "y_test": "test_labels"}
    splits = write({new: found[old] for new, old in other.items()}).load(None)
    assert torch.equal(splits.train.images, write(found).load(None).train.images)
    both = {**found, "x_train": np.zeros((3, 9, 9), np.uint8)}
    assert write(both).load(None).spec.shape == (1, 4, 5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64])
@pytest.mark.parametrize("column", [False, True])
def test_labels_of_any_integer_type_and_as_a_column_are_fine(write, dtype, column):
    """Broken: labels as other tools write them would be refused or garbled."""
    found = arrays()
    for name in ("train_labels", "test_labels"):
        found[name] = found[name].astype(dtype)[:, None] if column else found[name].astype(dtype)
    assert write(found).load(None).test.read().labels.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_compressed_and_plain_archives_are_the_same(write, save):
    """Broken: one of the two would not be readable."""
    assert write(arrays(), save=save).load(None).spec.shape == (1, 4, 5)


def test_fortran_order_and_foreign_byte_order_are_read_rightly(write):
    """Broken: an archive from another tool or machine would be transposed or garbled."""
    found = arrays(dtype=np.float32)
    odd = {k: np.asfortranarray(v) if "images" in k else v.astype(">i4") for k, v in found.items()}
    odd["test_images"] = odd["test_images"].astype(">f4")
    a, b = write(found).load(None).test.read(), write(odd).load(None).test.read()
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_a_file_is_looked_for_below_the_data_root_first_and_then_here(tmp_path, monkeypatch):
    """Broken: a relative path would mean something else than the help says."""
    root, here = tmp_path / "root", tmp_path / "here"
    root.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    np.savez(here / "d.npz", **arrays((4, 4)))
    assert Npz(path="d.npz").load(root).spec.shape == (1, 4, 4)
    np.savez(root / "d.npz", **arrays((7, 7)))
    assert Npz(path="d.npz").load(root).spec.shape == (1, 7, 7)
    assert Npz(path="d.npz").load(None).spec.shape == (1, 4, 4)
    with pytest.raises(DataError) as caught:
        Npz(path="none.npz").load(root)
    assert str(root / "none.npz") in str(caught.value) and "data.path" in str(caught.value)


def test_class_names_are_given_by_the_user_and_must_suffice(write):
    """Broken: pictures would be labelled wrongly."""
    assert write(arrays(), class_names=("x", "y", "z")).load(None).class_names == ("x", "y", "z")
    with pytest.raises(DataError, match=r"3 classes.*2"):
        write(arrays(), class_names=("x", "y")).load(None)


def test_some_images_of_each_class_on_request_and_the_whole_test(write):
    """Broken: a quick trial would leave out a class, hold images that are not the file's, or shrink the test split."""
    found = arrays(n=30)
    splits = write(found, per_class=4).splits(None)
    kept = torch.cat([splits.train.images, splits.validation.images])
    known = {image.tobytes() for image in found["train_images"]}
    assert {i.numpy().tobytes() for i in kept} < known and len(kept) == 12
    assert splits.class_counts() == (4, 4, 4) and len(splits.test) == 6


def test_an_array_of_objects_is_refused_and_not_unpickled(write, tmp_path):
    """Broken: opening a stranger's data set would run the stranger's code."""
    canary = tmp_path / "canary"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    pickle.loads(pickle.dumps(Trap()))  # noqa: S301  # the trap works
    canary.rmdir()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        data = write({**arrays(), name: np.array([Trap()], dtype=object)})
        with pytest.raises(DataError, match=r"data\.npz"):
            data.load(None)
        assert not canary.exists()


def test_a_pickle_in_place_of_an_archive_is_refused_and_not_executed(tmp_path):
    """Broken: `data.path=model.pkl` would run code."""
    canary = tmp_path / "canary"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    (tmp_path / "data.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"data\.npz"):
        Npz(path=str(tmp_path / "data.npz")).load(None)
    assert not canary.exists()


def test_a_single_array_is_refused_with_what_is_wanted(tmp_path):
    """Broken: a .npy file would crash or be taken for images."""
    np.save(tmp_path / "data.npy", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(DataError, match="train_images"):
        Npz(path=str(tmp_path / "data.npy")).load(None)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\x03\x04" + b"\0" * 40, b"text", b"\x93NUMPY"],
    ids=["empty", "two bytes", "zip header", "text", "npy header"],
)
def test_files_that_are_no_archive_are_data_errors(tmp_path, content):
    """Broken: a download that failed would look like a bug of ddfw."""
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz"):
        Npz(path=str(tmp_path / "data.npz")).load(None)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_cut_off_anywhere_is_a_data_error(tmp_path, save):
    """Broken: half a file would be half a data set."""
    path = tmp_path / "data.npz"
    save(path, **arrays())
    whole = path.read_bytes()
    for end in range(0, len(whole), 23):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"data\.npz"):
            Npz(path=str(path)).load(None)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_with_a_flipped_bit_is_read_whole_or_refused(tmp_path, save):
    """Broken: damage would end as an internal error, or as other pixels."""
    path = tmp_path / "data.npz"
    save(path, **arrays())
    whole, expected = path.read_bytes(), Npz(path=str(path)).load(None)
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            found = Npz(path=str(path)).load(None)
        except DataError as error:
            refused += 1
            assert "data.npz" in str(error)
        else:
            # Dates and attributes of a zip archive may change without harm.
            assert torch.equal(found.train.images, expected.train.images)
            assert torch.equal(found.test.read().labels, expected.test.read().labels)
    assert refused > len(whole) / 2


@pytest.mark.parametrize("missing", ["train_images", "train_labels", "test_images", "test_labels"])
def test_a_missing_array_is_named_with_what_is_there(write, missing):
    """Broken: the user would not know which name was expected."""
    found = {k: v for k, v in arrays().items() if k != missing}
    with pytest.raises(DataError, match=missing) as caught:
        write(found).load(None)
    assert next(iter(found)) in str(caught.value)


IMAGES, LABELS = "train_images", "train_labels"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({IMAGES: np.zeros((12, 4, 5), np.int32)}, "int32"),
        ({IMAGES: np.zeros((12, 4, 5), bool)}, "bool"),
        ({IMAGES: np.zeros((12, 4, 5), complex)}, "complex"),
        ({IMAGES: np.full((12, 4, 5), "a")}, "expected uint8 or floats"),
        ({IMAGES: np.zeros((12, 4, 5, 2), np.uint8)}, "1 or 3 channels"),
        ({IMAGES: np.zeros((12, 20), np.uint8)}, "1 or 3 channels"),
        ({IMAGES: np.zeros((12, 1, 1, 4, 5), np.uint8)}, "1 or 3 channels"),
        ({IMAGES: np.uint8(3)}, "1 or 3 channels"),
        ({IMAGES: np.zeros((12, 6, 5), np.uint8)}, "one shape"),
        ({IMAGES: np.zeros((11, 4, 5), np.uint8)}, "images .n, C, H, W. and labels"),
        ({IMAGES: np.full((12, 4, 5), np.nan), "test_images": np.zeros((6, 4, 5))}, "pixels .*NaN"),
        ({IMAGES: np.full((12, 4, 5), 255.0), "test_images": np.zeros((6, 4, 5))}, "pixels"),
        ({IMAGES: np.full((12, 4, 5), -0.5), "test_images": np.zeros((6, 4, 5))}, "pixels"),
        ({LABELS: np.arange(12) / 2}, "labels are float64"),
        ({LABELS: np.array(["cat"] * 12)}, "expected integers"),
        ({LABELS: np.array([True, False] * 6)}, "expected integers"),
        ({LABELS: np.eye(12, dtype=int)}, "labels"),
        ({LABELS: np.int64(3)}, "labels"),
        ({LABELS: np.arange(12) % 3 - 1}, "labels lie in"),
        ({LABELS: np.arange(12) % 2}, "labels lie in"),
        ({LABELS: np.array([0, 1, 2] * 3 + [0, 1, 4])}, "at least 2 training images"),
        ({LABELS: np.array([0] * 6 + [2] * 6)}, "at least 2 training images.*1"),
        ({"test_labels": np.array([0, 1, 2, 3, 0, 1])}, "test: labels lie in"),
        ({"test_labels": np.zeros(5, int)}, "test: expected images"),
        ({IMAGES: np.zeros((0, 4, 5), np.uint8), LABELS: np.zeros(0, int)}, "train"),
        ({"test_images": np.zeros((0, 4, 5), np.uint8), "test_labels": np.zeros(0, int)}, "test"),
        ({IMAGES: np.zeros((12, 0, 5), np.uint8), "test_images": np.zeros((6, 0, 5), np.uint8)}, "train"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"per_class": 2}], ids=["all", "per_class"])
def test_arrays_that_make_no_sense_are_refused_in_words(write, changes, message, options):
    """Broken: a mistake in a user's file would surface as a crash somewhere in training."""
    with pytest.raises(DataError, match=message):
        write({**arrays(), **changes}, **options).splits(None)


def test_an_absurd_label_is_refused_before_memory_is_spent_on_its_class_names(write, monkeypatch):
    """Broken: one garbled label of a billion would ask for a billion class names and kill the machine."""
    found = arrays()
    found["train_labels"] = found["train_labels"].copy()
    found["train_labels"][3] = 300_000
    names = []
    original = Splits.carve

    def watch(*args, **kwargs):
        names.append(len(kwargs["class_names"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(Splits, "carve", watch)
    with pytest.raises(DataError):
        write(found).load(None)
    assert max(names, default=0) <= 12


def test_a_directory_is_not_a_file(tmp_path):
    """Broken: a folder's name would be an internal error."""
    with pytest.raises(DataError):
        Npz(path=str(tmp_path)).load(None)


def test_pixels_of_two_kinds_are_refused_until_their_brightest_value_is_said(write):
    """Broken: test images from 0 to 1 beside training images from 0 to 255 would be read as black."""
    found = arrays()
    mixed = {**found, "test_images": (found["test_images"] / 255).astype(np.float32)}
    with pytest.raises(DataError, match=r"uint8.*float32.*data\.max_value"):
        write(mixed).load(None)
    same = {**found, "test_images": found["test_images"].astype(np.float32)}
    assert write(same, max_value=255.0).load(None).max_value == 255
    wide = {**arrays(dtype=np.float64), "test_images": arrays(dtype=np.float32)["test_images"]}
    assert write(wide).load(None).max_value == 1  # floats of two widths are of one kind


def test_labels_that_do_not_count_from_0_are_told_how(write):
    """Broken: labels of a program that counts from 1 would be answered with an empty class 0."""
    found = arrays()
    shifted = {k: v + 3 if k.endswith("labels") else v for k, v in found.items()}
    with pytest.raises(DataError, match=r"3 … 5, but labels count from 0; save them as labels - 3"):
        write(shifted).load(None)


@pytest.mark.parametrize(
    ("images", "labels"), [("val_images", "val_labels"), ("x_val", "y_val"), ("x_valid", "valid_labels")]
)
def test_a_validation_part_is_the_validation_split_and_is_said_to_be(write, images, labels):
    """Broken: the part that was made for selection would be passed over, and training images be spent on it."""
    found = arrays()
    own = {images: found["train_images"][:5] // 2, labels: np.arange(5)[:, None] % 3}
    splits = write({**found, **own}).splits(None)
    assert np.array_equal(splits.validation.images.numpy()[:, 0], own[images])
    assert splits.validation.labels.tolist() == [0, 1, 2, 0, 1] and len(splits.train.labels) == 12
    assert any("validation split, which is used" in note for note in splits.notes) and "validation" in splits.source
    with pytest.raises(DataError, match="has no array val_labels"):
        write({**found, images: own[images]}).load(None)
    with pytest.raises(DataError, match="validation: labels lie in"):
        write({**found, **own, labels: own[labels] + 9}).load(None)


def test_an_own_validation_split_is_cut_down_with_the_rest(write):
    """Broken: data.per_class would keep all validation images, or say that images are lacking which are there."""
    found = arrays(n=30)
    own = {"x_val": found["train_images"][:9], "y_val": np.arange(9) % 3}
    splits = write({**found, **own}, per_class=8, validation=0.25).splits(None)
    assert len(splits.train.labels) == 18 and len(splits.validation.labels) == 6
    with pytest.raises(OptionError, match="3 validation images in the data's own split, 5 were asked for"):
        write({**found, **own}, per_class=10, validation=0.5).splits(None)


def test_other_arrays_are_named(write):
    """Broken: a part of a data set would be passed over without a word."""
    notes = write({**arrays(), "extra_images": np.zeros(3), "x_train": np.zeros(3)}).load(None).notes
    assert notes == ("other arrays of data.npz are passed over: 'extra_images', 'x_train'",)


def test_a_validation_part_of_another_kind_is_refused(write):
    """Broken: validation images from 0 to 1 would select the step as if they were black."""
    own = {"x_val": np.full((3, 4, 5), 0.5, np.float32), "y_val": np.arange(3)}
    with pytest.raises(DataError, match=r"uint8, validation images float32.*data\.max_value"):
        write({**arrays(), **own}).load(None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images": np.full((12, 4, 5), 200.0), "test_images": np.zeros((6, 4, 5))},
            r"up to 200.*data\.max_value",
        ),
        ({"train_images": np.zeros((12, 4, 5), np.uint16)}, "uint16.*divided by the value of white"),
        ({"train_labels": np.eye(3, dtype=int)[np.arange(12) % 3]}, r"save labels\.argmax\(axis=1\)"),
        ({"train_labels": np.arange(12.0) % 3}, "labels are float64, expected integers"),
        ({"train_labels": np.arange(12) % 3 == 1}, "labels are bool, expected integers"),
        ({"train_labels": np.array([2**62, *range(11)])}, "only 12 training images"),
        ({"train_labels": np.array([2**64 - 1] * 12, np.uint64)}, "labels"),
        ({"train_labels": np.zeros(12, int), "test_labels": np.zeros(6, int)}, "1 class; a network needs two"),
        ({"train_images": np.full((12, 4, 5), 7, np.uint8)}, "all .* training images are the same"),
        ({"test_labels": np.arange(6)}, r"test: labels lie in \[0, 5\], expected \[0, 2\]"),
    ],
)
def test_figures_that_would_mean_nothing_are_refused_with_the_way_out(write, changes, message):
    """Broken: a run would end with figures of black images, of one class, or of no class at all."""
    with pytest.raises(DataError, match=message):
        write({**arrays(), **changes}).splits(None)


def test_class_names_that_are_not_those_of_the_classes_are_refused(write):
    """Broken: a class without images would be learned, or two classes have one name."""
    with pytest.raises(DataError, match=r"at least 2 training images.*: w"):
        write(arrays(), class_names=("x", "y", "z", "w")).splits(None)
    with pytest.raises(DataError, match="two classes are named 'x'"):
        write(arrays(), class_names=("x", "y", "x")).splits(None)


def test_test_images_on_another_scale_are_pointed_out(write):
    """Broken: test images that were scaled twice would be judged as if they were black."""
    found = arrays()
    dark = {**found, "test_images": (found["test_images"] > 128).astype(np.uint8)}
    assert any(
        "brightest test pixel is 1, the brightest training pixel 25" in n for n in write(dark).splits(None).notes
    )
    mixed = {**found, "test_images": (found["test_images"] / 255).astype(np.float32)}
    assert any("brightest test pixel" in note for note in write(mixed, max_value=255.0).splits(None).notes)
    ones = {k: v / 255 if "images" in k else v for k, v in found.items()}
    assert any("of 255: if that is white" in note for note in write(ones, max_value=255.0).splits(None).notes)
