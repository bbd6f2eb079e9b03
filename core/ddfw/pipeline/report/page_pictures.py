"""Pictures of a page: learned images by class with their labels, and how they came about beside real images.

Shapes: k images of each class, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from ddfw.artifacts.snapshots import Snapshot, read_snapshot, snapshot_steps
from ddfw.artifacts.synthetic import read_card, read_synthetic, space_of
from ddfw.errors import DataError
from ddfw.pipeline.report.markup import html_table, paragraph, text
from ddfw.pipeline.report.page_source import PageSource

if TYPE_CHECKING:
    from torch import Tensor

#: Bytes of the page that all its pictures may take, with the text around them.
PICTURE_BYTES = 3_200_000
#: At most so many images of a class and so many classes are shown, and no side has more pixels.
PAGE_IMAGES, PAGE_CLASSES, MAX_SIDE, LEAST_SIDE = 16, 100, 128, 32
#: Text of one picture in the page beside its PNG, and what a PNG takes beside its pixels.
_TEXT, _HEAD = 420, 120
#: A set whose labels are all as sure has hard labels; probabilities below the second figure are not written.
_SURE, _WORTH = 0.995, 0.05


@frozen(kw_only=True)
class Showing:
    """How much of a set fits into a page.

    Args:
        classes: the first so many classes are shown.
        per_class: the first so many images of each.
        shrink: pixels are averaged over squares of this side.
    """

    classes: int
    per_class: int
    shrink: int = 1


def fitting(classes: int, per_class: int, shape: Sequence[int], room: int, copies: int = 1) -> Showing:
    """The most of a set that fits: first fewer images a class, then fewer pixels, then fewer classes.

    Args:
        classes: number m of classes.
        per_class: number k of images of each class.
        shape: (C, H, W) of one image.
        room: bytes of the page that it may take.
        copies: how many such sets are shown, each as large.
    """
    channels, height, width = shape
    shown, shrink = min(classes, PAGE_CLASSES), -(-max(height, width) // MAX_SIDE)
    while True:
        cost = _cost(channels, height, width, shrink) * copies
        least = 1 if max(height, width) // shrink < 2 * LEAST_SIDE or shown * cost <= room else 0
        for images in range(min(per_class, PAGE_IMAGES), 0, -1):
            if shown * images * cost <= room:
                return Showing(classes=shown, per_class=images, shrink=shrink)
        if least:
            return Showing(classes=max(1, min(shown, room // cost)), per_class=1, shrink=shrink)
        shrink *= 2


def _cost(channels: int, height: int, width: int, shrink: int) -> int:
    """Bytes of one picture in the page at most: pixels that do not compress, in base64, and the text around them."""
    return 4 * (channels * -(-height // shrink) * -(-width // shrink) + height // shrink + _HEAD) // 3 + _TEXT


def png_url(pixels: Tensor, shrink: int = 1) -> str:
    """A `data:` address with a PNG of an image.

    Args:
        pixels: [C, H, W] floating, 0 black and 1 white; clipped to that range, and NaN is black.
        shrink: pixels are averaged over squares of this side.
    """
    import torch
    from PIL import Image

    shown = pixels.detach().float().nan_to_num(0.0).clamp(0, 1)
    if shrink > 1:
        shown = torch.nn.functional.avg_pool2d(shown[None], shrink, ceil_mode=True)[0]
    array = shown.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    if array.shape[2] not in (1, 3):
        array = array[..., :1]
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def tile(pixels: Tensor, alt: str, shrink: int = 1, side: int = 72) -> str:
    """An image of whole multiples of its pixels, about `side` wide."""
    height, width = pixels.shape[1:]
    zoom = max(1, round(side / max(height, width)))
    return (
        f'<img class="tile" src="{png_url(pixels, shrink)}" width="{width * zoom}" height="{height * zoom}" '
        f'alt="{text(alt, 160)}" decoding="async">'
    )


def learned_set(source: PageSource) -> Snapshot | None:
    """The images that the run has kept, as pixels; the newest stored ones of a run that has kept none yet."""
    folder = source.path / "synthetic"
    try:
        card = read_card(folder)
        found = read_synthetic(folder, card)
        pixels, targets = space_of(card, folder).decode(found.images).float(), found.targets.float()
        if pixels.ndim != 4 or targets.ndim != 2 or not len(pixels) == len(targets) >= targets.shape[1] > 0:
            return None
        count = len(targets) // targets.shape[1]
        return Snapshot(
            pixels=pixels, targets=targets, per_class=count, of_per_class=count, step=int(source.kept_step or 0)
        )
    except (DataError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, OSError):
        steps = snapshot_steps(source.path)
        return _stored(source, steps[-1]) if steps else None


def _stored(source: PageSource, step: int | None) -> Snapshot | None:
    try:
        found = read_snapshot(source.path, step)
    except (DataError, OSError):
        return None
    return found if len(found.pixels) else None


def name_of(names: Sequence[str], label: int) -> str:
    """The name of a class, its number where there is none."""
    return names[label] if label < len(names) else str(label)


def label_lines(target: Tensor, names: Sequence[str], count: int = 3) -> list[str]:
    """The most probable classes of a label with their probabilities, from 5 % on, a line each."""
    values, order = target.sort(descending=True, stable=True)
    pairs = [(float(v), int(k)) for v, k in zip(values[:count], order[:count], strict=True)]
    return [f"{100 * v:.0f} % {name_of(names, k)}" for i, (v, k) in enumerate(pairs) if i == 0 or v >= _WORTH]


def gallery(source: PageSource, room: int = PICTURE_BYTES // 2) -> str:
    """The learned images of each class with their labels.

    Args:
        source: the run.
        room: bytes of the page that it may take.
    """
    found = learned_set(source)
    if found is None:
        return paragraph("No learned images are stored here.", "quiet")
    names, classes = source.class_names, found.targets.shape[1]
    fits = fitting(classes, found.per_class, found.pixels.shape[1:], room)
    soft = bool((found.targets.max(dim=1).values < _SURE).any())
    items = []
    for label in range(fits.classes):
        name = name_of(names, label)
        tiles = []
        for number in range(fits.per_class):
            row = label * found.per_class + number
            lines = label_lines(found.targets[row], names)
            alt = f"learned image {number + 1} of class {name}" + (f", label {', '.join(lines)}" if soft else "")
            words = "<br>".join(text(line, 30) for line in lines)
            caption = f"<figcaption>{words}</figcaption>" if soft else ""
            tiles.append(f"<figure>{tile(found.pixels[row], alt, fits.shrink)}{caption}</figure>")
        box = "tiles labelled" if soft else "tiles"
        items.append(f'<li><h3>{text(name, 60)}</h3><div class="{box}">{"".join(tiles)}</div></li>')
    kind = "gallery one" if fits.per_class == 1 else "gallery wide" if fits.per_class > 4 else "gallery"
    means = (
        "Below each image: its soft label, the most probable classes." if soft else "Each image's label is its class."
    )
    return f'{paragraph(means + _left_out(found, fits), "quiet")}<ul class="{kind}">{"".join(items)}</ul>'


def stages(source: PageSource, room: int = PICTURE_BYTES // 2) -> str:
    """The set at its start, in the middle and at its end, beside real images, a row for each class.

    Args:
        source: the run.
        room: bytes of the page that it may take.
    """
    steps = snapshot_steps(source.path)
    chosen = sorted({steps[0], min(steps, key=lambda s: abs(2 * s - steps[-1])), steps[-1]}) if steps else []
    found = [snapshot for step in chosen if (snapshot := _stored(source, step)) is not None]
    real = _stored(source, None)
    shown = [*found, real] if real is not None else found
    if not found or len({(s.pixels.shape[1:], s.targets.shape[1]) for s in shown}) != 1:
        return paragraph(
            "No images of the start, the middle and the end are stored here: the run ended before it kept them, or an "
            "earlier version of ddfw made it.",
            "quiet",
        )
    names, classes = source.class_names, found[0].targets.shape[1]
    fits = fitting(classes, min(4, *(s.per_class for s in shown)), found[0].pixels.shape[1:], room, len(shown))
    heads = [_stage(s, index, len(found)) for index, s in enumerate(shown)]
    rows = []
    for label in range(fits.classes):
        name = name_of(names, label)
        cells = []
        for head, snapshot in zip(heads, shown, strict=True):
            first = label * snapshot.per_class
            images = snapshot.pixels[first : first + fits.per_class]
            alt = f"{head}, class {name}"
            cells.append(f'<div class="tiles">{"".join(tile(image, alt, fits.shrink, 56) for image in images)}</div>')
        rows.append([text(name, 60), *cells])
    caption = f"The first {_images(fits.per_class)} of each class"
    note = _left_out(found[0], fits)
    return html_table(caption, ("class", *heads), rows, name="stages") + (
        paragraph(note.strip(), "quiet") if note else ""
    )


def _stage(snapshot: Snapshot, index: int, count: int) -> str:
    if snapshot.step is None:
        return "real images"
    word = "start" if index == 0 and snapshot.step == 0 else "end" if index == count - 1 else "on the way"
    return f"{word}, step {snapshot.step:,}"


def _images(count: int) -> str:
    return "image" if count == 1 else f"{count} images"


def _left_out(found: Snapshot, fits: Showing) -> str:
    """A sentence on what a page does not show of a set; "" if it shows all."""
    classes, words = found.targets.shape[1], []
    if fits.classes < classes:
        words.append(f"the first {fits.classes} of {classes} classes")
    if fits.per_class < found.of_per_class:
        words.append(f"the first {fits.per_class} of {found.of_per_class} images of each class")
    shown = f" Shown: {' and '.join(words)}." if words else ""
    return shown + (f" Pictures are reduced to 1/{fits.shrink} of their width." if fits.shrink > 1 else "")
