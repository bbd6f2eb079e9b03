"""`npz`: set.npz for people who have only NumPy.

It holds `images` [n, C, H, W] in training space, `targets` [n, m], `labels` [n] (the likeliest class), `pixels`
[n, C, H, W] with 1 = brightest (unclipped), `step_size` and `class_names`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddfw import MAX_SET, DataError, ImageSet, SyntheticSet, read_arrays

_FILE = "set.npz"


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
        DataError: no archive of images and targets, or one that would unpack to far more than its size.
    """
    _ = card["sha256"][_FILE]  # only a file that the card vouches for
    images, targets = read_arrays(path / _FILE, [["images"], ["targets"]], MAX_SET)
    try:
        return ImageSet(images=torch.from_numpy(images), targets=torch.from_numpy(targets))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path / _FILE} holds images {images.dtype} and targets {targets.dtype}, no numbers"
        ) from error
