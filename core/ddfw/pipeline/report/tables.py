"""What a run says in the end: rows, the card, the manifest, tables for people.

Accuracies are fractions in files and percent on the screen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from ddfw.pipeline.report.summary import QUICK_NOTE, SUBJECTS, over_seeds

if TYPE_CHECKING:
    from rich.console import RenderableType

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


def table(summary: Mapping[str, Any]) -> RenderableType:
    """The summary as rich renders it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("trained on", no_wrap=True)
    for column in ("test accuracy", "n", "images", "floats", "with labels"):
        grid.add_column(column, justify="right", no_wrap=True)
    marks: dict[str, str] = {}
    for row in summary["rows"]:
        notes = [note for note in row["notes"] if note != QUICK_NOTE]  # a line of its own says that
        mark = "".join(marks.setdefault(note, "*" * (len(marks) + 1)) for note in notes)
        grid.add_row(
            SUBJECTS.get(row["subject"], row["subject"]),
            f"{percent(row['mean'])} ± {percent(row['std'])} %",
            str(row["n"]),
            f"{row['images']:,}",
            f"{row['floats']['pixels']:,}",
            f"{row['floats']['strict']:,}{mark}",
            style="bold" if row["subject"] == "distilled" else "",
        )
    budget = summary["budget"]
    seconds = summary["seconds"]
    facts = [
        *(f"{mark} {note}" for note, mark in marks.items()),
        f"budget {budget['floats']:,} floats ({budget['accounting']}); distilled stores {budget['strict']:,} strict, "
        f"{budget['pixels']:,} pixels",
        f"step {summary['selected_step']} was selected on the validation split; the test split was read once",
        *(
            ["no outer step did better on the validation split than the initial set, which is what was kept"]
            if summary["selected_step"] == 0 and summary.get("outer_steps", 0)
            else []
        ),
        "seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()),
    ]
    facts += [
        f"{d['net']} could not be trained on {SUBJECTS.get(d['subject'], d['subject'])}: {d['reason']}"
        for d in summary.get("cross_diverged", [])
    ]
    if summary.get("quick"):
        facts.append("a quick run: scaled down by --quick, its figures are not those of its recipe")
    across = [cross_table(summary["cross"]), Text("")] if summary.get("cross") else []
    return Group(grid, Text(""), *across, *(Text(f) for f in facts))


def cross_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Test accuracy of other architectures, a column each."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("other networks", no_wrap=True)
    nets = list(dict.fromkeys(row["net"] for row in rows))
    for net in nets:
        grid.add_column(net, justify="right", no_wrap=True)
    for subject in dict.fromkeys(row["subject"] for row in rows):
        cells = {
            row["net"]: f"{percent(row['mean'])} ± {percent(row['std'])} %" for row in rows if row["subject"] == subject
        }
        style = "bold" if subject == "distilled" else ""
        grid.add_row(SUBJECTS.get(subject, subject), *(cells.get(net, "–") for net in nets), style=style)
    return grid


def seeds_table(summaries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Mean and standard deviation over run seeds, of each subject's mean."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("over run seeds", no_wrap=True)
    grid.add_column("mean ± std", justify="right", no_wrap=True)
    grid.add_column("n", justify="right")
    grid.add_column("each")
    for row in over_seeds(summaries):
        grid.add_row(
            SUBJECTS.get(row["subject"], row["subject"]),
            f"{percent(row['mean'])} ± {percent(row['std'])} %",
            str(row["n"]),
            ", ".join(percent(m) for m in row["means"]),
        )
    return grid


def percent(fraction: float) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * fraction:.1f}"


def markdown_table(
    title: str, summary: str, columns: Sequence[str], lines: Iterable[Sequence[str]], notes: list[str]
) -> str:
    """A page with a title, a line on what it is, a table, and a paragraph for each note."""
    text = [f"# {title}", "", summary, ""] if summary else [f"# {title}", ""]
    text += [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    text += [f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines]
    return "\n\n".join(["\n".join(text), *map(_escaped, notes)]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("*", "\\*")


def text_table(
    columns: Sequence[str],
    lines: Iterable[Sequence[RenderableType]],
    notes: list[str],
    left: Collection[str],
    whole: Collection[str] = (),
) -> RenderableType:
    """The same as rich renders it.

    Args:
        columns: the headings.
        lines: the cells; a `rich.text.Text` keeps its style.
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
        grid.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return Group(grid, Text(""), *(Text(note) for note in notes))
