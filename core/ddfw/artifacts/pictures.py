"""Pictures of synthetic images.

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

#: Images shown of each class, and the largest number of classes shown.
MAX_COLUMNS, MAX_ROWS = 16, 40
_PAPER, _INK, _FAINT = (255, 255, 255), (32, 33, 36), (110, 113, 118)


def write_grid(
    path: Path, pixels: Tensor, targets: Tensor, images_per_class: int, class_names: Sequence[str], title: str
) -> str:
    """A PNG with one row of images for each class, each with its most probable labels under it; returns the sha256.

    Args:
        path: the target.
        pixels: [n, C, H, W], 0 black and 1 white; values outside are clipped for the picture only.
        targets: [n, m] probabilities.
        images_per_class: n / m.
        class_names: m names.
        title: one line above the grid.
    """
    from PIL import Image, ImageDraw, ImageFont

    _, channels, height, width = pixels.shape
    columns, rows = min(images_per_class, MAX_COLUMNS), min(len(class_names), MAX_ROWS)
    zoom = max(1, -(-64 // max(height, width)))
    cell_w, cell_h = width * zoom + 8, height * zoom + 22
    font, bold = ImageFont.load_default(11), ImageFont.load_default(13)
    names = [name if len(name) <= 14 else name[:13] + "…" for name in class_names]
    margin = int(max(bold.getlength(name) for name in names[:rows])) + 20
    full = max(margin + columns * cell_w + 8, int(bold.getlength(title)) + 24)
    sheet = Image.new("RGB", (full, 34 + rows * cell_h + 6), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((10, 9), title, fill=_INK, font=bold)
    shown = pixels.detach().cpu().float().clamp(0, 1).mul(255).round().byte()
    for row in range(rows):
        top = 34 + row * cell_h
        pen.text((10, top + height * zoom / 2 - 8), names[row], fill=_INK, font=bold)
        for column in range(columns):
            i = row * images_per_class + column
            array = shown[i].permute(1, 2, 0).numpy()
            picture = Image.fromarray(array[..., 0] if channels == 1 else array)
            left = margin + column * cell_w
            picture = picture.convert("RGB").resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top))
            pen.text((left, top + height * zoom + 3), _caption(targets[i], names, font, cell_w - 4), _FAINT, font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return write_bytes(path, buffer.getvalue())


def _caption(target: Tensor, names: Sequence[str], font: object, width: int) -> str:
    """The most probable class with its percentage, and the second one if there is room and reason."""
    values, order = target.sort(descending=True)
    first = f"{names[int(order[0])]} {100 * float(values[0]):.0f}%"
    if len(values) < 2 or float(values[1]) < 0.05:
        return first if float(values[0]) < 0.995 else names[int(order[0])]
    both = f"{first}  {names[int(order[1])]} {100 * float(values[1]):.0f}%"
    return both if font.getlength(both) <= width else first  # type: ignore[attr-defined]
