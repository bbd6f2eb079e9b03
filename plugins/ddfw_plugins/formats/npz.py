"""`npz`: set.npz for people who have only NumPy.

It holds `images` [n, C, H, W] in training space, `targets` [n, m], `labels` [n] (the likeliest class), `pixels`
[n, C, H, W] with 1 = brightest (unclipped), `step_size` and `class_names`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddfw import DataError, ImageSet, SyntheticSet

_FILE = "set.npz"
#: Bytes that an archive may unpack to; a few bytes can be told to become any number of them.
_LARGEST = 2**30


def write_npz(learned: SyntheticSet, folder: Path) -> dict[str, Any]:
    """Writes the set, exactly."""
    np.savez(
        folder / _FILE,
        images=learned.images.numpy(),
        targets=learned.targets.numpy(),
        labels=learned.targets.argmax(dim=1).numpy(),
        pixels=learned.space.decode(learned.images).numpy(),
        step_size=np.array(learned.step_size),
        class_names=np.array(learned.class_names),
    )
    return {"file": _FILE}


def read_npz(path: Path, card: Mapping[str, Any]) -> ImageSet:
    """Reads an export; nothing in it is unpickled.

    Raises:
        DataError: no archive of images and targets, or one that unpacks to more than 1 GiB.
    """
    _ = card["sha256"][_FILE]  # only a file that the card vouches for
    file = path / _FILE
    try:
        with zipfile.ZipFile(file) as members:
            if sum(member.file_size for member in members.infolist()) > _LARGEST:
                raise DataError(f"{file} unpacks to more than a set is taken to hold")
        with np.load(file, allow_pickle=False) as archive:
            images, targets = torch.from_numpy(archive["images"]), torch.from_numpy(archive["targets"])
    except (OSError, KeyError, ValueError, EOFError, MemoryError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is not a readable archive of images and targets") from error
    return ImageSet(images=images, targets=targets)
