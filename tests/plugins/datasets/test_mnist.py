"""`mnist` and `fashionmnist`: idx files, compressed or not, and nothing that only looks like one."""

from __future__ import annotations

import gzip
import io
import struct

import numpy as np
import pytest
import torch

from ddfw import DataError
from ddfw.cli.main import invoke
from ddfw.testing import check_data
from ddfw_plugins.datasets import mnist as module
from ddfw_plugins.datasets.mnist import FashionMnist, Mnist, gunzip, parse_idx

SETS = [(Mnist, "MNIST"), (FashionMnist, "FashionMNIST")]
NAMES = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]


def unzip(raw, *, keep=False):
    for path in sorted(raw.glob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        if not keep:
            path.unlink()


def same(a, b):
    return torch.equal(a.train.images, b.train.images) and torch.equal(a.test.read().labels, b.test.read().labels)


@pytest.mark.parametrize(("cls", "folder"), SETS)
def test_it_keeps_the_contract_and_its_pixels(tiny, cls, folder):
    """Broken: rows and columns, or images and labels, would be exchanged."""
    root = tiny(cls.name)
    check_data(cls(), root)
    splits = cls().load(root)
    assert splits.spec.shape == (1, 28, 28) and len(splits.class_names) == 10
    raw = gzip.decompress((root / folder / "raw" / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert splits.test.read().images.numpy().tobytes() == raw[16:]
    assert splits.test.last_read.labels.tolist() == [i % 10 for i in range(20)]


@pytest.mark.parametrize(("cls", "folder"), SETS)
def test_unpacked_files_do_as_well(tiny, official_files, monkeypatch, cls, folder):
    """Broken: what torchvision leaves behind could not be read."""
    monkeypatch.setattr(module, "COUNTS", {"train": 60, "t10k": 20})
    root = tiny(cls.name)
    packed = cls().load(root)
    unzip(root / folder / "raw")
    official_files.trust(root, monkeypatch)
    assert same(cls().load(root), packed)


def test_unpacked_files_without_a_checksum_need_the_official_number_of_images(tiny):
    """Broken: half of a file whose header was mended would pass for Fashion-MNIST."""
    root = tiny("fashionmnist")
    unzip(root / "FashionMNIST" / "raw")
    with pytest.raises(DataError, match="has 60 entries, the official file 60,000"):
        FashionMnist().load(root)


def test_the_compressed_file_comes_first_since_it_has_a_checksum(tiny):
    """Broken: a changed copy beside the official file would be used."""
    root = tiny("fashionmnist")
    raw = root / "FashionMNIST" / "raw"
    expected = FashionMnist().load(root)
    unzip(raw, keep=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"something else")
    assert same(FashionMnist().load(root), expected)


def truncated(raw):
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    return "train-images-idx3-ubyte.gz is damaged"


def swapped(raw):
    (raw / "train-images-idx3-ubyte.gz").replace(raw / "t10k-images-idx3-ubyte.gz")
    return "train-images-idx3-ubyte.gz is missing"


def a_folder(raw):
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    (raw / "t10k-labels-idx1-ubyte.gz").mkdir()
    return "t10k-labels-idx1-ubyte.gz is not a file"


def changed(raw):
    unzip(raw)
    with (raw / "t10k-labels-idx1-ubyte").open("ab") as file:
        file.write(b"\0")
    return "-ubyte is damaged"


@pytest.mark.parametrize("damage", [truncated, swapped, a_folder, changed])
def test_the_command_line_says_what_is_wrong_in_one_line(tiny, damage, capsys):
    """Broken: a damaged download would look like a bug of ddfw, or be used."""
    root = tiny("mnist")
    message = damage(root / "MNIST" / "raw")
    assert invoke(["run", "--data", "mnist", "--data-root", str(root), "--dry-run"]) == 4
    said = capsys.readouterr().err.strip()
    assert message in said and "--download" in said and len(said.splitlines()) == 1


IMAGES = np.zeros((60, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte", b"", "not an idx file of bytes with 3 axes"),
        ("train-images-idx3-ubyte", bytes((0, 0, 8, 1)) + struct.pack(">I", 4) + b"abcd", "with 3 axes"),
        ("train-images-idx3-ubyte", bytes((0, 0, 13, 3)) + struct.pack(">3I", 60, 28, 28), "not an idx file"),
        ("train-images-idx3-ubyte", bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 28, 28), "promises"),
        (
            "train-images-idx3-ubyte",
            bytes((0, 0, 8, 3)) + struct.pack(">3I", 59, 28, 28) + IMAGES.tobytes(),
            "promises",
        ),
        ("train-images-idx3-ubyte", bytes((0, 0, 8, 3)) + b"\0" * 11, "not an idx file"),
        ("train-images-idx3-ubyte", bytes((0, 0, 8, 3)) + struct.pack(">3I", 60, 14, 56) + IMAGES.tobytes(), "14×56"),
        ("train-labels-idx1-ubyte", bytes((0, 0, 8, 1)) + struct.pack(">I", 4) + b"abcd", "4 labels"),
        ("train-labels-idx1-ubyte", bytes((0, 0, 8, 1)) + struct.pack(">I", 60) + b"\x0a" * 60, "labels lie in"),
    ],
)
def test_the_parser_is_safe_without_the_checksum(tiny, official_files, monkeypatch, name, content, message):
    """Broken: a header that lies would ask for all memory, or shift every image."""
    root = tiny("mnist")
    (root / "MNIST" / "raw" / f"{name}.gz").write_bytes(gzip.compress(content))
    official_files.trust(root, monkeypatch)
    with pytest.raises(DataError, match=message):
        Mnist().load(root)


def test_a_compressed_bomb_is_refused_before_it_is_unpacked(tiny, official_files, monkeypatch):
    """Broken: some kilobytes would unpack to all memory."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        for _ in range(5):
            file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        gunzip(packed.getvalue(), 1000)
    root = tiny("mnist")
    (root / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz").write_bytes(packed.getvalue())
    official_files.trust(root, monkeypatch)
    with pytest.raises(DataError, match="unpacks to more than"):
        Mnist().load(root)


def test_every_cut_of_a_compressed_file_is_a_value_error():
    """Broken: half a file would be half a data set, or a traceback."""
    whole = gzip.compress(bytes((0, 0, 8, 1)) + struct.pack(">I", 40) + bytes(range(40)))
    for end in range(len(whole)):
        with pytest.raises(ValueError):
            parse_idx(gunzip(whole[:end], 1000), 1)
    assert parse_idx(gunzip(whole, 1000), 1).tolist() == list(range(40))


def test_real_mnist_packed_and_unpacked_is_that_of_the_field(real_data, tmp_path):
    """Broken: results would be of another data set. The subset was cut independently."""
    root = real_data if (real_data / "MNIST").is_dir() else real_data / "mnist"
    if not (root / "MNIST" / "raw" / f"{NAMES[0]}.gz").is_file():
        pytest.skip("no real MNIST here")
    splits = Mnist().splits(root)
    assert len(splits.train.labels) + len(splits.validation.labels) == 60_000 and len(splits.test) == 10_000
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        (raw / name).write_bytes(gzip.decompress((root / "MNIST" / "raw" / f"{name}.gz").read_bytes()))
    assert same(Mnist().splits(tmp_path), splits)
    subset = real_data / "mnist" / "mnist_sub_10k_2k.npz"
    if subset.is_file():
        with np.load(subset, allow_pickle=False) as known:
            rows = known["test_indices"]
            assert np.array_equal(splits.test.read().images.numpy()[rows, 0], known["test_images"])
            assert np.array_equal(splits.test.last_read.labels.numpy()[rows], known["test_labels"])
    means = [float(p.images.float().mean() / 255) * len(p.labels) for p in (splits.train, splits.validation)]
    assert sum(means) / 60_000 == pytest.approx(0.1307, abs=1e-4)


def test_real_fashion_images_in_official_form(real_data, official_files, tmp_path, monkeypatch):
    """Broken: the clothes would have other names."""
    subset = real_data / "fashionmnist" / "fashionmnist_sub_10k_2k.npz"
    if not subset.is_file():
        pytest.skip("no real Fashion-MNIST here")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    with np.load(subset, allow_pickle=False) as known:
        images, labels = known["test_images"], known["test_labels"]
    for part in ("train", "t10k"):
        rows = slice(0, 1000) if part == "train" else slice(1000, None)
        for what, array in (("images-idx3", images[rows]), ("labels-idx1", labels[rows])):
            packed = gzip.compress(official_files.idx(array), 1)
            (raw / f"{part}-{what}-ubyte.gz").write_bytes(packed)
    official_files.trust(tmp_path, monkeypatch)
    splits = FashionMnist().load(tmp_path)
    test = splits.test.read()
    assert np.array_equal(test.images.numpy()[:, 0], images[1000:])
    # Trousers are narrower than bags: the names belong to the labels.
    width = {
        name: float((test.images[test.labels == splits.class_names.index(name)] > 60).float().mean())
        for name in ("Trouser", "Bag")
    }
    assert width["Trouser"] < width["Bag"]
