"""What list-like commands share: JSON on request, an aligned table otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

#: Columns of at most this width are not folded where there is room; wider ones get this much at least.
_SHORT, _FOLDED = 14, 20


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
    from rich.console import Console
    from rich.table import Table

    console = Console()
    first, *others = (max(len(c), *(len(str(row[c])) for row in rows)) for c in columns)
    # The first is a name, which is copied. Short words are not broken either, where there is room for whole ones.
    room = first + sum(width if width <= _SHORT else _FOLDED for width in others) + 2 * len(columns)
    short = [False, *(width <= _SHORT and room <= console.width for width in others)]
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column, whole in zip(columns, short, strict=True):
        grid.add_column(column, overflow="fold", no_wrap=whole or column == columns[0])
    for row in rows:
        grid.add_row(*(str(row[column]) for column in columns))
    # Wrapped for a reader's terminal only: what is piped has one line a row.
    console.print(grid, markup=False, highlight=False, width=None if console.is_terminal else 1000, crop=False)
