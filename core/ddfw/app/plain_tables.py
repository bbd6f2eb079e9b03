"""Tables of text with notes below them: for documents, and for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def markdown(title: str, summary: str, columns: Sequence[str], lines: Iterable[Sequence[str]], notes: list[str]) -> str:
    """A page with a title, a line on what it is, a table, and a paragraph for each note."""
    text = [f"# {title}", "", summary, ""] if summary else [f"# {title}", ""]
    text += [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    text += [f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines]
    return "\n\n".join(["\n".join(text), *map(_escaped, notes)]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("*", "\\*")


def rendered(
    columns: Sequence[str],
    lines: Iterable[Sequence[str]],
    notes: list[str],
    left: Collection[str],
    whole: Collection[str] = (),
) -> RenderableType:
    """The same as rich renders it.

    Args:
        columns: the headings.
        lines: the cells.
        notes: a line each.
        left: columns that are aligned on their left.
        whole: columns whose cells are not broken where room is short.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(column, justify="left" if column in left else "right", overflow="fold", no_wrap=column in whole)
    for cells in lines:
        grid.add_row(*(Text(cell) for cell in cells))
    return Group(grid, Text(""), *(Text(note) for note in notes))
