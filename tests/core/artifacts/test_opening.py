"""The door for files from outside: plain files only, and no more memory than a file's bytes can mean."""

from __future__ import annotations

import io
import json
import os
import zipfile

import numpy as np
import pytest

from ddfw.artifacts import opening
from ddfw.artifacts.npz_file import read_arrays
from ddfw.artifacts.opening import opened, parse_json, read_whole, require_honest, require_memory
from ddfw.errors import DataError


def test_a_plain_file_is_read_and_a_link_to_one_too(tmp_path):
    """Broken: nothing could be read, or folders with links would not work."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_whole(tmp_path / "file", 7) == read_whole(tmp_path / "link", 7) == b"content"
    with opened(tmp_path / "file") as file:
        assert (file.read(3), file.read(), file.tell()) == (b"con", b"tent", 7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "not a plain file but a pipe"),
        (lambda path: os.symlink("/dev/zero", path), "not a plain file but a device"),
        (os.mkdir, "not a file but a folder"),
        (lambda path: os.symlink(path, path), "cannot be read"),
        (lambda path: os.symlink(path.parent / "gone", path), "is missing"),
    ],
    ids=["pipe", "device", "folder", "loop", "dangling"],
)
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, make, words):
    """Broken: a pipe would hang a command for ever, and a device would fill the memory."""
    make(tmp_path / "x")
    with pytest.raises(DataError, match=words):
        opened(tmp_path / "x")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000, "file/below"])
def test_a_name_that_no_file_can_have_is_our_own_error(tmp_path, name):
    """Broken: a card could end ddfw with a traceback by naming such a file."""
    (tmp_path / "file").touch()
    with pytest.raises(DataError):
        opened(tmp_path / name)


def test_a_file_beyond_its_limit_is_refused_before_it_is_read(tmp_path):
    """Broken: a terabyte that takes no room on the disk would fill the memory."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="1,099,511,627,776 bytes, at most 1,000"):
        read_whole(tmp_path / "large", 1000)
    with opened(tmp_path / "large") as file, pytest.raises(DataError, match="in one piece"):
        file.read()
    with opened(tmp_path / "large") as file, pytest.raises(DataError, match="in one piece"):
        file.read(1 << 30)


def test_no_descriptor_stays_open_after_a_refusal(tmp_path):
    """Broken: reading many bad files would end with too many open files."""
    (tmp_path / "file").write_bytes(b"content")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(DataError):
            opened(tmp_path / "file", 3)
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_is_given_to_what_is_small_or_large_itself_and_to_what_is_there():
    """Broken: real data would be refused, or a bomb read."""
    require_honest("it", 10, opening.FREE, "")
    require_honest("it", 1 << 30, 100 << 30, "")
    with pytest.raises(
        DataError, match=r"it has 6,000,000 bytes and unpacks to 6,000,000,000.*if.*right, save it plain"
    ):
        require_honest("it", 6_000_000, 6_000_000_000, "save it plain")
    with pytest.raises(DataError, match="unpacks"):
        require_honest("it", 10, opening.FREE // 2, "", times=4)
    require_memory("it", 1 << 20, "")
    with pytest.raises(DataError, match=r"needs 1000000\.0 GB of memory, .* GB are free; take less"):
        require_memory("it", 10**15, "take less")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 60_000 + "]" * 60_000, "nested"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested"),
        ("[" + "[]," * 3_000_000 + "1]", "fill the memory"),
        ("[" + '"",' * 3_000_000 + "1]", "fill the memory"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
        ('{"a": NaN}', "not finite"),
        ('{"a": [1e999]}', "not finite"),
        ('{"a": "\\ud800"}', "surrogates"),
        ('{"a": ' + "9" * 5000 + "}", "digit"),
    ],
    ids=["deep", "deeper than allowed", "lists", "texts", "twice", "nan", "infinite", "half", "digits"],
)
def test_json_that_asks_for_too_much_or_is_ambiguous_is_refused(text, words):
    """Broken: nine megabytes of brackets would take a gigabyte, and two readers could see two values of one key."""
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_large_json_of_real_cards_is_read_as_it_is():
    """Broken: the card of a large export would be refused."""
    rows = [{"file": f"{n}.png", "target": [0.1234567890123456, 0.0] * 50} for n in range(2000)]
    value = {"rows": rows, "word": "é", "none": None, "deep": [[[[[1]]]]]}
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value, indent=2).encode()) == value
    assert parse_json("[NaN]", finite=False)[0] != 0


# --- NumPy archives -----------------------------------------------------------------------------------------------


def test_arrays_of_every_plain_dtype_and_order_come_back_as_numpy_reads_them(tmp_path):
    """Broken: images would be turned, or their numbers misread."""
    rng = np.random.default_rng(0)
    arrays = {
        "bytes": rng.integers(0, 256, (3, 4, 5)).astype(np.uint8),
        "fortran": np.asfortranarray(rng.random((3, 4))),
        "big": rng.random(7).astype(">f4"),
        "half": rng.random((2, 1)).astype(np.float16),
        "truth": np.array([True, False]),
        "words": np.array(["a", "bcd"]),
        "one": np.float64(3.5),
        "none": np.zeros((0, 3)),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_arrays(tmp_path / "a.npz", [[name] for name in arrays])
        for (name, expected), array in zip(arrays.items(), found, strict=True):
            assert array.dtype == expected.dtype and array.shape == expected.shape, name
            assert np.array_equal(array, expected), name


def test_the_first_name_that_an_archive_has_is_read_and_no_other_member(tmp_path):
    """Broken: an archive with something else in it would be refused, or code in it looked at."""
    np.savez(tmp_path / "a.npz", x=np.arange(3), objects=np.array([print], dtype=object), z=np.arange(4))
    (found,) = read_arrays(tmp_path / "a.npz", [["y", "z", "x"]])
    assert found.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"no array y or w; it holds x, objects, z"):
        read_arrays(tmp_path / "a.npz", [["y", "w"]])
    with pytest.raises(DataError, match=r"'objects\.npy' is an array of object"):
        read_arrays(tmp_path / "a.npz", [["objects"]])


def test_a_member_that_is_no_array_is_refused_in_words(tmp_path):
    """Broken: bytes would be taken for an array and end in an AttributeError."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", b"text")
        archive.writestr("short.npy", b"\x93NUMPY\x01\x00")
    for name in ("x", "short"):
        with pytest.raises(DataError, match=rf"a\.npz is not a readable .npz archive.*member '{name}.*is no array"):
            read_arrays(tmp_path / "a.npz", [[name]])


def test_a_header_that_promises_more_than_its_member_has_takes_no_memory(tmp_path):
    """Broken: a hundred bytes could ask for a terabyte."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + b"few")
    with pytest.raises(DataError, match=r"its header .* needs others"):
        read_arrays(tmp_path / "a.npz", [["x"]])


def test_an_archive_that_unpacks_to_far_more_than_itself_is_refused_with_the_way_out(tmp_path):
    """Broken: six megabytes could unpack to six gigabytes; or images that compress well could not be used at all."""
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(opening.FREE + 1, np.uint8))
    with pytest.raises(DataError, match=r"a\.npz has .* bytes and unpacks to .*numpy\.savez"):
        read_arrays(tmp_path / "a.npz", [["x"]])
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(opening.FREE - 1000, np.uint8))
    assert read_arrays(tmp_path / "a.npz", [["x"]])[0].nbytes == opening.FREE - 1000


@pytest.mark.slow
def test_the_images_of_cifar_in_one_archive_are_read(tmp_path):
    """Broken: a cap would refuse the data that people have."""
    images = np.random.default_rng(0).integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images)
    (found,) = read_arrays(tmp_path / "a.npz", [["train_images", "x_train"]])
    assert np.array_equal(found, images)
