"""What list-like commands share: JSON on request, an aligned table otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Columns of at most this width are not folded where there is room; wider ones get this much at least.
_SHORT, _FOLDED = 14, 20
#: Width of tables that are piped.
_PIPED = 1000


def show_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool, empty: str) -> None:
    """Prints rows as a JSON array, or the named columns as a table.

    Args:
        rows: one mapping per line.
        columns: keys to show to people; their headings, too.
        as_json: all keys, for programs.
        empty: what to say to people when there is nothing.
    """
    if as_json:
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
        return
    if not rows:
        click.echo(empty)
        return
    from rich.table import Table

    console = wide_console()
    first, *others = (max(len(c), *(len(str(row[c])) for row in rows)) for c in columns)
    # The first is a name, which is copied. Short words are not broken either, where there is room for whole ones.
    room = first + sum(width if width <= _SHORT else _FOLDED for width in others) + 2 * len(columns)
    short = [False, *(width <= _SHORT and room <= console.width for width in others)]
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, whole in zip(columns, short, strict=True):
        grid.add_column(column, overflow="fold", no_wrap=whole or column == columns[0])
    for row in rows:
        grid.add_row(*(str(row[column]) for column in columns))
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
    widths = [max((len(str(row[c])) for rows in groups.values() for row in rows), default=0) for c in columns]
    for heading, rows in groups.items():
        if not rows:
            continue
        if not first:
            console.print()
        first = False
        console.print(heading, style="bold", markup=False, highlight=False)
        grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        grid.add_column(width=2, no_wrap=True)
        for number, width in enumerate(widths):
            grid.add_column(overflow="fold", no_wrap=number == 0, min_width=width if number == 0 else None)
        for row in rows:
            grid.add_row("", *(str(row[column]) for column in columns))
        console.print(grid, markup=False, highlight=False, crop=False)
    if first:
        click.echo(empty)


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
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_PIPED)
