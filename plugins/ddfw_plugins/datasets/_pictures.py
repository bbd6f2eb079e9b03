"""Reads many picture files into one tensor of bytes.

Shapes: n images, C channels (1 or 3), H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ddfw import DataError, Split
from ddfw.artifacts.opening import require_honest, require_memory
from ddfw_plugins.datasets._official import Ticker
from ddfw_plugins.picture_files import Colour, read_picture

#: Files with their labels.
Rows = Sequence[tuple[Path, int]]
#: Largest size in bytes of all images of a data set together, after resizing.
MAX_TOTAL = 1 << 33


def read_all(
    rows: Rows, what: str, *, size: tuple[int, int] | None, resize: bool, colour: Colour, way_out: str
) -> Split:
    """Reads the images of many files.

    Args:
        rows: the n files with their labels, n ≥ 1.
        what: name of the data set, for progress lines.
        size: (H, W) of all images; None: the size of the first image.
        resize: whether images of another size are cropped around the centre and scaled; otherwise they are an error.
        colour: `grey` for one channel, `rgb` for three; `auto`: one if all images are grey, and three otherwise.
        way_out: what to do about images of several sizes, for the error text.

    Returns:
        The images [n, C, H, W] uint8 and labels [n], in the order of the rows.

    Raises:
        DataError: a file is not a readable picture, sizes differ, or the images do not fit into memory.
    """
    ticker = Ticker(f"reading {what}")
    out: np.ndarray | None = None
    for number, (path, _) in enumerate(rows):
        image = read_picture(path, size if resize else None, colour)
        height, width = image.shape[:2]
        if out is None:
            out = _allocate(len(rows), 3 if image.ndim == 3 or colour == "rgb" else 1, size or (height, width))
            if not resize:  # what is scaled to a size may be of any size; the user has chosen that one
                packed = sum(file.stat().st_size for file, _ in rows if file.is_file())
                require_honest(f"{path} and the pictures beside it", packed, out.nbytes, "set data.size")
        if (height, width) != out.shape[2:]:
            raise DataError(f"{path} has {height}×{width} pixels, expected {out.shape[2]}×{out.shape[3]}; {way_out}")
        if image.ndim == 3 and out.shape[1] == 1:
            colourful = _allocate(len(rows), 3, (height, width))
            colourful[:number] = out[:number]
            out = colourful
        out[number] = image.transpose(2, 0, 1) if image.ndim == 3 else image
        ticker.tell(f"{number + 1:,} of {len(rows):,} images")
    assert out is not None
    return Split(images=torch.from_numpy(out), labels=torch.tensor([label for _, label in rows], dtype=torch.int64))


def _allocate(count: int, channels: int, size: tuple[int, int]) -> np.ndarray:
    total = count * channels * size[0] * size[1]
    if total > MAX_TOTAL:
        raise DataError(
            f"{count:,} images of {size[0]}×{size[1]} pixels would take {total / 2**30:.1f} GiB, at most "
            f"{MAX_TOTAL / 2**30:.1f} GiB are read; choose a smaller data.size"
        )
    require_memory(f"what {count:,} images of {size[0]}×{size[1]} pixels become", total, "choose a smaller data.size")
    return np.empty((count, channels, *size), np.uint8)
