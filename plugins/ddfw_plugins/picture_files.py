"""Reads picture files into arrays of bytes; every file is treated as hostile input.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddfw import DataError
from ddfw.artifacts.opening import opened, read_whole, require_honest

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

#: Formats of plain pixels, with the suffixes that are taken for theirs. No other reader is asked: some start programs.
PILLOW_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
#: Largest size of one file in bytes, and largest number of pixels, since a small file can hold very many pixels.
MAX_BYTES = 1 << 28
MAX_PIXELS = 1 << 26

Colour = Literal["auto", "grey", "rgb"]


def read_picture(path: Path, size: tuple[int, int] | None, colour: Colour) -> np.ndarray:
    """Reads a picture as uint8: [H, W] for a grey one, [H, W, 3] for a coloured one.

    The picture is turned upright as its EXIF data say, transparency becomes white, 16-bit grey becomes 8-bit grey.

    Args:
        path: the file.
        size: (H, W) to scale to by Lanczos resampling, after a centred crop to that shape; None: keep the size.
        colour: `grey` converts the picture to grey; `auto` and `rgb` leave grey pictures grey.

    Raises:
        DataError: the file is missing, damaged, too large, or not a picture of a format in `FORMATS`.
    """
    import numpy as np
    from PIL import Image, ImageOps

    content = _content(path)
    try:
        # Pillow warns of what is large or out of the ordinary; what is too large is refused here.
        with _quietly(), Image.open(io.BytesIO(content), formats=PILLOW_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"it has {image.width}×{image.height} pixels, at most {MAX_PIXELS:,} are read")
            # Decoding, turning and converting hold it several times.
            require_honest("it", len(content), 3 * image.width * image.height, "make it smaller", times=2)
            image.load()
            plain = _in_bytes(ImageOps.exif_transpose(image))
            if colour == "grey":
                plain = plain.convert("L")
            if size is not None and plain.size != size[::-1]:
                plain = ImageOps.fit(plain, size[::-1], method=Image.Resampling.LANCZOS)
            return np.asarray(plain)
    except Exception as error:
        # A damaged file can make a decoder raise anything: OSError, SyntaxError, struct.error, MemoryError, …
        known = isinstance(error, DataError) or "bomb" in type(error).__name__.lower()
        reason = " ".join(str(error).split())[:200] if known else f"damaged or not a picture ({type(error).__name__})"
        raise DataError(f"{path} was refused: {reason}; replace it or take it out") from error


def _content(path: Path) -> bytes:
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise DataError(f"{path} was refused: a picture of more than {MAX_BYTES >> 20} MiB; take it out")
    return read_whole(path, MAX_BYTES)


def _in_bytes(image: Image.Image) -> Image.Image:
    """Converts an image to mode L or RGB; transparency becomes white, 16-bit grey becomes 8-bit grey."""
    import numpy as np
    from PIL import Image

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


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
