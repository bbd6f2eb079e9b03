"""The files of a comparison beside its runs: comparison.json, comparison.md and its pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from attrs import evolve

import ddfw
from ddfw_plugins.commands.compare.files import ChartSettings
from ddfw_plugins.commands.compare.tables import markdown

#: The charts of a comparison whose file asks for none.
DEFAULT_CHARTS: Mapping[str, ChartSettings] = {
    "accuracy": ChartSettings(title="validation accuracy"),
    "loss": ChartSettings(title="matching loss", y="loss"),
    "step-size": ChartSettings(title="inner step size", y="step_size"),
}
_ACROSS = {
    "outer_steps": "outer steps",
    "image_gradients": "inner image-gradients",
    "floats": "stored floats, labels included",
    "bytes": "bytes of stored trajectories",
}
_UP = {
    "validation": "validation accuracy",
    "loss": "matching loss",
    "step_size": "inner step size",
    "accuracy": "test accuracy",
}

Runs = Sequence[Mapping[str, Any]]


def write_all(folder: Path, record: Mapping[str, Any], charts: Mapping[str, ChartSettings]) -> None:
    """Writes comparison.json, comparison.md and comparison.svg.

    Args:
        folder: the comparison's folder.
        record: the content of comparison.json, sealed.
        charts: what is drawn; none asks for the usual ones.
    """
    ddfw.write_json(folder / "comparison.json", record)
    ddfw.write_text(folder / "comparison.md", markdown(record))
    ddfw.write_text(folder / "comparison.svg", picture(record, charts))


def picture(record: Mapping[str, Any], charts: Mapping[str, ChartSettings]) -> str:
    """The picture of a comparison as SVG.

    Args:
        record: the content of comparison.json.
        charts: what is drawn; none asks for the usual ones.
    """
    seeds = sorted({run["seed"] for run in record["runs"]})
    note = f"mean over {len(seeds)} run seeds; bands and bars: ± one standard deviation"
    drawn = [_chart(record, chart) for chart in (charts or DEFAULT_CHARTS).values()]
    return ddfw.svg_of(record["summary"] or record["comparison"], drawn, columns=min(2, len(drawn)), note=note)


def _chart(record: Mapping[str, Any], chart: ChartSettings) -> ddfw.Chart:
    made = _over_sizes(record, chart) if chart.y == "accuracy" else _over_steps(record, chart)
    return ddfw.Chart(
        title=chart.title,
        across=_ACROSS[chart.x],
        up=_UP[chart.y],
        series=made,
        log_across=chart.log,
        percent=chart.y in ("validation", "accuracy"),
    )


def _runs_of(record: Mapping[str, Any], name: str) -> Runs:
    return [run for run in record["runs"] if run["variant"] == name]


def _titles(record: Mapping[str, Any]) -> dict[str, str]:
    return {row["variant"]: row["title"] for row in record["measures"]}


def _over_steps(record: Mapping[str, Any], chart: ChartSettings) -> list[ddfw.Series]:
    """A line for each variant over its outer steps or image gradients, mean and band over run seeds."""
    column = "accuracy" if chart.y == "validation" else chart.y
    titles = _titles(record)
    found = []
    for name in chart.variants or tuple(titles):
        runs, points, band = _runs_of(record, name), list[tuple[float, float]](), list[tuple[float, float, float]]()
        if not runs:
            continue
        curves = [dict(zip(run["curve"]["step"], run["curve"][column], strict=True)) for run in runs]
        for step in sorted(set().union(*curves)):
            there = [curve.get(step) for curve in curves]
            values = [value for value in there if value is not None and math.isfinite(value)]
            if len(values) < len(runs):
                continue  # a mean over other seeds would make a step in the line
            x = float(step * (runs[0]["step_gradients"] if chart.x == "image_gradients" else 1))
            middle, width = fmean(values), stdev(values) if len(values) > 1 else 0.0
            points.append((x, middle))
            band.append((x, middle - width, middle + width))
        found.append(ddfw.Series(name=titles[name], points=points, band=band if len(runs) > 1 else ()))
    return found


def _over_sizes(record: Mapping[str, Any], chart: ChartSettings) -> list[ddfw.Series]:
    """A point for each variant over what it stores; a line of the file joins variants, and baselines have their own."""
    titles, rows = _titles(record), record["rows"]
    names = chart.variants or tuple(name for name in titles if not chart.lines)
    lines = {**{titles[name]: (name,) for name in names if name in titles}, **chart.lines}
    found = []
    for title, variants in lines.items():
        own = [row for row in rows if row["subject"] == "distilled" and row["variant"] in variants]
        found.append(_sized(record, title, own, chart))
    for subject in chart.baselines:
        own = [row for row in rows if row["subject"] == subject]
        unlike = {row["floats"]["strict"]: row for row in own}
        found.append(evolve(_sized(record, ddfw.subject_title(subject), list(unlike.values()), chart), dashed=True))
    return [series for series in found if series.points]


def _sized(record: Mapping[str, Any], title: str, rows: Runs, chart: ChartSettings) -> ddfw.Series:
    bytes_of = {row["variant"]: row["bytes"] for row in record["measures"]}
    points, band = list[tuple[float, float]](), list[tuple[float, float, float]]()
    for row in rows:
        x = {
            "floats": row["floats"]["strict"],
            "bytes": bytes_of[row["variant"]],
            "outer_steps": row["outer_steps"],
            "image_gradients": row["image_gradients"],
        }[chart.x]
        if x is None:
            continue
        points.append((float(x), row["mean"]))
        band.append((float(x), row["mean"] - row["std"], row["mean"] + row["std"]))
    return ddfw.Series(name=title, points=sorted(points), band=sorted(band), dots=True)
