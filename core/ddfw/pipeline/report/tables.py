"""Tables for people: of a run, of several seeds, and of whatever else has rows. Accuracies are shown in percent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from ddfw.contracts.records import QUICK_NOTE, Summary, SummaryRow
from ddfw.pipeline.report.summary import over_seeds, subject_title
from ddfw.plain import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from ddfw.contracts.observer import EvaluationReport


def percent(fraction: float) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * fraction:.1f}"


def _accuracy(row: SummaryRow | EvaluationReport) -> str:
    return f"{percent(row.mean)} ± {percent(row.std)} %"


def markdown_table(
    title: str, summary: str, columns: Sequence[str], lines: Iterable[Sequence[str]], notes: Sequence[str]
) -> str:
    """A page of Markdown with a title, a line on what it is, a table, and a paragraph for each note."""
    text = [f"# {title}", "", summary, ""] if summary else [f"# {title}", ""]
    text += [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    text += [f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines]
    return "\n\n".join(["\n".join(text), *map(_escaped, notes)]) + "\n"


def _escaped(text: str) -> str:
    return printable(text, 3000).replace("*", "\\*")


def text_table(
    columns: Sequence[str],
    lines: Iterable[Sequence[str | Text]],
    notes: Sequence[str] = (),
    left: Collection[str] = (),
    whole: Collection[str] = (),
    bold: Collection[str] = (),
) -> RenderableType:
    """A table for a terminal, as rich renders it.

    Args:
        columns: the headings.
        lines: the cells; a `rich.text.Text` keeps its style.
        notes: lines below the table.
        left: columns that are aligned on their left.
        whole: columns whose cells are not broken where room is short.
        bold: lines whose first cell is one of these stand out.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(column, justify="left" if column in left else "right", overflow="fold", no_wrap=column in whole)
    for cells in lines:
        grid.add_row(
            *(Text(printable(c, 1000)) if isinstance(c, str) else c for c in cells),
            style="bold" if cells[0] in bold else "",
        )
    return Group(grid, Text(""), *(Text(note) for note in notes)) if notes else grid


def table(summary: Summary) -> RenderableType:
    """The table of a finished run, with what has to be known to read it."""
    from rich.console import Group
    from rich.text import Text

    marks: dict[str, str] = {}
    lines = []
    for row in summary.rows:
        notes = [note for note in row.notes if note != QUICK_NOTE]  # a line of its own says that
        mark = "".join(marks.setdefault(note, "*" * (len(marks) + 1)) for note in notes)
        figures = (f"{row.images:,}", f"{row.floats['pixels']:,}", f"{row.floats['strict']:,}{mark}")
        lines.append((subject_title(row.subject), _accuracy(row), str(row.n), *figures))
    columns = ("trained on", "test accuracy", "n", "images", "floats", "with labels")
    grid = text_table(columns, lines, left=columns[:1], whole=columns, bold=("distilled",))
    across = [cross_table(summary.cross), Text("")] if summary.cross else []
    facts = [*(f"{mark} {note}" for note, mark in marks.items()), *_facts(summary)]
    return Group(grid, Text(""), *across, *(Text(fact) for fact in facts))


#: What may help where the initial set was kept.
_NOTHING_LEARNED = (
    "no outer step did better on the validation split than the initial set, which is what was kept. Worth a try:",
    "  another rate: --set param.lr=… three times smaller if the loss rises or jumps, larger if it barely falls",
    "  more to follow: larger experts.count, experts.epochs and window.max_start, or more outer.steps",
    "  a surer choice: larger eval.select_networks, and a larger data.validation",
)


def _facts(summary: Summary) -> list[str]:
    """The lines below a run's table."""
    stored = summary.budget
    facts = [
        f"budget {stored.floats:,} floats ({stored.accounting}); distilled stores {stored.strict:,} strict, "
        f"{stored.pixels:,} pixels",
        f"step {summary.selected_step} was selected on the validation split; the test split was read {_times(summary)}",
    ]
    if summary.selected_step == 0 and summary.outer_steps:
        facts += _NOTHING_LEARNED
    facts.append("seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in summary.seconds.items()))
    facts += [
        f"{d['net']} could not be trained on {subject_title(d['subject'])}: {d['reason']}"
        for d in summary.cross_diverged
    ]
    runs = dict.fromkeys(row.source for row in (*summary.rows, *summary.cross) if row.source)
    for run in runs:
        taken = [subject_title(row.subject) for row in (*summary.rows, *summary.cross) if row.source == run]
        facts.append(f"measured before, by {run}: {', '.join(dict.fromkeys(taken))}")
    if summary.quick:
        facts.append("a quick run: scaled down by --quick, its figures are not those of its recipe")
    return facts


def _times(summary: Summary) -> str:
    reads = summary.test_reads
    steps = ", ".join(map(str, summary.extended_from))
    before = f", also before the run was extended from step {steps}" if steps else ""
    return ("once" if reads == 1 else f"{reads} times") + before


def cross_table(rows: Sequence[SummaryRow | EvaluationReport]) -> RenderableType:
    """Test accuracy of other architectures, a column each."""
    nets = list(dict.fromkeys(row.net for row in rows))
    lines = []
    for subject in dict.fromkeys(row.subject for row in rows):
        cells = {row.net: _accuracy(row) for row in rows if row.subject == subject}
        lines.append((subject_title(subject), *(cells.get(net, "–") for net in nets)))
    columns = ("other networks", *nets)
    return text_table(columns, lines, left=columns[:1], whole=columns, bold=("distilled",))


def seeds_table(summaries: Sequence[Summary]) -> RenderableType:
    """Mean and standard deviation over run seeds, of each subject's mean."""
    columns = ("over run seeds", "mean ± std", "n", "each")
    lines = [
        (
            subject_title(row["subject"]),
            f"{percent(row['mean'])} ± {percent(row['std'])} %",
            str(row["n"]),
            ", ".join(percent(mean) for mean in row["means"]),
        )
        for row in over_seeds(summaries)
    ]
    return text_table(columns, lines, left=(columns[0], columns[3]), whole=columns[:2])
