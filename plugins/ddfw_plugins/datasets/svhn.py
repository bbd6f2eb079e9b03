"""`svhn`: street view house numbers, from the official MATLAB files with cropped digits."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from attrs import frozen

from ddfw import AbstractDataset, DataError, Split, Splits
from ddfw_plugins.datasets import _official


@final
@frozen(kw_only=True)
class Svhn(AbstractDataset):
    """99,289 colour images of house numbers, 32×32 pixels, 26,032 for testing.

    The images are read from `train_32x32.mat` and `test_32x32.mat` in the data root or in its folder `svhn`. The md5 of
    each file is checked. The "extra" images are not used.
    """

    name: ClassVar[str] = "svhn"
    citation: ClassVar[str] = """@inproceedings{netzer2011reading,
  title = {Reading Digits in Natural Images with Unsupervised Feature Learning},
  author = {Netzer, Yuval and Wang, Tao and Coates, Adam and Bissacco, Alessandro and Wu, Bo and Ng, Andrew Y.},
  booktitle = {NIPS Workshop on Deep Learning and Unsupervised Feature Learning},
  year = {2011}
}"""

    def load(self, root: Path | None) -> Splits:
        """Reads the two files; their label 10 means the digit 0 and becomes class 0."""
        root = _official.below(root, "svhn", "train_32x32.mat and test_32x32.mat")
        return Splits.carve(
            _read(root, "train_32x32.mat"),
            _read(root, "test_32x32.mat"),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=[str(n) for n in range(10)],
            source="SVHN (Netzer et al. 2011), format 2, the official files",
            licence="non-commercial use only, as the authors ask",
        )

    def download(self, root: Path) -> None:
        """Downloads those of the two files that are missing or damaged into the data root."""
        for name in ("train_32x32.mat", "test_32x32.mat"):
            try:
                _content(root, name)
            except DataError:
                _official.fetch(root, name)


def _way_out(name: str) -> str:
    return f"run with --download, or put {_official.FILES[name].addresses[0]} there"


def _place(root: Path, name: str) -> Path:
    nested = root / "svhn" / name
    return nested if os.path.exists(nested) and not os.path.exists(root / name) else root / name


def _content(root: Path, name: str) -> bytes:
    return _official.read(_place(root, name), _official.FILES[name], _way_out(name))


def _read(root: Path, name: str) -> Split:
    """The images [n, 3, 32, 32] and labels [n] of one file."""
    from scipy.io import loadmat

    path, content = _place(root, name), _content(root, name)
    try:
        found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
        images, labels = found["X"], found["y"]
    except Exception as error:
        # The reader's possible exceptions are not documented; the file's md5 has been checked before.
        raise DataError(f"{path} is not a readable MATLAB file; delete it and {_way_out(name)}") from error
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[:-1] != (32, 32, 3):
        raise DataError(f"{path} was refused: X is not an array of 32×32×3×n bytes; delete it and {_way_out(name)}")
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "ui" or labels.size != images.shape[3]:
        raise DataError(f"{path} was refused: y is not one label for each image; delete it and {_way_out(name)}")
    if labels.min(initial=1) < 1 or labels.max(initial=10) > 10:
        raise DataError(f"{path} was refused: y has labels besides 1 to 10; delete it and {_way_out(name)}")
    return Split(
        images=torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))),
        labels=torch.from_numpy(labels.reshape(-1).astype(np.int64) % 10),
    )
