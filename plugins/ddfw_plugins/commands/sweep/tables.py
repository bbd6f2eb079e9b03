"""Tables of a sweep's results: in Markdown for documents, and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ddfw
from ddfw_plugins.commands.sweep.files import shown

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Largest number of unfinished trials whose reasons are given below the table; sweep.json has all of them.
_MOST_REASONS = 8
#: A column whose cells all have at most this many characters is never broken over two lines.
_SHORT_CELL = 12
_FIGURES = ("validation %", "test %", "step", "seconds")


def ranked(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Finished trials by falling validation accuracy, of equal ones the earlier first; then all others by number."""
    return sorted(
        rows, key=lambda row: (row["status"] != "finished", -(row["validation_accuracy"] or 0), row["number"])
    )


def _columns(paths: Iterable[str]) -> list[str]:
    return ["trial", *paths, *_FIGURES, "status"]


def _short(paths: Sequence[str]) -> Iterator[str]:
    """The shortest end of each path that no other path has: `rank` for `param.rank`."""
    for path in paths:
        keys = path.split(".")
        ends = (".".join(keys[start:]) for start in reversed(range(len(keys))))
        yield next(end for end in ends if end == path or sum(f".{p}".endswith(f".{end}") for p in paths) == 1)


def _lines(record: Mapping[str, Any]) -> Iterator[list[str]]:
    for row in ranked(record["trials"]):
        parameters = [shown(row["parameters"][path]) for path in record["paths"]]
        figures = ["–"] * 4
        if row["status"] == "finished":
            test = row["test"]
            figures = [
                ddfw.percent(row["validation_accuracy"]),
                f"{ddfw.percent(test['mean'])} ± {ddfw.percent(test['std'])}",
                str(row["selected_step"]),
                f"{row['seconds']:.1f}",
            ]
        yield [f"{row['number']:04d}", *parameters, *figures, row["status"]]


def _notes(record: Mapping[str, Any]) -> list[str]:
    notes = [f"ranked by the {record['objective']}; {record['note']} (mean ± std over networks)"]
    waiting = record["count"] - sum(row["status"] != "waiting" for row in record["trials"])
    if waiting:
        notes.append(f"{waiting} of {record['count']} trials are still to be run; the same command goes on")
    failed = [row for row in record["trials"] if row.get("reason")]
    notes += [f"trial {row['number']:04d} {row['status']}: {row['reason']}" for row in failed[:_MOST_REASONS]]
    if len(failed) > _MOST_REASONS:
        notes.append(f"… and {len(failed) - _MOST_REASONS} more; sweep.json has every reason")
    return notes


def markdown(record: Mapping[str, Any]) -> str:
    """The text of sweep.md, a table in Markdown, from the content of sweep.json."""
    columns = _columns(record["paths"])
    return ddfw.markdown_table(record["sweep"], record["summary"], columns, _lines(record), _notes(record))


def table(record: Mapping[str, Any]) -> RenderableType:
    """The results as a table for a terminal, from the content of sweep.json."""
    columns, lines = _columns(_short(record["paths"])), list(_lines(record))
    whole = [c for k, c in enumerate(columns) if all(len(line[k]) <= _SHORT_CELL for line in lines)]
    return ddfw.text_table(columns, lines, _notes(record), ("trial", "status"), whole)
