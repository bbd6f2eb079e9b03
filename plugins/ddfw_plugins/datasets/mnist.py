"""`mnist` and `fashionmnist`: the official idx files, compressed or not, in torchvision's layout."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from attrs import frozen

from ddfw import AbstractDataset, DataError, Split, Splits
from ddfw_plugins.datasets import _official

#: Number of images of the training and the test part, checked in files without a published checksum.
COUNTS = {"train": 60_000, "t10k": 10_000}
#: Number of axes of the array in a file of images and in a file of labels.
_AXES = {"images-idx3": 3, "labels-idx1": 1}
_UBYTE = 0x08


@frozen(kw_only=True)
class AbstractIdxDataset(AbstractDataset):
    """A data set of four idx files: images and labels, for training and for testing.

    Attributes:
        folder: path of the files' folder below the data root.
        class_names: names of the classes, in the order of the labels.
        source: where the images come from, for the card.
        licence: the data's licence in a few words.
    """

    folder: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    licence: ClassVar[str]

    def load(self, root: Path | None) -> Splits:
        """Reads the four files of images and labels."""
        root = _official.below(root, self.name, self.folder)
        return Splits.carve(
            self._split(root, "train"),
            self._split(root, "t10k"),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=self.class_names,
            source=self.source,
            licence=self.licence,
        )

    def download(self, root: Path) -> None:
        """Downloads those of the four compressed files that are missing or damaged."""
        for part in COUNTS:
            for what, dims in _AXES.items():
                try:
                    self._read(root, part, what, dims)
                except DataError:
                    _official.fetch(root, f"{self.folder}/{part}-{what}-ubyte.gz")

    def _split(self, root: Path, part: str) -> Split:
        """The images [n, 1, 28, 28] and labels [n] of a part, `train` or `t10k` (the test images)."""
        (images, where), (labels, labels_where) = (self._read(root, part, what, dims) for what, dims in _AXES.items())
        if images.shape[1:] != (28, 28):
            raise DataError(f"{where} has images of {images.shape[1]}×{images.shape[2]} pixels, expected 28×28")
        if len(labels) != len(images):
            raise DataError(f"{labels_where} has {len(labels)} labels, but {where} has {len(images)} images")
        # The arrays are copied, since views of the files' content are read-only.
        return Split(
            images=torch.from_numpy(images.copy()).unsqueeze(1), labels=torch.from_numpy(labels.astype(np.int64))
        )

    def _read(self, root: Path, part: str, what: str, dims: int) -> tuple[np.ndarray, Path]:
        """The array of one file and the path that it was read from; a .gz file is preferred, since it has an md5."""
        name = f"{self.folder}/{part}-{what}-ubyte"
        packed = f"{name}.gz"
        way_out = f"run with --download, or put {_official.FILES[packed].addresses[0]} there"
        plain = not os.path.exists(root / packed) and os.path.exists(root / name)
        path = root / (name if plain else packed)
        content = _official.read(path, _official.FILES[name if plain else packed], way_out)
        try:
            array = parse_idx(content if plain else gunzip(content, _official.FILES[name].limit), dims)
            if plain and _official.FILES[name].md5 is None and len(array) != COUNTS[part]:
                raise ValueError(f"it has {len(array):,} entries, the official file {COUNTS[part]:,}")
        except ValueError as error:
            raise DataError(f"{path} was refused: {error}; delete it and {way_out}") from error
        return array, path


@final
@frozen(kw_only=True)
class Mnist(AbstractIdxDataset):
    """70,000 grey images of handwritten digits, 28×28 pixels, 10,000 of them for testing.

    The images are read from `<data root>/MNIST/raw`, from the .gz files or unpacked ones. The md5 of each is checked.
    """

    name: ClassVar[str] = "mnist"
    citation: ClassVar[str] = """@article{lecun1998gradient,
  title = {Gradient-Based Learning Applied to Document Recognition},
  author = {LeCun, Yann and Bottou, L{\\'e}on and Bengio, Yoshua and Haffner, Patrick},
  journal = {Proceedings of the IEEE},
  volume = {86},
  number = {11},
  pages = {2278--2324},
  year = {1998}
}"""
    folder: ClassVar[str] = "MNIST/raw"
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    source: ClassVar[str] = "MNIST (LeCun et al. 1998), the official files"
    licence: ClassVar[str] = "CC BY-SA 3.0 as usually given (LeCun, Cortes)"


@final
@frozen(kw_only=True)
class FashionMnist(AbstractIdxDataset):
    """70,000 grey images of clothes, 28×28 pixels, 10,000 of them for testing.

    The images are read from `<data root>/FashionMNIST/raw`, from the .gz files or unpacked ones. The md5 of each .gz
    file is checked; for unpacked files none was published, so their headers and exact sizes are checked.
    """

    name: ClassVar[str] = "fashionmnist"
    citation: ClassVar[str] = """@misc{xiao2017fashion,
  title = {Fashion-{MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  eprint = {1708.07747},
  archiveprefix = {arXiv},
  year = {2017}
}"""
    folder: ClassVar[str] = "FashionMNIST/raw"
    class_names: ClassVar[tuple[str, ...]] = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    source: ClassVar[str] = "Fashion-MNIST (Xiao et al. 2017), the official files"
    licence: ClassVar[str] = "MIT (Zalando)"


def gunzip(content: bytes, limit: int) -> bytes:
    """Unpacks the content of a .gz file.

    Raises:
        ValueError: the file is damaged, or unpacks to more than `limit` bytes.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            plain = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it is not a readable .gz file ({error})") from error
    if len(plain) > limit:
        raise ValueError(f"it unpacks to more than {limit:,} bytes")
    return plain


def parse_idx(content: bytes, dims: int) -> np.ndarray:
    """The array of unsigned bytes in an idx file, as a read-only view.

    Args:
        content: the file's bytes: 0, 0, type, number of axes, then the lengths of the axes (big-endian), then the
            values.
        dims: number of axes that the array must have.

    Raises:
        ValueError: the file has another type or number of axes, or its length does not fit its header.
    """
    start = 4 + 4 * dims
    if content[:4] != bytes((0, 0, _UBYTE, dims)) or len(content) < start:
        raise ValueError(f"it is not an idx file of bytes with {dims} ax{'i' if dims == 1 else 'e'}s")
    shape = struct.unpack(f">{dims}I", content[4:start])
    if math.prod(shape) != len(content) - start:
        raise ValueError(f"its header promises {math.prod(shape):,} values, it has {len(content) - start:,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
