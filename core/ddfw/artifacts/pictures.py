"""Draws synthetic images as PNG grids.

Shapes: n images in class order, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddfw.artifacts.atomic import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

#: Largest number of images shown for each class, and largest number of classes shown.
MAX_IMAGES, MAX_CLASSES = 16, 40
#: With at most this many images per class, each class is a column of the grid; with more, each class is a row.
FEW = 4
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (95, 99, 104)
_EDGE, _GAP, _CAPTION, _HEADING = 12, 8, 30, 20


def write_grid(
    path: Path,
    pixels: Tensor,
    targets: Tensor,
    images_per_class: int,
    class_names: Sequence[str],
    title: str,
    only: int | None = None,
) -> str:
    """Writes a PNG grid of images grouped by class, with the most probable labels under each image.

    Args:
        path: the file to write.
        pixels: [n, C, H, W] in class order, 0 black and 1 white; values outside [0, 1] are clipped in the picture.
        targets: [n, m] label probabilities.
        images_per_class: number n / m of images of each class.
        class_names: the m names of the classes.
        title: one line above the grid.
        only: number of the one class to draw; None: all.

    Returns:
        The sha256 of the file, in hexadecimal.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = pixels.shape[2:]
    images, classes = min(images_per_class, MAX_IMAGES), min(len(class_names), MAX_CLASSES)
    if images < images_per_class:
        title += f" · first {images} of {images_per_class} images of each class"
    if only is None and classes < len(class_names):
        title += f" · first {classes} of {len(class_names)} classes"
    drawn = range(classes) if only is None else range(only, only + 1)
    across = only is None and images <= FEW and classes <= MAX_IMAGES
    columns, rows = (classes, images) if across else (images, len(drawn))
    zoom = max(1, -(-72 // max(height, width)))
    cell_w, cell_h = max(width * zoom, 72) + _GAP, height * zoom + _CAPTION + _GAP
    font, bold = ImageFont.load_default(11), ImageFont.load_default(13)
    names = [name if len(name) <= 12 else name[:11] + "…" for name in class_names]
    left = _EDGE if across else _EDGE + _GAP + int(max(bold.getlength(n) for n in (names[k] for k in drawn)))
    top = 36 + (_HEADING if across else 0)
    size = (max(left + columns * cell_w, int(bold.getlength(title)) + _EDGE) + _EDGE, top + rows * cell_h)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_EDGE, 10), title, fill=_INK, font=bold)
    shown = pixels.detach().cpu().float().clamp(0, 1).mul(255).round().byte()
    for place, label in enumerate(drawn):
        if across:
            pen.text((left + place * cell_w, 36), names[label], fill=_INK, font=bold)
        else:
            pen.text((_EDGE, top + place * cell_h + height * zoom / 2 - 8), names[label], fill=_INK, font=bold)
        for number in range(images):
            i = label * images_per_class + number
            column, row = (place, number) if across else (number, place)
            corner = (left + column * cell_w, top + row * cell_h)
            array = shown[i].permute(1, 2, 0).numpy()
            picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
            sheet.paste(picture.resize((width * zoom, height * zoom), Image.Resampling.NEAREST), corner)
            for line, text in enumerate(_captions(targets[i], names)):
                pen.text((corner[0], corner[1] + height * zoom + 2 + 13 * line), text, fill=_FAINT, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return write_bytes(path, buffer.getvalue())


def _captions(target: Tensor, names: Sequence[str]) -> list[str]:
    """The most probable class, and the second one from 5 % on, each with its percentage; from 99.5 % on one name."""
    values, order = target.sort(descending=True, stable=True)
    if float(values[0]) >= 0.995:
        return [names[int(order[0])]]
    lines = [f"{names[int(k)]}: {100 * float(v):.0f} %" for v, k in zip(values[:2], order[:2], strict=True)]
    return lines if float(values[1]) >= 0.05 else lines[:1]
