"""Tiny files in the form of the official data sets, with checksums to match; for tests without the real bytes.

`prepare(name, root, monkeypatch)` writes what a data set reads and returns the options that it cannot do without.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import tarfile

import numpy as np
from attrs import evolve

WNIDS = ("n02124075", "n01443537", "n04067472")
BATCHES = [f"data_batch_{n}" for n in range(1, 6)]
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def prepare(name, root, monkeypatch):
    """Writes a tiny data set below `root`, whose checksums are taken for the official ones from now on.

    Returns:
        The options that have no default.
    """
    root.mkdir(parents=True, exist_ok=True)
    write = globals().get(f"write_{name}")
    options = write(root) if write else None
    trust(root, monkeypatch)
    return options or {}


def trust(root, monkeypatch):
    """Takes the checksums of the files below `root` for the official ones."""
    from ddfw_plugins.datasets._official import FILES

    for name, official in list(FILES.items()):
        if (root / name).is_file() and official.md5 is not None:
            monkeypatch.setitem(FILES, name, evolve(official, md5=md5(root / name)))


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def pixels(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_cifar10(root, train=12, test=20):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(exist_ok=True)
    for number, name in enumerate([*BATCHES, "test_batch"]):
        n = test if name == "test_batch" else train
        batch = {
            b"batch_label": b"part",
            b"labels": [(number * train + i) % 10 for i in range(n)],
            b"data": pixels(n, 3072, seed=number),
            b"filenames": [b"name_%d.png" % i for i in range(n)],
        }
        (folder / name).write_bytes(python2(batch))
    meta = {b"num_cases_per_batch": train, b"label_names": [n.encode() for n in CIFAR10_NAMES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2(meta))


def write_cifar100(root, train=4, test=1):
    folder = root / "cifar-100-python"
    folder.mkdir(exist_ok=True)
    for seed, (name, n) in enumerate((("train", 100 * train), ("test", 100 * test))):
        fine = [i % 100 for i in range(n)]
        content = {
            b"filenames": [b"x.png"] * n,
            b"fine_labels": fine,
            b"coarse_labels": [f // 5 for f in fine],
            b"data": pixels(n, 3072, seed=seed),
        }
        (folder / name).write_bytes(python2(content))
    names = {
        b"fine_label_names": [b"fine%d" % i for i in range(100)],
        b"coarse_label_names": [b"coarse%d" % i for i in range(20)],
    }
    (folder / "meta").write_bytes(python2(names))


def write_mnist(root, folder="MNIST"):
    place = root / folder / "raw"
    place.mkdir(parents=True, exist_ok=True)
    for seed, (part, n) in enumerate((("train", 60), ("t10k", 20))):
        images, labels = pixels(n, 28, 28, seed=seed), np.arange(n, dtype=np.uint8) % 10
        (place / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images), mtime=0))
        (place / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels), mtime=0))


def write_fashionmnist(root):
    write_mnist(root, "FashionMNIST")


def write_svhn(root):
    for seed, (part, n) in enumerate((("train", 60), ("test", 20))):
        write_mat(root / f"{part}_32x32.mat", pixels(n, 3, 32, 32, seed=seed), np.arange(n) % 10)


def write_mat(path, images, labels):
    """Images [n, 3, 32, 32] and labels from 0 as the MATLAB file has them: the digit 0 is labelled 10."""
    from scipy.io import savemat

    numbers = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": numbers}, do_compression=True)


def write_tinyimagenet(root, train=6, test=3):
    from PIL import Image

    folder = root / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "words.txt").write_text("n00000001\tentity\nn02124075\tEgyptian cat\nn01443537\tgoldfish, Carassius\n")
    lines = []
    for label, wnid in enumerate(WNIDS):
        place = folder / "train" / wnid / "images"
        place.mkdir(parents=True)
        for i, image in enumerate(pixels(train, 64, 64, 3, seed=label)):
            Image.fromarray(image).save(place / f"{wnid}_{i}.JPEG", "JPEG")
        for i, image in enumerate(pixels(test, 64, 64, 3, seed=100 + label)):
            name = f"val_{label * test + i}.JPEG"
            Image.fromarray(image).save(folder / "val" / "images" / name, "JPEG")
            lines.append(f"{name}\t{wnid}\t0\t0\t62\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def write_imagefolder(root, where="pictures", n=6, size=(7, 5), classes=("ant", "bee", "cat")):
    from PIL import Image

    for label, name in enumerate(classes):
        (root / where / name).mkdir(parents=True)
        for i, image in enumerate(pixels(n, *size, 3, seed=label)):
            Image.fromarray(image).save(root / where / name / f"{i:03}.png")
    return {"path": where}


def idx(array):
    """An idx file of bytes."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def python2(value):
    """What Python 2 writes for a dictionary with arrays, instruction for instruction as in the official files."""
    return b"\x80\x02" + _put(value) + b"."


def _put(value):
    if isinstance(value, dict):
        return b"}(" + b"".join(_put(k) + _put(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(_put(v) for v in value) + b"e"
    if isinstance(value, bytes):
        return b"U%c" % len(value) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, np.ndarray):
        axes = b"".join(b"J" + struct.pack("<i", n) for n in value.shape)
        kind = b"cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87Rq\x08(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
        start = b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x09"
        return start + b"(K\x01(" + axes + b"t" + kind + b"\x89" + _put(value.tobytes()) + b"tb"
    return b"K%c" % value if 0 <= value < 256 else b"J" + struct.pack("<i", value)


def write_archive(root, folder, extra=()):
    """Packs a folder below `root` as Toronto's archives are packed.

    Args:
        root: the data root.
        folder: the folder below it.
        extra: pairs of a TarInfo and its content, None without one.
    """
    path = root / f"{folder.replace('-batches-py', '-python')}.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(root / folder, folder)
        for info, content in extra:
            tar.addfile(info, content)
    return path
