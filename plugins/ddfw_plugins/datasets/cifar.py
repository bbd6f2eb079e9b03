"""`cifar10` and `cifar100`: the official Python batches, in torchvision's layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
import torch
from attrs import frozen
from attrs.validators import in_

from ddfw import AbstractDataset, DataError, Split, Splits, option
from ddfw_plugins.datasets import _official, _python2

_LICENCE = "none stated by the authors"


@final
@frozen(kw_only=True)
class Cifar10(AbstractDataset):
    """60,000 colour photographs of 32×32 pixels in 10 classes, 10,000 of them for testing.

    The images are read from `<data root>/cifar-10-batches-py`. The md5 of each file is checked; nothing is executed.
    """

    name: ClassVar[str] = "cifar10"
    citation: ClassVar[str] = """@techreport{krizhevsky2009learning,
  title = {Learning Multiple Layers of Features from Tiny Images},
  author = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year = {2009}
}"""

    def load(self, root: Path | None) -> Splits:
        """Reads the five training files and the test file."""
        batches = _Batches("cifar10", root, "cifar-10-python.tar.gz", "cifar-10-batches-py")
        names = batches.names("batches.meta", b"label_names")
        return Splits.carve(
            batches.split([f"data_batch_{n}" for n in range(1, 6)], b"labels", len(names)),
            batches.split(["test_batch"], b"labels", len(names)),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=names,
            source="CIFAR-10 (Krizhevsky 2009), the official Python batches",
            licence=_LICENCE,
        )

    def download(self, root: Path) -> None:
        """Downloads the official archive, unless it is in the data root, and unpacks it."""
        _unpack(root, "cifar-10-python.tar.gz", "cifar-10-batches-py")


@final
@frozen(kw_only=True)
class Cifar100(AbstractDataset):
    """60,000 colour photographs of 32×32 pixels in 100 classes, 10,000 of them for testing.

    The images are read from `<data root>/cifar-100-python`. The md5 of each file is checked; nothing is executed.
    """

    name: ClassVar[str] = "cifar100"
    citation: ClassVar[str] = Cifar10.citation

    labels: Literal["fine", "coarse"] = option(
        "fine", validator=in_(("fine", "coarse")), help="fine: the 100 classes; coarse: the 20 groups of five classes"
    )

    def load(self, root: Path | None) -> Splits:
        """Reads the training and the test file."""
        batches = _Batches("cifar100", root, "cifar-100-python.tar.gz", "cifar-100-python")
        names = batches.names("meta", f"{self.labels}_label_names".encode())
        key = f"{self.labels}_labels".encode()
        return Splits.carve(
            batches.split(["train"], key, len(names)),
            batches.split(["test"], key, len(names)),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=names,
            source=f"CIFAR-100 (Krizhevsky 2009), the official Python files, {self.labels} labels",
            licence=_LICENCE,
        )

    def download(self, root: Path) -> None:
        """Downloads the official archive, unless it is in the data root, and unpacks it."""
        _unpack(root, "cifar-100-python.tar.gz", "cifar-100-python")


def _unpack(root: Path, archive: str, folder: str) -> None:
    _official.fetch_and_unpack(root, archive, [n for n in _official.FILES if n.startswith(f"{folder}/")])


class _Batches:
    """The files of CIFAR-10 or of CIFAR-100.

    Args:
        dataset: name of the data set, for error texts.
        root: the data root; None if the user named none.
        archive: name of the official archive.
        folder: name of the folder in the archive.
    """

    def __init__(self, dataset: str, root: Path | None, archive: str, folder: str) -> None:
        self._root = _official.below(root, dataset, folder)
        self._folder = folder
        address = _official.FILES[archive].addresses[0]
        self._way_out = (
            f"run with --download, which checks and unpacks {self._root / archive}"
            if os.path.isfile(self._root / archive)
            else f"run with --download, or unpack {address} in {self._root}"
        )

    def names(self, file: str, key: bytes) -> list[str]:
        """The names of the classes."""
        names = self._read(file).get(key)
        if type(names) is not list or not names or any(type(n) is not bytes for n in names):
            raise self._refused(file, "it does not list the classes")
        return [n.decode("ascii", "replace") for n in names]

    def split(self, files: Sequence[str], key: bytes, num_classes: int) -> Split:
        """The images [n, 3, 32, 32] and labels [n] of some files, in the order of the files."""
        images, labels = [], []
        for file in files:
            found = self._read(file)
            pixels, numbers = found.get(b"data"), found.get(key)
            if type(pixels) is not np.ndarray or pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
                raise self._refused(file, "it holds no images of 3×32×32 pixels")
            if type(numbers) is not list or len(numbers) != len(pixels):
                raise self._refused(file, "it does not hold one label for each image")
            if any(type(n) is not int or not 0 <= n < num_classes for n in numbers):
                raise self._refused(file, f"it holds a label that is not an integer from 0 to {num_classes - 1}")
            # The pixels are a read-only view of the file's content; np.concatenate below copies them once.
            images.append(pixels)
            labels += numbers
        return Split(
            images=torch.from_numpy(np.concatenate(images)).view(-1, 3, 32, 32),
            labels=torch.tensor(labels, dtype=torch.int64),
        )

    def _read(self, file: str) -> dict[bytes, Any]:
        name = f"{self._folder}/{file}"
        content = _official.read(self._root / name, _official.FILES[name], self._way_out)
        try:
            return _python2.read(content)
        except ValueError as error:
            raise self._refused(file, str(error)) from error

    def _refused(self, file: str, reason: str) -> DataError:
        return DataError(f"{self._root / self._folder / file} was refused: {reason}; delete it and {self._way_out}")
