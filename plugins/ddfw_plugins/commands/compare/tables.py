"""Tables of a comparison's results: in Markdown for documents, and for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ddfw
from ddfw_plugins.commands.compare.measures import MEASURES

if TYPE_CHECKING:
    from rich.console import RenderableType

#: What the word of a verdict means.
VERDICTS = {"holds": "holds", "reversed": "the other way round", "open": "not told apart", "": "too few seeds"}


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
_HOW = ("how it went", "steps to reach", "mean validation %", "neighbouring looks", "bytes of trajectories", "tuned")
_ASKED = ("claim", "measure", "difference", "95 % interval", "n", "verdict")


def markdown(record: Mapping[str, Any]) -> str:
    """The text of comparison.md from the content of comparison.json."""
    parts = [ddfw.markdown_table(record["comparison"], record["summary"], _COLUMNS, _lines(record), _footnotes(record))]
    if _has_curves(record):
        parts.append(_below(ddfw.markdown_table("", "", _HOW, _how_lines(record), _how_notes(record))))
    if _is_answered(record):
        parts.append(_below(ddfw.markdown_table("", "", _ASKED, _asked_lines(record), _asked_notes())))
    return "\n".join(parts)


def some(record: Mapping[str, Any], kind: str, names: Sequence[str]) -> str:
    """A part of one of the tables, in Markdown without footnotes, for a page that tells about a comparison.

    Args:
        record: the content of comparison.json.
        kind: `rows` (accuracies), `went` (how runs went) or `answers` (of contrasts).
        names: of the variants, or of the contrasts, in the order of the table; none takes all.
    """
    table, key, columns, lines = {
        "rows": ("rows", "variant", _COLUMNS, _lines),
        "went": ("measures", "variant", _HOW, _how_lines),
        "answers": ("contrasts", "name", _ASKED, _asked_lines),
    }[kind]
    chosen = record[table] if not names else [row for name in names for row in record[table] if row[key] == name]
    return _below(ddfw.markdown_table("", "", columns, lines({**record, table: chosen}), ())).rstrip()


def _below(text: str) -> str:
    """A table without the heading that a page has."""
    return text[text.index("|") :]


def table(record: Mapping[str, Any]) -> RenderableType:
    """The results as tables for a terminal, from the content of comparison.json."""
    from rich.console import Group
    from rich.text import Text

    parts = [ddfw.text_table(_COLUMNS, _lines(record), _footnotes(record), ("variant", "each seed"))]
    if _has_curves(record):
        parts += [Text(""), ddfw.text_table(_HOW, _how_lines(record), _how_notes(record), (_HOW[0], _HOW[-1]))]
    if _is_answered(record):
        parts += [Text(""), ddfw.text_table(_ASKED, _asked_lines(record), _asked_notes(), _ASKED[:2])]
    return Group(*parts)


def _has_curves(record: Mapping[str, Any]) -> bool:
    return any(len(run["curve"]["step"]) > 1 for run in record["runs"])


def _is_answered(record: Mapping[str, Any]) -> bool:
    return any(row["n"] for row in record["contrasts"])


def _how_lines(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in record["measures"]:
        chosen = record["chosen"].get(row["variant"], {})
        yield (
            row["title"],
            *(_spread(row[key], MEASURES[key].digits) for key in ("steps", "area", "jitter")),
            "–" if row["bytes"] is None else f"{row['bytes']:,}",
            ", ".join(f"{path} = {value}" for path, value in chosen.items()) or "–",
        )


def _spread(figure: Mapping[str, Any], digits: int) -> str:
    """Mean and standard deviation, or a dash."""
    if figure["mean"] is None:
        return "–"
    more = f" ± {figure['std']:.{digits}f}" if len(figure["each"]) > 1 and figure["std"] is not None else ""
    return f"{figure['mean']:.{digits}f}{more}"


def _how_notes(record: Mapping[str, Any]) -> list[str]:
    tuning = record["tuning"]
    notes = [
        "mean ± std over run seeds, on the validation split; steps to reach 95 % of a run's own best accuracy, linear "
        "between looks; neighbouring looks: mean difference in points, in the second half of the steps"
    ]
    if tuning is not None:
        words = f"settings chosen by validation accuracy in {tuning['trials']} trials each"
        notes.append(f"{words}, on run seed {tuning['seed']}")
    return notes


def _asked_lines(record: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for row in record["contrasts"]:
        measure = MEASURES[row["measure"]]
        figure = "–" if row["difference"] is None else f"{row['difference']:+.{measure.digits}f}"
        bounds = row["interval"]
        interval = "–" if bounds is None else " … ".join(f"{bound:+.{measure.digits}f}" for bound in bounds)
        yield (row["claim"], measure.title, figure, interval, str(row["n"]), VERDICTS[row["verdict"]])


def _asked_notes() -> list[str]:
    return ["differences seed by seed; intervals: bootstrap over run seeds (percentile)"]


def _footnotes(record: Mapping[str, Any]) -> list[str]:
    networks = "/".join(map(str, sorted({row["networks"] for row in record["rows"]})))
    spent = ", ".join(f"{g:,}" for g in sorted({row["image_gradients"] for row in record["rows"]} - {0}))
    if not record["rows"]:
        return ["no run is finished yet"]
    return [
        *(f"{mark} {note}" for note, mark in _marks(record).items()),
        f"mean ± std over run seeds, each the mean of {networks} networks on the test split; steps (and the baselines' "
        f"learning rates) were selected on the validation split; inner image-gradients of each outer loop: {spent}",
    ]
