"""`ddfw show`: the images that a run learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

import ddfw

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from torch import Tensor

#: Columns of a terminal that an image takes at most, and how many small ones are enlarged to take at least.
WIDEST, NARROWEST = 32, 16
#: At most this many images are drawn in the terminal.
MOST = 64
TOP = 3


@frozen(kw_only=True, eq=False)
class Shown:
    """Images of one outer step.

    Args:
        pixels: [m·k, C, H, W] in class order, 0 black and 1 white.
        targets: [m·k, m] label probabilities.
        per_class: number k of images of each class.
        of_per_class: how many images of each class the set has.
        names: the m names of the classes.
        step: outer steps that were done.
    """

    pixels: Tensor
    targets: Tensor
    per_class: int
    of_per_class: int
    names: tuple[str, ...]
    step: int


@click.command("show")
@click.argument("path", metavar="RUN", type=click.Path(path_type=Path), shell_complete=ddfw.complete_runs)
@click.option("--class", "of_class", metavar="K|NAME", help="Only this class, with the labels of its images.")
@click.option("--step", type=click.IntRange(min=0), help="After so many outer steps; the default is the selected one.")
@click.option("--out", type=click.Path(path_type=Path), help="Write a PNG picture.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
def show_command(path: Path, of_class: str | None, step: int | None, out: Path | None, as_json: bool) -> None:
    """Show the images that RUN learned: in a terminal with colours, or as a picture with --out.

    A run keeps its images at the selected step, and pictures of them at its start, middle and end.

    \b
    ddfw show runs/a
    ddfw show runs/a --class 3 --step 0
    ddfw show runs/a --out grid.png
    """
    if out is not None and out.suffix.lower() != ".png":
        raise click.BadParameter(f"{out} does not end in .png, which is what is written", param_hint="--out")
    run = ddfw.read_run(path)
    if run.problem:
        ddfw.say(f"warning: {run.problem}", err=True)
    shown = _images(run, step)
    only = None if of_class is None else _class_number(of_class, shown.names)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        title = f"{run.title} · step {shown.step}"
        ddfw.write_grid(out, shown.pixels, shown.targets, shown.per_class, shown.names, title, only)
    chosen = range(len(shown.names)) if only is None else range(only, only + 1)
    if as_json:
        ddfw.say_json(_facts(run, shown, chosen))
        return
    _show(run, shown, chosen)
    if out is not None:
        ddfw.say(f"written: {out}")


def _images(run: ddfw.RunRecord, step: int | None) -> Shown:
    """The images after an outer step; None is the selected step, or the last stored one of a run that has none.

    Raises:
        BadParameter: the run keeps nothing of that step.
        DataError: the run keeps no images, or damaged ones.
    """
    stored = run.stored_steps
    selected = int(ddfw.load(run.path).step) if run.card else None
    if selected is None and not stored:
        raise ddfw.DataError(f"{run.path} keeps no images yet: it is {run.state}")
    wanted = step if step is not None else stored[-1] if selected is None else selected
    if wanted == selected:
        learned = ddfw.load(run.path)
        per_class = len(learned.images) // learned.targets.shape[1]
        return Shown(
            pixels=learned.space.decode(learned.images).float(),
            targets=learned.targets.float(),
            per_class=per_class,
            of_per_class=per_class,
            names=tuple(map(ddfw.printable, learned.class_names)),
            step=wanted,
        )
    if wanted not in stored:
        known = sorted({*stored, *(() if selected is None else (selected,))})
        raise click.BadParameter(
            f"{run.path} keeps no images of step {wanted}, but of {', '.join(map(str, known))}", param_hint="--step"
        )
    found = ddfw.read_snapshot(run.path, wanted)
    names = ddfw.load(run.path).class_names if run.card else tuple(map(str, range(found.targets.shape[1])))
    return Shown(
        pixels=found.pixels,
        targets=found.targets,
        per_class=found.per_class,
        of_per_class=found.of_per_class,
        names=tuple(map(ddfw.printable, names)),
        step=wanted,
    )


def _class_number(given: str, names: Sequence[str]) -> int:
    """The number of a class that is given by its name or number.

    Raises:
        BadParameter: there is no such class.
    """
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    hint = ddfw.did_you_mean(given, names)
    shown = ", ".join(names[:20]) + ("…" if len(names) > 20 else "")
    raise click.BadParameter(
        f"no class {given!r}.{hint} Known: {shown}, or a number from 0 to {len(names) - 1}", param_hint="--class"
    )


def _rows(shown: Shown, number: int) -> range:
    """The rows of a class's images."""
    return range(number * shown.per_class, (number + 1) * shown.per_class)


def _top(shown: Shown, row: int) -> list[tuple[int, float]]:
    """The most probable classes of an image's label, with their probabilities."""
    values, order = shown.targets[row].sort(descending=True, stable=True)
    best = zip(order[:TOP].tolist(), values[:TOP].tolist(), strict=True)
    return [(k, value) for k, value in best if value > 0]


def _facts(run: ddfw.RunRecord, shown: Shown, chosen: range) -> dict[str, Any]:
    """What is shown, JSON-able."""
    selected = run.card.get("selected")
    return {
        "schema": 1,
        "run": str(run.path),
        "title": run.title,
        "state": run.state,
        "step": shown.step,
        "selected_step": selected.get("step") if isinstance(selected, dict) else None,
        "stored_steps": run.stored_steps,
        "shape": list(shown.pixels.shape[1:]),
        "images_per_class": shown.of_per_class,
        "range": [float(shown.pixels.min()), float(shown.pixels.max())],
        "classes": [
            {
                "class": number,
                "name": shown.names[number],
                "labels": [
                    [{"class": k, "name": shown.names[k], "probability": value} for k, value in _top(shown, row)]
                    for row in _rows(shown, number)
                ],
            }
            for number in chosen
        ],
    }


def _show(run: ddfw.RunRecord, shown: Shown, chosen: range) -> None:
    """Draws where the terminal can, and says the facts."""
    console = ddfw.console()
    c, h, w = shown.pixels.shape[1:]
    facts = _facts(run, shown, chosen)
    kept = f", the first {shown.per_class} of them kept" if shown.per_class < shown.of_per_class else ""
    words = ["selected" if shown.step == facts["selected_step"] else "not the selected step"]
    words += [f"pictures of steps {', '.join(map(str, run.stored_steps))}"] if run.stored_steps else []
    low, high = facts["range"]
    lines = [
        f"run      {run.path} ({run.state})",
        f"set      {run.title}",
        f"step     {shown.step} ({'; '.join(words)})",
        f"images   {shown.of_per_class} of each of {len(shown.names)} classes{kept}, {c} × {h} × {w}, "
        f"values {low:.2f} … {high:.2f} (0 black, 1 white)",
    ]
    ddfw.say(*lines)
    if console.is_terminal and console.color_system in ("256", "truecolor") and not console.no_color:
        _draw(console, shown, chosen)
    one = len(chosen) == 1
    rows = [(number, row) for number in chosen for row in (_rows(shown, number) if one else _rows(shown, number)[:1])]
    table = [(shown.names[number], str(row % shown.per_class), _label(shown, row)) for number, row in rows]
    columns = ("class", "image", "label")
    more = not one and shown.per_class > 1
    note = ["labels of the first image of each class; --class K shows those of a class"] if more else []
    ddfw.show_table(ddfw.text_table(columns, table, note, left=("class", "label")))


def _label(shown: Shown, row: int) -> str:
    return ", ".join(f"{shown.names[k]} {100 * value:.0f} %" for k, value in _top(shown, row) if value >= 0.005)


def _draw(console: Console, shown: Shown, chosen: range) -> None:
    """Images side by side, as many as the terminal is wide; two rows of pixels make a line of half blocks."""
    from rich.text import Text

    room = max(1, MOST // len(chosen))
    rows = [(number, row) for number in chosen[:MOST] for row in _rows(shown, number)[:room]]
    pictures = [_blocks(shown.pixels[row]) for _, row in rows]
    width = len(pictures[0][0])
    across = max(1, (console.width + 1) // (width + 1))
    for begin in range(0, len(rows), across):
        part = range(begin, min(begin + across, len(rows)))
        names = [shown.names[rows[i][0]] for i in part]
        console.print(Text(" ".join(name[:width].ljust(width) for name in names)), no_wrap=True, crop=True)
        for line in zip(*(pictures[i] for i in part), strict=True):
            console.print(Text(" ").join(line), no_wrap=True, crop=True)
    left_out = len(chosen) * shown.per_class - len(rows)
    if left_out:
        console.print(f"{left_out} more images are not drawn; --class K draws those of a class, --out a picture")


def _blocks(image: Tensor) -> list[Text]:
    """An image as lines of half blocks: the upper pixel is the colour of the character, the lower that of its ground.

    Args:
        image: [C, H, W], 0 black and 1 white.
    """
    from rich.text import Text
    from torch.nn.functional import interpolate

    h, w = image.shape[1:]
    if w > WIDEST:
        image = interpolate(image[None], size=(max(1, round(h * WIDEST / w)), WIDEST), mode="area")[0]
    elif (zoom := NARROWEST // w) > 1:
        image = interpolate(image[None], scale_factor=zoom, mode="nearest")[0]
    rows = _colours(image).permute(1, 2, 0).tolist()
    rows += [rows[-1]] * (len(rows) % 2)
    lines = []
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        line = Text()
        for (r, g, b), (r2, g2, b2) in zip(upper, lower, strict=True):
            line.append("▀", style=f"rgb({r},{g},{b}) on rgb({r2},{g2},{b2})")
        lines.append(line)
    return lines


def _colours(image: Tensor) -> Tensor:
    """[3, H, W] integers from 0 to 255; of images with other than three channels, the first three, or grey."""
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    return shown.clamp(0, 1).mul(255).round().int()
