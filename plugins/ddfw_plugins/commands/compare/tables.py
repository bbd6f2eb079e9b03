"""Tables of a comparison's results: in Markdown for documents, and for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import ddfw

if TYPE_CHECKING:
    from rich.console import RenderableType


def _marks(record: Mapping[str, Any]) -> dict[str, str]:
    """A footnote mark (asterisks) for each note of any row, by the note."""
    notes = dict.fromkeys(note for row in record["rows"] for note in row["notes"])
    return {note: "*" * number for number, note in enumerate(notes, start=1)}


def _lines(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table's rows as text, in the order of the columns."""
    marks, shown = _marks(record), set[tuple[object, ...]]()
    for row in record["rows"]:
        title = row["title"]
        baseline = (row["subject"], row["space"], tuple(row["means"]))
        if row["subject"] != "distilled" and baseline in shown:
            continue  # variants that share experts and seeds share their baselines, too
        shown.add(baseline)
        if row["subject"] != "distilled":
            title = f"{ddfw.subject_title(row['subject'])} ({row['space']})"
        spread = f" ± {ddfw.percent(row['std'])}" if row["n"] > 1 else ""
        yield (
            title,
            f"{ddfw.percent(row['mean'])}{spread}",
            ", ".join(ddfw.percent(m) for m in row["means"]),
            f"{row['images']:,}",
            f"{row['floats']['strict']:,}{''.join(marks[note] for note in row['notes'])}",
            f"{row['outer_steps']:,}",
        )


_COLUMNS = ("variant", "test accuracy %", "each seed", "images", "floats with labels", "outer steps")


def markdown(record: Mapping[str, Any]) -> str:
    """The text of comparison.md, a table in Markdown, from the content of comparison.json."""
    return ddfw.markdown_table(record["comparison"], record["summary"], _COLUMNS, _lines(record), _footnotes(record))


def table(record: Mapping[str, Any]) -> RenderableType:
    """The results as a table for a terminal, from the content of comparison.json."""
    return ddfw.text_table(_COLUMNS, _lines(record), _footnotes(record), ("variant", "each seed"))


def _footnotes(record: Mapping[str, Any]) -> list[str]:
    networks = "/".join(map(str, sorted({row["networks"] for row in record["rows"]})))
    spent = ", ".join(f"{g:,}" for g in sorted({row["image_gradients"] for row in record["rows"]} - {0}))
    return [
        *(f"{mark} {note}" for note, mark in _marks(record).items()),
        f"mean ± std over run seeds, each the mean of {networks} networks on the test split; steps (and the baselines' "
        f"learning rates) were selected on the validation split; inner image-gradients of each outer loop: {spent}",
    ]
