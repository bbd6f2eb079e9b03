"""Picture files to arrays of bytes; a file is hostile input.

Shapes: n images, C channels (1 or 3), H rows, W columns.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from ddfw import DataError
from ddfw_plugins.datasets._official import Ticker

#: Formats of plain pixels, with the suffixes that are taken for theirs. No other reader is asked: some start programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
#: Of one file: bytes, and pixels, which a small file can have very many of.
MAX_BYTES = 1 << 28
MAX_PIXELS = 1 << 26
#: Bytes of all images of a data set together, after resizing.
MAX_TOTAL = 1 << 33

Colour = Literal["auto", "grey", "rgb"]


def read_all(
    paths: Sequence[Path], what: str, *, size: tuple[int, int] | None, resize: bool, colour: Colour, way_out: str
) -> np.ndarray:
    """The images of many files, [n, C, H, W] uint8.

    Args:
        paths: n files, n ≥ 1.
        what: the data set, for the line about progress.
        size: (H, W), or None for that of the first image.
        resize: whether images of another size are cropped (centred) and scaled; if not, they are refused.
        colour: C; `auto` is 1 if all images are grey, and 3 otherwise.
        way_out: what to do about images of several sizes, for the message.

    Raises:
        DataError: a file that is no readable picture, images of several sizes, or more than fits in memory.
    """
    ticker = Ticker(f"reading {what}")
    out: np.ndarray | None = None
    with warnings.catch_warnings():
        # Pillow warns of what is large or out of the ordinary; what is too large is refused below.
        warnings.simplefilter("ignore")
        for number, path in enumerate(paths):
            image = _decode(path, size if resize else None, colour)
            height, width = image.shape[:2]
            if out is None:
                out = _allocate(len(paths), 3 if image.ndim == 3 or colour == "rgb" else 1, size or (height, width))
            if (height, width) != out.shape[2:]:
                raise DataError(
                    f"{path} has {height}×{width} pixels, expected {out.shape[2]}×{out.shape[3]}; {way_out}"
                )
            if image.ndim == 3 and out.shape[1] == 1:
                colourful = _allocate(len(paths), 3, (height, width))
                colourful[:number] = out[:number]
                out = colourful
            out[number] = image.transpose(2, 0, 1) if image.ndim == 3 else image
            ticker.tell(f"{number + 1:,} of {len(paths):,} images")
    assert out is not None
    return out


def _allocate(count: int, channels: int, size: tuple[int, int]) -> np.ndarray:
    total = count * channels * size[0] * size[1]
    if total > MAX_TOTAL:
        raise DataError(
            f"{count:,} images of {size[0]}×{size[1]} pixels would take {total / 2**30:.1f} GiB, at most "
            f"{MAX_TOTAL / 2**30:.1f} GiB are read; choose a smaller data.size"
        )
    return np.empty((count, channels, *size), np.uint8)


def _decode(path: Path, size: tuple[int, int] | None, colour: Colour) -> np.ndarray:
    """One image: [H, W] if it is grey (or has to be), [H, W, 3] otherwise."""
    content = _content(path)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"it has {image.width}×{image.height} pixels, at most {MAX_PIXELS:,} are read")
            image.load()
            plain = _in_bytes(ImageOps.exif_transpose(image))
            if colour == "grey":
                plain = plain.convert("L")
            if size is not None and plain.size != size[::-1]:
                plain = ImageOps.fit(plain, size[::-1], method=Image.Resampling.LANCZOS)
            return np.asarray(plain)
    except Exception as error:
        # A decoder meets damage with whatever comes up: OSError, SyntaxError, struct.error, MemoryError, …
        known = isinstance(error, DataError) or "bomb" in type(error).__name__.lower()
        reason = " ".join(str(error).split())[:200] if known else f"damaged or not a picture ({type(error).__name__})"
        raise DataError(f"{path} was refused: {reason}; replace it or take it out") from error


def _content(path: Path) -> bytes:
    try:
        found = path.stat()
        # Opening a pipe would wait for ever.
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is not a plain file; take it out")
        if found.st_size > MAX_BYTES:
            raise DataError(f"{path} was refused: a picture of more than {MAX_BYTES >> 20} MiB; take it out")
        with path.open("rb") as file:
            return file.read(found.st_size)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _in_bytes(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB; transparency over white, 16 bits of grey to 8."""
    grey = image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;")
    if image.mode == "I" or image.mode.startswith("I;"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise DataError("its grey values are not of 16 bits")
        return Image.fromarray(((values * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))
    if image.mode == "F":
        raise DataError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("L" if grey else "RGB")
