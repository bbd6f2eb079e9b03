"""`ddfw runs`."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

import ddfw

#: The columns, and those that narrower terminals than `ROOM` columns show.
WIDE = ("run", "what", "state", "accuracy", "n", "seed", "steps", "age", "size")
NARROW, ROOM = ("run", "what", "state", "accuracy", "age"), 110


@click.command("runs")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="A JSON array on standard output.")
def runs_command(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER and its folders, the newest first; the default is ./runs.

    A finished run shows the test accuracy of networks trained on its learned set, ± over n networks; another one the
    best validation accuracy so far.

    \b
    ddfw runs
    ddfw runs runs/my-sweep --json
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is missing"
        raise ddfw.DataError(f"{folder} {what}; expected a folder with runs, which `ddfw run` writes into ./runs")
    rows = sorted((_facts(run) for run in ddfw.runs_below(folder)), key=lambda row: (-row["modified"], row["path"]))
    now = time.time()
    if as_json or not rows:
        ddfw.show_rows(rows, (), as_json, f"no runs in {folder}; `ddfw run` makes one")
    else:
        words = [{**row, **_words(row, now)} for row in rows]
        columns = WIDE if not sys.stdout.isatty() or shutil.get_terminal_size().columns >= ROOM else NARROW
        lines = [tuple(row[column] for column in columns) for row in words]
        ddfw.show_table(ddfw.text_table(columns, lines, left=("run", "what", "state"), whole=columns[2:]))
    for row in rows:
        if row["problem"]:
            ddfw.say(f"warning: {row['problem']}", err=True)


def _facts(run: ddfw.RunRecord) -> dict[str, Any]:
    """What a program wants to know of a run; of a damaged one, as much as can be read."""
    facts: dict[str, Any] = {
        "path": str(run.path),
        "what": None,
        "seed": None,
        "quick": False,
        "state": run.state,
        "reason": "",
        "accuracy": None,
        "validation": None,
        "steps": {"done": 0, "of": None},
        "modified": run.modified,
        "bytes": run.bytes,
        "problem": run.problem,
    }
    try:
        steps = run.setting("outer", "steps")
        facts |= {"what": run.title, "seed": run.setting("run", "seed"), "quick": bool(run.setting("run", "quick"))}
        facts["steps"] = {"done": run.steps_done, "of": steps}
        facts["reason"] = run.reason
        if run.problem:
            return facts
        row = next((row for row in run.summary.rows if row.subject == "distilled"), None) if run.summary else None
        if row is not None:
            facts["accuracy"] = {"mean": row.mean, "std": row.std, "n": row.n}
        elif points := run.curves.validation:
            facts["validation"] = max(point.mean for point in points)
    except ddfw.DataError as error:
        facts["problem"] = facts["problem"] or str(error)
    return facts


def _words(row: dict[str, Any], now: float) -> dict[str, str]:
    """The same for people."""
    accuracy, validation, steps = row["accuracy"], row["validation"], row["steps"]
    if accuracy is not None:
        shown = f"{ddfw.percent(accuracy['mean'])} ± {ddfw.percent(accuracy['std'])} %"
    else:
        shown = "–" if validation is None else f"val. {ddfw.percent(validation)} %"
    return {
        "run": row["path"],
        "what": f"{row['what'] or '?'}{' · quick' if row['quick'] else ''}",
        "seed": "?" if row["seed"] is None else str(row["seed"]),
        "accuracy": shown,
        "n": "–" if accuracy is None else str(accuracy["n"]),
        "steps": str(steps["done"]) if steps["of"] in (None, steps["done"]) else f"{steps['done']}/{steps['of']}",
        "age": ddfw.age_text(now - row["modified"]),
        "size": f"{row['bytes'] / 1e6:.1f} MB",
    }
