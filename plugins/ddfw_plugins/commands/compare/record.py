"""comparison.json: the finished runs and trials of a comparison, its table, and the answers to its questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import ddfw
from ddfw_plugins.commands.compare.files import Comparison
from ddfw_plugins.commands.compare.finished import FinishedRun, Trial, by_variant
from ddfw_plugins.commands.compare.measures import MEASURES, contrast_record, steps_to


def record_of(
    comparison: Comparison,
    schema: int,
    runs: Mapping[tuple[str, int], FinishedRun],
    trials: Mapping[tuple[str, int], Trial],
    chosen: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of comparison.json, without its seal.

    Args:
        comparison: the comparison with all of its variants.
        schema: of comparison.json.
        runs: finished runs, by the variant's name and the seed.
        trials: finished trials, by the variant's name and their number.
        chosen: the settings that trials chose, by the name of the variant.
    """
    settings, order = comparison.settings, [variant.name for variant in comparison.variants]
    found = by_variant(list(runs.values()), order)
    tuning = settings.tuning
    return {
        "schema": schema,
        "comparison": comparison.name,
        "summary": settings.summary,
        "source": settings.source,
        "image_gradients": settings.image_gradients,
        "selections": settings.selections,
        "equal_floats": settings.equal_floats,
        "tuning": None if tuning is None else {"trials": tuning.trials, "seed": tuning.seed},
        "chosen": {name: dict(values) for name, values in chosen.items()},
        "rows": [row for variant in comparison.variants for row in _rows(variant.name, variant.title, found)],
        "measures": [_measures(comparison, name, there) for name, there in found.items()],
        "contrasts": [
            {"name": name, **contrast_record(contrast, found, settings.reach)}
            for name, contrast in comparison.contrasts.items()
        ],
        "trials": [trials[key].to_json() for key in sorted(trials) if key[0] in order],
        "runs": [run.to_json() for there in found.values() for run in there],
    }


def _rows(name: str, title: str, found: Mapping[str, Sequence[FinishedRun]]) -> list[dict[str, Any]]:
    """The rows of a variant: its learned sets, and its baselines."""
    runs = found.get(name)
    if not runs:
        return []
    first, summaries = runs[0], [run.summary for run in runs]
    return [
        {
            "variant": name,
            "title": title,
            "space": first.space,
            **row,
            "seeds": [run.seed for run in runs],
            "networks": first.networks,
            **_cost(first, row["subject"]),
            "seconds": {k: fmean(s.seconds[k] for s in summaries) for k in first.summary.seconds},
        }
        for row in ddfw.over_seeds(summaries)
    ]


def _cost(run: FinishedRun, subject: str) -> dict[str, Any]:
    """Images and floats of a row's training set, and the outer steps and image gradients spent on it."""
    row = next(row for row in run.summary.rows if row.subject == subject)
    steps = run.summary.outer_steps if subject == "distilled" else 0
    return {
        "images": row.images,
        "floats": dict(row.floats),
        "notes": list(row.notes),
        "outer_steps": steps,
        "image_gradients": steps * run.step_gradients,
    }


def _measures(comparison: Comparison, name: str, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """How the runs of a variant went: each measure with its mean and standard deviation over seeds."""
    reach = comparison.settings.reach
    figures: dict[str, Any] = {}
    for key, measure in MEASURES.items():
        if key == "spread":
            continue
        each = [
            steps_to(run, reach * 100 * max(look.accuracy for look in run.curve)) if key == "steps" else measure.of(run)
            for run in runs
        ]
        spread = stdev(each) if len(each) > 1 else 0.0
        figures[key] = {"mean": _short(fmean(each)), "std": _short(spread), "each": [_short(value) for value in each]}
    stored = runs[0].summary.trajectories
    return {
        "variant": name,
        "title": comparison.variant(name).title,
        "seeds": [run.seed for run in runs],
        **figures,
        "bytes": stored.get("source_bytes"),
        "experts": stored.get("experts"),
    }


def _short(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
