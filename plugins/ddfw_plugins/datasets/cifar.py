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


@frozen(kw_only=True)
class AbstractCifar(AbstractDataset):
    """What CIFAR-10 and CIFAR-100 share: the form of their files, which one archive holds.

    Attributes:
        archive: name of the official archive.
        folder: name of the folder in the archive, which is read below the data root.
        files: names of the training files, in the order of their images, and of the test file.
        meta: name of the file with the names of the classes.
    """

    archive: ClassVar[str]
    folder: ClassVar[str]
    files: ClassVar[tuple[tuple[str, ...], str]]
    meta: ClassVar[str]

    def download(self, root: Path) -> None:
        """Downloads the official archive, unless it is in the data root, and unpacks it."""
        members = [name for name in _official.FILES if name.startswith(f"{self.folder}/")]
        _official.fetch_and_unpack(root, self.archive, members)

    def _carve(self, root: Path | None, labels: bytes, names: bytes, source: str) -> Splits:
        """Reads all files.

        Args:
            root: the data root; None if the user named none.
            labels: key of the labels in the files of images.
            names: key of the classes' names.
            source: where the images come from, for the card.
        """
        root = _official.below(root, self.name, self.folder)
        class_names = self._read(root, self.meta).get(names)
        if type(class_names) is not list or not class_names or any(type(n) is not bytes for n in class_names):
            raise self._refused(root, self.meta, "it does not list the classes")
        train, test = self.files
        return Splits.carve(
            self._split(root, train, labels, len(class_names)),
            self._split(root, [test], labels, len(class_names)),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=[name.decode("ascii", "replace") for name in class_names],
            source=source,
            licence="none stated by the authors",
        )

    def _split(self, root: Path, files: Sequence[str], key: bytes, num_classes: int) -> Split:
        """The images [n, 3, 32, 32] and labels [n] of some files, in the order of the files."""
        images, labels = [], []
        for file in files:
            found = self._read(root, file)
            pixels, numbers = found.get(b"data"), found.get(key)
            if type(pixels) is not np.ndarray or pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
                raise self._refused(root, file, "it holds no images of 3×32×32 pixels")
            if type(numbers) is not list or len(numbers) != len(pixels):
                raise self._refused(root, file, "it does not hold one label for each image")
            if any(type(n) is not int or not 0 <= n < num_classes for n in numbers):
                raise self._refused(root, file, f"it holds a label that is not an integer from 0 to {num_classes - 1}")
            # The pixels are a read-only view of the file's content; np.concatenate below copies them once.
            images.append(pixels)
            labels += numbers
        return Split(
            images=torch.from_numpy(np.concatenate(images)).view(-1, 3, 32, 32),
            labels=torch.tensor(labels, dtype=torch.int64),
        )

    def _read(self, root: Path, file: str) -> dict[bytes, Any]:
        name = f"{self.folder}/{file}"
        content = _official.read(root / name, _official.FILES[name], self._way_out(root))
        try:
            return _python2.read(content)
        except ValueError as error:
            raise self._refused(root, file, str(error)) from error

    def _refused(self, root: Path, file: str, reason: str) -> DataError:
        path = root / self.folder / file
        return DataError(f"{path} was refused: {reason}; delete it and {self._way_out(root)}")

    def _way_out(self, root: Path) -> str:
        if os.path.isfile(root / self.archive):
            return f"run with --download, which checks and unpacks {root / self.archive}"
        return f"run with --download, or unpack {_official.FILES[self.archive].addresses[0]} in {root}"


@final
@frozen(kw_only=True)
class Cifar10(AbstractCifar):
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
    archive: ClassVar[str] = "cifar-10-python.tar.gz"
    folder: ClassVar[str] = "cifar-10-batches-py"
    files: ClassVar[tuple[tuple[str, ...], str]] = tuple(f"data_batch_{n}" for n in range(1, 6)), "test_batch"
    meta: ClassVar[str] = "batches.meta"

    def load(self, root: Path | None) -> Splits:
        """Reads the five training files and the test file."""
        source = "CIFAR-10 (Krizhevsky 2009), the official Python batches"
        return self._carve(root, b"labels", b"label_names", source)


@final
@frozen(kw_only=True)
class Cifar100(AbstractCifar):
    """60,000 colour photographs of 32×32 pixels in 100 classes, 10,000 of them for testing.

    The images are read from `<data root>/cifar-100-python`. The md5 of each file is checked; nothing is executed.
    """

    name: ClassVar[str] = "cifar100"
    citation: ClassVar[str] = Cifar10.citation
    archive: ClassVar[str] = "cifar-100-python.tar.gz"
    folder: ClassVar[str] = "cifar-100-python"
    files: ClassVar[tuple[tuple[str, ...], str]] = ("train",), "test"
    meta: ClassVar[str] = "meta"

    labels: Literal["fine", "coarse"] = option(
        "fine", validator=in_(("fine", "coarse")), help="fine: the 100 classes; coarse: the 20 groups of five classes"
    )

    def load(self, root: Path | None) -> Splits:
        """Reads the training and the test file."""
        source = f"CIFAR-100 (Krizhevsky 2009), the official Python files, {self.labels} labels"
        return self._carve(root, f"{self.labels}_labels".encode(), f"{self.labels}_label_names".encode(), source)
