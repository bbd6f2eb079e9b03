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
_UBYTE = 0x08


@final
@frozen(kw_only=True)
class Mnist(AbstractDataset):
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

    def load(self, root: Path | None) -> Splits:
        """Reads the four files of images and labels."""
        files = _IdxFiles("mnist", _official.below(root, "mnist", "MNIST/raw"), "MNIST/raw")
        return Splits.carve(
            files.split("train"),
            files.split("t10k"),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=[str(n) for n in range(10)],
            source="MNIST (LeCun et al. 1998), the official files",
            licence="CC BY-SA 3.0 as usually given (LeCun, Cortes)",
        )

    def download(self, root: Path) -> None:
        """Downloads those of the four compressed files that are missing or damaged."""
        _IdxFiles("mnist", root, "MNIST/raw").download()


@final
@frozen(kw_only=True)
class FashionMnist(AbstractDataset):
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

    def load(self, root: Path | None) -> Splits:
        """Reads the four files of images and labels."""
        place = "FashionMNIST/raw"
        files = _IdxFiles("fashionmnist", _official.below(root, "fashionmnist", place), place)
        return Splits.carve(
            files.split("train"),
            files.split("t10k"),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=[
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
            source="Fashion-MNIST (Xiao et al. 2017), the official files",
            licence="MIT (Zalando)",
        )

    def download(self, root: Path) -> None:
        """Downloads those of the four compressed files that are missing or damaged."""
        _IdxFiles("fashionmnist", root, "FashionMNIST/raw").download()


class _IdxFiles:
    """The four files of MNIST or of Fashion-MNIST.

    Args:
        dataset: name of the data set, for error texts.
        root: the data root.
        folder: path of the files' folder below the data root.
    """

    def __init__(self, dataset: str, root: Path, folder: str) -> None:
        self._dataset = dataset
        self._root = root
        self._folder = folder

    def split(self, part: str) -> Split:
        """The images [n, 1, 28, 28] and labels [n] of a part, `train` or `t10k` (the test images)."""
        images, where = self._read(f"{part}-images-idx3-ubyte", 3, part)
        labels, labels_where = self._read(f"{part}-labels-idx1-ubyte", 1, part)
        if images.shape[1:] != (28, 28):
            raise DataError(f"{where} has images of {images.shape[1]}×{images.shape[2]} pixels, expected 28×28")
        if len(labels) != len(images):
            raise DataError(f"{labels_where} has {len(labels)} labels, but {where} has {len(images)} images")
        # The arrays are copied, since views of the files' content are read-only.
        return Split(
            images=torch.from_numpy(images.copy()).unsqueeze(1), labels=torch.from_numpy(labels.astype(np.int64))
        )

    def download(self) -> None:
        """Downloads the compressed files that are missing or damaged."""
        for part in COUNTS:
            for file, dims in ((f"{part}-images-idx3-ubyte", 3), (f"{part}-labels-idx1-ubyte", 1)):
                try:
                    self._read(file, dims, part)
                except DataError:
                    _official.fetch(self._root, f"{self._folder}/{file}.gz")

    def _read(self, file: str, dims: int, part: str) -> tuple[np.ndarray, Path]:
        """The array of one file and the path that it was read from; a .gz file is preferred, since it has an md5."""
        name, packed = f"{self._folder}/{file}", f"{self._folder}/{file}.gz"
        address = _official.FILES[packed].addresses[0]
        way_out = f"run with --download, or put {address} there"
        plain = not os.path.exists(self._root / packed) and os.path.exists(self._root / name)
        path = self._root / (name if plain else packed)
        content = _official.read(path, _official.FILES[name if plain else packed], way_out)
        try:
            array = parse_idx(content if plain else gunzip(content, _official.FILES[name].limit), dims)
        except ValueError as error:
            raise DataError(f"{path} was refused: {error}; delete it and {way_out}") from error
        if plain and _official.FILES[name].md5 is None and len(array) != COUNTS[part]:
            raise DataError(
                f"{path} was refused: it has {len(array):,} entries, the official file {COUNTS[part]:,}; "
                f"delete it and {way_out}"
            )
        return array, path


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
