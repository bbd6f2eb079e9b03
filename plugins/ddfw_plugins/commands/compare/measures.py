"""What is measured of runs, and how sure a difference between variants is."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import frozen

from ddfw_plugins.commands.compare.files import ComparisonSettings, Contrast
from ddfw_plugins.commands.compare.finished import FinishedRun

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    #: Places of seeds, and a figure for each row of them.
    Rows: TypeAlias = npt.NDArray[np.int64]
    Figures: TypeAlias = npt.NDArray[np.float64]

#: Share of the bootstrap's differences that an interval holds.
CONFIDENCE = 0.95
#: With so many resamples or fewer all are taken, else this many at random.
RESAMPLES = 10_000


@frozen(kw_only=True)
class Measure:
    """One figure of each run.

    Args:
        title: its name and unit in tables.
        of: the figure of a run, accuracies in percent; of `steps` those until its best look.
        good: which direction is better.
        digits: decimals in tables.
    """

    title: str
    of: Callable[[FinishedRun], float]
    good: str
    digits: int = 1


def best(run: FinishedRun) -> float:
    """The best accuracy of a run's looks on the validation split, in percent."""
    return 100 * max(look.accuracy for look in run.curve)


def steps_to(run: FinishedRun, accuracy: float) -> float:
    """The outer step at which a run's validation accuracy first reaches a value, linear between its looks.

    Args:
        run: the run.
        accuracy: the value in percent.

    Returns:
        The step; 0 if the start has reached it; the number of all outer steps plus one if no look does.
    """
    before: tuple[float, float] | None = None
    for look in run.curve:
        there = 100 * look.accuracy
        if there >= accuracy:
            if before is None or there == before[1]:
                return float(look.step)
            share = (accuracy - before[1]) / (there - before[1])
            return before[0] + share * (look.step - before[0])
        before = (float(look.step), there)
    return run.summary.outer_steps + 1.0


def area(run: FinishedRun) -> float:
    """The mean of a run's validation accuracy over its outer steps, in percent: the area under its curve."""
    if len(run.curve) == 1 or run.curve[-1].step == run.curve[0].step:
        return 100 * run.curve[-1].accuracy
    pairs = itertools.pairwise(run.curve)
    total = sum((b.step - a.step) * (a.accuracy + b.accuracy) / 2 for a, b in pairs)
    return 100 * total / (run.curve[-1].step - run.curve[0].step)


def jitter(run: FinishedRun) -> float:
    """The mean difference between neighbouring looks in the second half of a run, in percentage points."""
    half = run.curve[-1].step / 2
    late = [look for look in run.curve if look.step >= half]
    changes = [abs(b.accuracy - a.accuracy) for a, b in itertools.pairwise(late)]
    return 100 * fmean(changes) if changes else math.nan


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure(title="test accuracy %", of=lambda run: 100 * run.accuracy, good="more"),
    "validation": Measure(title="best validation accuracy %", of=best, good="more"),
    "steps": Measure(title="outer steps to reach it", of=lambda run: steps_to(run, best(run)), good="less"),
    "area": Measure(title="mean validation accuracy over all steps %", of=area, good="more"),
    "jitter": Measure(title="difference of neighbouring looks, points", of=jitter, good="less", digits=2),
    "spread": Measure(title="std over seeds, points", of=lambda run: 100 * run.accuracy, good="less", digits=2),
}


def contrast_record(
    contrast: Contrast, runs: Mapping[str, Sequence[FinishedRun]], settings: ComparisonSettings
) -> dict[str, Any]:
    """What the finished runs say to a question; JSON-able.

    Differences are taken seed by seed, over the seeds that all variants of the question have. The interval is the
    bootstrap's over seeds: seeds are drawn with replacement, all ways of doing so where there are few.

    Args:
        contrast: the question.
        runs: finished runs by variant.
        settings: say which accuracy `steps` waits for.

    Returns:
        `n`, `seeds`, `difference` (of the means, or of the standard deviations for `spread`), `each` (seed by seed;
        none for `spread`), `interval` and `verdict`: `holds` where the interval lies on the good side of 0, `reversed`
        on the other side, `open` where it holds 0, and "" with fewer than two seeds.
    """
    names = (*contrast.plus, *contrast.minus)
    asked = {*names, *filter(None, [contrast.target])}
    tables = {name: {run.seed: run for run in runs.get(name, ())} for name in asked}
    seeds = sorted(set.intersection(*(set(table) for table in tables.values())))
    good = contrast.good or MEASURES[contrast.measure].good
    facts: dict[str, Any] = {
        "claim": contrast.claim,
        "measure": contrast.measure,
        "plus": list(contrast.plus),
        "minus": list(contrast.minus),
        **({"target": contrast.target} if contrast.measure == "steps" else {}),
        "good": good,
        "n": len(seeds),
        "seeds": seeds,
    }
    if not seeds:
        return {**facts, "values": {}, "difference": None, "each": [], "interval": None, "verdict": ""}
    values = {name: [_value(contrast, tables, name, seed, settings) for seed in seeds] for name in names}
    difference, interval = _difference(contrast, values)
    each = [_sum(contrast, {name: there[i] for name, there in values.items()}) for i in range(len(seeds))]
    return {
        **facts,
        "values": {name: [_rounded(v) for v in there] for name, there in values.items()},
        "difference": _rounded(difference),
        "each": [] if contrast.measure == "spread" else [_rounded(v) for v in each],
        "interval": None if interval is None else [_rounded(v) for v in interval],
        "verdict": "" if interval is None else _verdict(interval, good),
    }


def _sum(contrast: Contrast, figures: Mapping[str, Any]) -> Any:
    """The figures of the variants to add minus those of the variants to subtract."""
    return sum(figures[name] for name in contrast.plus) - sum(figures[name] for name in contrast.minus)


def _value(
    contrast: Contrast,
    tables: Mapping[str, Mapping[int, FinishedRun]],
    name: str,
    seed: int,
    settings: ComparisonSettings,
) -> float:
    run = tables[name][seed]
    if contrast.measure != "steps":
        return MEASURES[contrast.measure].of(run)
    return steps_to(run, settings.goal(best(tables[contrast.target or name][seed])))


def _difference(contrast: Contrast, values: Mapping[str, Sequence[float]]) -> tuple[float, tuple[float, float] | None]:
    """The difference over all seeds, and its bootstrap interval; None where there are too few seeds."""
    import numpy as np

    there = {name: np.array(each) for name, each in values.items()}
    n = len(next(iter(there.values())))

    def over(rows: Rows) -> Figures:
        drawn = {name: each[rows] for name, each in there.items()}
        if contrast.measure == "spread":
            figures = {name: each.std(axis=1, ddof=1) for name, each in drawn.items()}
        else:
            figures = {name: each.mean(axis=1) for name, each in drawn.items()}
        return np.asarray(_sum(contrast, figures))

    if n < (2 if contrast.measure != "spread" else 3):
        whole = _sum(contrast, {name: each[0] for name, each in values.items()})
        return math.nan if contrast.measure == "spread" else whole, None
    return float(over(np.arange(n)[None])[0]), interval_of(over, n)


def interval_of(statistic: Callable[[Rows], Figures], n: int) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of n seeds.

    Args:
        statistic: gives the figure [R] of each row of [R, n] places 0 … n − 1, which may come several times in a row.
        n: how many seeds.

    Returns:
        The bounds that `CONFIDENCE` of the resampled values lie within. With five seeds it is narrower than a t
        interval: read it as a guide.
    """
    import numpy as np

    found = statistic(_draws(n))
    edge = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [edge, 1 - edge], method="inverted_cdf")  # of what was drawn, nothing between
    return float(low), float(high)


@cache
def _draws(n: int) -> Rows:
    """Ways [R, n] to draw n seeds with replacement: all of them where there are few."""
    import numpy as np

    if n**n <= RESAMPLES:
        return np.array(list(itertools.product(range(n), repeat=n)))
    rng = random.Random(0)  # the same draws for the same runs, always
    return np.array([rng.choices(range(n), k=n) for _ in range(RESAMPLES)])


def _verdict(interval: tuple[float, float], good: str) -> str:
    low, high = interval if good == "more" else (-interval[1], -interval[0])
    return "holds" if low > 0 else "reversed" if high < 0 else "open"


def _rounded(value: float) -> float | None:
    """A figure with four decimals, so that the file stays readable; None for none."""
    return round(value, 4) if math.isfinite(value) else None
