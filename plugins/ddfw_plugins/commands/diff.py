"""`ddfw diff`: which settings of runs differ, and what that did."""

from __future__ import annotations

import csv
import io
import json
import math
import string
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import click

import ddfw

#: How many steps of a curve people are shown.
SHOWN_STEPS = 12
CSV_COLUMNS = ("run", "kind", "step", "name", "value", "std", "n")


@click.command("diff")
@click.argument(
    "paths",
    metavar="A B [C…]",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=ddfw.complete_runs,
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write every figure as a line of a CSV file; - prints it.")
def diff_command(paths: tuple[Path, ...], as_json: bool, csv_file: str | None) -> None:
    """Compare runs: which settings differ, then test accuracies, then curves at equal steps.

    Runs that are not finished are compared as far as they go. What makes a comparison unfair is said: other data,
    budget, evaluation or versions.

    \b
    ddfw diff runs/lss runs/pixel
    ddfw diff runs/a runs/b runs/c --csv figures.csv
    """
    if len(paths) < 2:
        raise click.UsageError(f"expected two or more runs, got {len(paths)}; `ddfw runs` lists them")
    if as_json and csv_file == "-":
        raise click.UsageError("--json and --csv - both print on standard output; give --csv a file")
    runs = [ddfw.read_run(path) for path in paths]
    if problem := next((run.problem for run in runs if run.problem), ""):
        raise ddfw.DataError(problem)
    record = compared(runs)
    if csv_file == "-":
        ddfw.say(*_csv(record).splitlines())
        return
    if csv_file is not None:
        ddfw.write_text(Path(csv_file), _csv(record))
    if as_json:
        ddfw.say_json(record)
        return
    _show(record)
    if csv_file is not None:
        ddfw.say(f"written: {csv_file}")


def compared(runs: Sequence[ddfw.RunRecord]) -> dict[str, Any]:
    """The comparison of several runs, JSON-able; lists named `values` have one entry a run.

    Raises:
        DataError: a file of a run is damaged.
    """
    return {
        "schema": 1,
        "runs": [_facts(run) for run in runs],
        "settings": _settings([run.tables for run in runs]),
        "notes": list(_notes(runs)),
        "rows": list(_rows(runs)),
        "curves": [_validation(runs), *(_steps(runs, name) for name in ("loss", "step_size"))],
    }


def _facts(run: ddfw.RunRecord) -> dict[str, Any]:
    summary = run.summary
    return {
        "path": str(run.path),
        "title": run.title,
        "seed": run.setting("run", "seed"),
        "state": run.state,
        "steps": {"done": run.steps_done, "of": run.setting("outer", "steps")},
        "selected_step": None if summary is None else summary.selected_step,
    }


def _settings(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that are not the same in all runs; null stands for one that a run does not have."""
    flat = [{d.path: d.right for d in ddfw.differing({}, table)} for table in tables]
    paths = dict.fromkeys(path for values in flat for path in values)
    differ = {d.path for one, other in combinations(tables, 2) for d in ddfw.differing(one, other)}
    found = []
    for path in (path for path in paths if path in differ):
        values = [values.get(path, ddfw.MISSING) for values in flat]
        if any(value not in ({}, ddfw.MISSING) for value in values):  # an empty table is no setting
            found.append({"path": path, "values": [None if v is ddfw.MISSING else _plain(v) for v in values]})
    return {"equal": len(paths.keys() - differ), "differing": found}


def _plain(value: Any) -> Any:
    """A value of TOML as JSON has it."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _rows(runs: Sequence[ddfw.RunRecord]) -> Iterator[dict[str, Any]]:
    """Test accuracies, a row for each training set and network."""
    found = [
        {(row.net, row.subject): row for row in (*run.summary.rows, *run.summary.cross)} if run.summary else {}
        for run in runs
    ]
    for net, subject in sorted(dict.fromkeys(key for rows in found for key in rows), key=lambda key: key[0]):
        rows = [rows.get((net, subject)) for rows in found]
        values = [None if row is None else {"mean": row.mean, "std": row.std, "n": row.n} for row in rows]
        record: dict[str, Any] = {
            "subject": subject,
            "title": ddfw.subject_title(subject),
            "net": net,
            "values": values,
        }
        if len(runs) == 2:
            one, other = values
            shared = one == other and any(row is not None and row.source for row in rows)
            record["difference"] = None if one is None or other is None else _difference(one, other, shared)
        yield record


def _difference(one: Mapping[str, Any], other: Mapping[str, Any], shared: bool) -> dict[str, Any]:
    """Second minus first; its standard error is unknown for single networks, and for figures of the same networks."""
    error = None
    if one["n"] > 1 and other["n"] > 1 and not shared:
        error = math.sqrt(one["std"] ** 2 / one["n"] + other["std"] ** 2 / other["n"])
    return {"value": other["mean"] - one["mean"], "standard_error": error, "same_networks": shared}


def _validation(runs: Sequence[ddfw.RunRecord]) -> dict[str, Any]:
    curves = [{p.step: {"mean": p.mean, "std": p.std, "n": p.n} for p in run.curves.validation} for run in runs]
    return {"name": "validation", "points": _common(curves)}


def _steps(runs: Sequence[ddfw.RunRecord], name: str) -> dict[str, Any]:
    curves: list[Mapping[int, float]] = [getattr(run.curves, name) for run in runs]
    finite = [{step: value if math.isfinite(value) else None for step, value in curve.items()} for curve in curves]
    return {"name": name, "points": _common(finite)}


def _common(curves: Sequence[Mapping[int, Any]]) -> list[dict[str, Any]]:
    """The points at the steps that all curves have."""
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    return [{"step": step, "values": [curve[step] for curve in curves]} for step in steps]


def _notes(runs: Sequence[ddfw.RunRecord]) -> Iterator[str]:
    """What a reader has to know before the figures are compared."""
    if len({json.dumps(run.tables.get("loss"), sort_keys=True) for run in runs}) > 1:
        yield "the runs have different matching losses, whose values cannot be compared"
    yield from _unfair(runs)


def _unfair(runs: Sequence[ddfw.RunRecord]) -> Iterator[str]:
    """Where runs are unfinished, or had other data, budgets, evaluations or versions."""
    for letter, run in zip(_letters(runs), runs, strict=True):
        if run.state != "finished":
            reason = f" ({run.reason})" if run.reason else ""
            done, steps = run.steps_done, run.setting("outer", "steps")
            yield f"{letter} is {run.state}{reason}: compared as far as it goes, {done} of {steps} outer steps"
    for key, words in (("data_sha256", "the training data differ"), ("test_sha256", "the test images differ")):
        if len(_known(run.manifest.get(key) for run in runs)) > 1:
            yield f"not fair: {words}"
    budgets = [run.summary.budget for run in runs if run.summary is not None]
    if len(shown := _known(f"{b.floats:,} floats ({b.accounting})" for b in budgets)) > 1:
        yield f"not fair: the budgets differ: {', '.join(shown)}"
    if len({bool(run.setting("run", "quick")) for run in runs}) > 1:
        yield "not fair: some are quick runs, scaled down by --quick, and some are not"
    differing = _settings([{"eval": run.tables.get("eval", {})} for run in runs])["differing"]
    if differing:
        yield f"not fair: evaluated in other ways: {', '.join(d['path'] for d in differing)}"
    sources = [found if isinstance(found := run.manifest.get("sources"), Mapping) else {} for run in runs]
    for kind in dict.fromkeys(kind for some in sources for kind in some):
        names = {run.setting(kind, "name") for run in runs}
        if len(names) == 1 and len(_known(some.get(kind) for some in sources)) > 1:
            yield f"made with other code of {kind} {names.pop()}"
    versions = [found if isinstance(found := run.manifest.get("versions"), Mapping) else {} for run in runs]
    for package in ("ddfw", "torch"):
        if len(shown := _known(v.get(package) for v in versions)) > 1:
            yield f"made with other versions of {package}: {', '.join(shown)}"


def _known(values: Iterator[Any]) -> list[str]:
    """The different values, without those that nobody knows."""
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _letters(runs: Sequence[object]) -> list[str]:
    """A letter for each run, the heading of its column."""
    return [string.ascii_uppercase[i] if i < 26 else f"#{i + 1}" for i in range(len(runs))]


def _show(record: Mapping[str, Any]) -> None:
    """Tables for people."""
    letters = _letters(record["runs"])
    lines = [
        (
            letter,
            run["path"],
            run["title"],
            str(run["seed"]),
            run["state"],
            "–" if run["selected_step"] is None else str(run["selected_step"]),
        )
        for letter, run in zip(letters, record["runs"], strict=True)
    ]
    columns = ("", "run", "what", "seed", "state", "selected step")
    ddfw.show_table(ddfw.text_table(columns, lines, record["notes"], left=columns[:3], whole=("", "seed", "state")))
    settings = record["settings"]
    equal = [f"{settings['equal']} other settings are the same"]
    lines_of_settings = [
        (d["path"], *("–" if v is None else _word(v) for v in d["values"])) for d in settings["differing"]
    ]
    heads = ("setting", *letters)
    if lines_of_settings:
        ddfw.show_table(ddfw.text_table(heads, lines_of_settings, equal, left=heads))
    else:
        ddfw.show_table("all settings are the same")
    if record["rows"]:
        _show_rows(record, letters)
    for curve, title in zip(record["curves"], ("validation accuracy", "matching loss"), strict=False):
        points = _thinned(curve["points"])
        if points:
            steps = [(str(p["step"]), *map(_figure, p["values"])) for p in points]
            shown = f"{len(points)} of {len(curve['points'])} steps are shown; --json and --csv have all"
            note = [shown] if len(points) < len(curve["points"]) else []
            ddfw.show_table(ddfw.text_table((f"{title} after step", *letters), steps, note))


def _show_rows(record: Mapping[str, Any], letters: Sequence[str]) -> None:
    pair, lines = len(letters) == 2, []
    for row in record["rows"]:
        title = f"{row['title']} ({row['net']})" if row["net"] else row["title"]
        cells = [title, *("–" if v is None else f"{_figure(v)} (n = {v['n']})" for v in row["values"])]
        if pair:
            cells.append(_difference_text(row["difference"]))
        lines.append(tuple(cells))
    columns = ("test accuracy", *letters, *(("B − A",) if pair else ()))
    notes = ["± of a run: standard deviation over its n networks"]
    if pair:
        notes = [f"{notes[0]}; ± of B − A: its standard error; runs with other seeds spread more"]
    ddfw.show_table(ddfw.text_table(columns, lines, notes, left=columns[:1], whole=columns[1:], bold=("distilled",)))


def _difference_text(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "–"
    if difference["same_networks"]:
        return "same networks"
    error = difference["standard_error"]
    return f"{100 * difference['value']:+.1f}" + (f" ± {ddfw.percent(error)}" if error is not None else "")


def _figure(value: Any) -> str:
    """An accuracy in percent, or a number."""
    if isinstance(value, Mapping):
        spread = f" ± {ddfw.percent(value['std'])}" if value["n"] > 1 else ""
        return f"{ddfw.percent(value['mean'])}{spread} %"
    return "–" if value is None else f"{value:.4g}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _thinned(points: Sequence[Any]) -> Sequence[Any]:
    """At most `SHOWN_STEPS` points, the first and the last among them, the others at equal distances."""
    if len(points) <= SHOWN_STEPS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (SHOWN_STEPS - 1))] for i in range(SHOWN_STEPS)]


def _csv(record: Mapping[str, Any]) -> str:
    """Every figure as a line: the run, what it is, the outer step, its name, its value, std and n."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(CSV_COLUMNS)
    for number, run in enumerate(record["runs"]):
        for setting in record["settings"]["differing"]:
            value = setting["values"][number]
            lines.writerow((run["path"], "setting", "", setting["path"], "" if value is None else _word(value), "", ""))
        for row in record["rows"]:
            if (figure := row["values"][number]) is not None:
                name = f"{row['subject']}@{row['net']}" if row["net"] else row["subject"]
                lines.writerow((run["path"], "test", run["selected_step"], name, *figure.values()))
        for curve in record["curves"]:
            for point in curve["points"]:
                figure = point["values"][number]
                cells = tuple(figure.values()) if isinstance(figure, Mapping) else (figure, "", "")
                kind = "validation" if isinstance(figure, Mapping) else "step"
                name = "distilled" if isinstance(figure, Mapping) else curve["name"]
                lines.writerow((run["path"], kind, point["step"], name, *cells))
    return text.getvalue()
