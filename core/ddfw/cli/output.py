"""What commands print with: lines, JSON, and aligned tables. What is printed here is only ever shown by a terminal."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from ddfw.plain import message_line, printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

#: Columns of at most this width are not folded where there is room; wider ones get this much at least.
_SHORT, _FOLDED = 14, 20
#: Width of tables that are piped.
_PIPED = 1000
#: Longest line of ordinary output.
_LINE = 20_000
#: What errors of printing name as their file.
STDOUT = "standard output"


def say(*lines: object, err: bool = False) -> None:
    """Prints lines; whatever names and values stand in one, it stays one line of plain text.

    Args:
        lines: what to print, `str` of each on a line.
        err: whether they are messages, for standard error, where long ones are cut.
    """
    for line in lines:
        _print(message_line(line) if err else printable(line, _LINE), err)


def say_json(value: Mapping[str, Any] | Sequence[Any], indent: int | None = None) -> None:
    """Prints JSON on standard output, without a character that a terminal would obey.

    Args:
        value: what `json` can write.
        indent: spaces by which it is indented; None for one line.
    """
    _print(printable_json(value, indent), err=False)


def _print(text: str, err: bool) -> None:
    try:
        click.echo(text, err=err)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard error" if err else STDOUT) from error


def show_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool, empty: str) -> None:
    """Prints rows as a JSON array, or the named columns as a table.

    Args:
        rows: one mapping per line.
        columns: keys to show to people; their headings, too.
        as_json: all keys, for programs.
        empty: what to say to people when there is nothing.
    """
    if as_json:
        say_json(list(rows), indent=2)
        return
    if not rows:
        say(empty)
        return
    from rich.table import Table

    console = wide_console()
    cells = [[printable(row[column]) for column in columns] for row in rows]
    first, *others = (
        max(len(c), *map(len, column)) for c, column in zip(columns, zip(*cells, strict=True), strict=True)
    )
    # The first is a name, which is copied. Short words are not broken either, where there is room for whole ones.
    room = first + sum(width if width <= _SHORT else _FOLDED for width in others) + 2 * len(columns)
    short = [False, *(width <= _SHORT and room <= console.width for width in others)]
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, whole in zip(columns, short, strict=True):
        grid.add_column(column, overflow="fold", no_wrap=whole or column == columns[0])
    for row in cells:
        grid.add_row(*row)
    console.print(grid, markup=False, highlight=False, crop=False)


def show_groups(groups: Mapping[str, Sequence[dict[str, Any]]], columns: Sequence[str], empty: str) -> None:
    """Prints tables below headings, their columns aligned with one another, one line a row where it fits.

    Args:
        groups: rows by heading; those without rows are left out.
        columns: keys to show; the first is a name.
        empty: what to say when no group has rows.
    """
    from rich.table import Table

    console, first = wide_console(), True
    cells = {heading: [[printable(row[c]) for c in columns] for row in rows] for heading, rows in groups.items()}
    width = max((len(row[0]) for rows in cells.values() for row in rows), default=0)
    for heading, rows in cells.items():
        if not rows:
            continue
        if not first:
            console.print()
        first = False
        console.print(heading, style="bold", markup=False, highlight=False)
        grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        grid.add_column(width=2, no_wrap=True)
        for number in range(len(columns)):
            grid.add_column(overflow="fold", no_wrap=number == 0, min_width=width if number == 0 else None)
        for row in rows:
            grid.add_row("", *row)
        console.print(grid, markup=False, highlight=False, crop=False)
    if first:
        say(empty)


def age_text(seconds: float) -> str:
    """How long ago something was, in its largest unit: `40 s`, `12 min`, `3 h`, `5 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def show_table(table: RenderableType) -> None:
    """Prints a table such as `text_table` makes, below an empty line.

    Args:
        table: what rich can print.
    """
    console = wide_console()
    console.print()
    console.print(table)


def wide_console() -> Console:
    """The console for tables: as wide as a reader's terminal; wider where output is piped, so that no row is folded."""
    found = console()
    return found if found.is_terminal else console(width=_PIPED)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console of rich for our own styles and bars; in text that it is given, nothing is obeyed.

    Args:
        stderr: whether it writes to standard error.
        width: columns; None for those of the terminal.
    """
    return _console_type()(stderr=stderr, width=width, emoji=False)


@cache
def _console_type() -> type[Console]:
    from rich.console import Console
    from rich.segment import Segment

    class PlainConsole(Console):
        """Writes each text as `printable` does; only styles and the console's own controls reach the terminal."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE), STDOUT)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                plain = part.control or (part.text.isascii() and part.text.isprintable()) or part.text == "\n"
                yield part if plain else Segment(_shown(part.text), part.style)

    return PlainConsole


def _shown(text: str) -> str:
    return "\n".join(printable(line, _LINE) for line in text.split("\n"))
