"""What a comparison measures of its runs, and the intervals of differences, against other ways to get them."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from ddfw_plugins.commands.compare import measures
from ddfw_plugins.commands.compare.files import Contrast
from ddfw_plugins.commands.compare.finished import Look


def run(accuracies, *, seed=0, test=0.5, every=10):
    """A finished run with these validation accuracies, a look every ten outer steps."""
    looks = [Look(step=every * i, accuracy=a, loss=None, step_size=None) for i, a in enumerate(accuracies)]
    steps = every * (len(accuracies) - 1)
    return SimpleNamespace(seed=seed, curve=tuple(looks), accuracy=test, summary=SimpleNamespace(outer_steps=steps))


def test_steps_are_counted_to_where_the_line_between_two_looks_crosses():
    """Broken: a method would be called faster because of where its looks happen to lie."""
    rising = run([0.20, 0.40, 0.80])
    assert measures.steps_to(rising, 20) == 0
    assert measures.steps_to(rising, 30) == pytest.approx(5)
    assert measures.steps_to(rising, 40) == pytest.approx(10)
    assert measures.steps_to(rising, 70) == pytest.approx(17.5)
    assert measures.steps_to(rising, 80.1) == 21, "never: one step more than there are"
    assert measures.steps_to(run([0.5, 0.3, 0.6]), 50) == 0, "the first time counts"
    grid = np.linspace(0, 20, 20001)
    line = np.interp(grid, [0, 10, 20], [20, 40, 80])
    for asked in (23.0, 39.9, 41.7, 79.9):
        assert measures.steps_to(rising, asked) == pytest.approx(grid[np.argmax(line >= asked)], abs=2e-3)


def test_the_area_is_the_mean_of_the_curve():
    """Broken: a curve that rises early would not count for more than one that rises late."""
    curve = [0.1, 0.6, 0.7, 0.65]
    dense = np.interp(np.linspace(0, 30, 300001), [0, 10, 20, 30], np.multiply(100, curve))
    assert measures.area(run(curve)) == pytest.approx(dense.mean(), abs=1e-3)
    assert measures.area(run([0.25])) == 25


def test_the_jitter_is_that_of_the_second_half():
    """Broken: the rise at the start of every run would be called unsteady."""
    assert measures.jitter(run([0.0, 0.5, 0.6, 0.5, 0.52])) == pytest.approx(100 * (0.1 + 0.02) / 2)
    assert math.isnan(measures.jitter(run([0.4])))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_interval_of_few_seeds_takes_every_way_to_draw_them(n):
    """Broken: the interval of a published table would depend on chance, or not be the bootstrap's."""
    values = np.random.default_rng(n).normal(size=n)
    means = sorted(np.mean(rows) for rows in itertools.product(values, repeat=n))
    shares = np.arange(1, n**n + 1) / n**n
    expected = [means[np.argmax(shares >= edge - 1e-12)] for edge in (0.025, 0.975)]
    found = measures.interval_of(lambda rows: values[rows].mean(axis=1), n)
    assert found == pytest.approx(expected, abs=1e-12)
    there = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=50_000, random_state=1)
    assert found == pytest.approx(tuple(there.confidence_interval), abs=0.05)


def test_the_interval_of_many_seeds_is_drawn_the_same_way_each_time():
    """Broken: two calls with the same runs would print other intervals."""
    values = np.random.default_rng(9).normal(size=12)

    def mean(rows):
        return values[rows].mean(axis=1)

    first = measures.interval_of(mean, 12)
    assert first == measures.interval_of(mean, 12)
    there = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=50_000, random_state=1)
    assert first == pytest.approx(tuple(there.confidence_interval), abs=0.05)


def contrast(measure="accuracy", plus=("new",), minus=("old",), **more):
    return Contrast(claim="it is better", measure=measure, plus=plus, minus=minus, **more)


def test_a_difference_is_taken_seed_by_seed_over_the_seeds_that_both_have():
    """Broken: the luck of a seed that one side has alone would be called a difference."""
    runs = {
        "new": [run([0.5], seed=s, test=t) for s, t in ((1, 0.62), (2, 0.71), (3, 0.66), (9, 0.99))],
        "old": [run([0.5], seed=s, test=t) for s, t in ((0, 0.10), (1, 0.60), (2, 0.68), (3, 0.65))],
    }
    found = measures.contrast_record(contrast(), runs, 0.95)
    assert found["seeds"] == [1, 2, 3] and found["n"] == 3
    assert found["each"] == [2.0, 3.0, 1.0] and found["difference"] == 2.0
    assert found["interval"] == [1.0, 3.0] and found["verdict"] == "holds"
    assert measures.contrast_record(contrast(plus=("old",), minus=("new",)), runs, 0.95)["verdict"] == "reversed"
    assert measures.contrast_record(contrast(good="less"), runs, 0.95)["verdict"] == "reversed"
    lonely = measures.contrast_record(contrast(minus=("none",)), runs, 0.95)
    assert (lonely["n"], lonely["difference"], lonely["verdict"]) == (0, None, "")


def test_an_interval_around_zero_is_no_verdict():
    """Broken: noise would be published as a finding."""
    runs = {
        "new": [run([0.5], seed=s, test=0.6 + d) for s, d in enumerate((0.02, -0.03, 0.01, 0.02, -0.02))],
        "old": [run([0.5], seed=s, test=0.6) for s in range(5)],
    }
    assert measures.contrast_record(contrast(), runs, 0.95)["verdict"] == "open"


def test_shares_of_a_ladder_add_up_to_the_whole():
    """Broken: the shares of a table would be more, or less, than what they are shares of."""
    rng = np.random.default_rng(4)
    names = ("none", "a", "b", "all")
    runs = {n: [run([0.5], seed=s, test=float(rng.uniform(0.4, 0.9))) for s in range(5)] for n in names}
    parts = [(("a",), ("none",)), (("b",), ("none",)), (("all", "none"), ("a", "b"))]
    shares = [measures.contrast_record(contrast(plus=p, minus=m), runs, 0.95)["difference"] for p, m in parts]
    whole = measures.contrast_record(contrast(plus=("all",), minus=("none",)), runs, 0.95)["difference"]
    assert sum(shares) == pytest.approx(whole, abs=3e-4)


def test_steps_wait_for_the_accuracy_of_another_variant():
    """Broken: a method that ends low would be called fast, since it reaches its own low end soon."""
    runs = {
        "new": [run([0.2, 0.9, 0.9], seed=0), run([0.2, 0.9, 0.9], seed=1)],
        "old": [run([0.2, 0.4, 0.8], seed=0), run([0.2, 0.4, 0.8], seed=1)],
    }
    found = measures.contrast_record(contrast("steps", target="old"), runs, 0.5)
    assert found["values"]["new"] == pytest.approx([10 * 20 / 70] * 2, abs=1e-3)  # half of 80 % is 40 %
    assert found["values"]["old"] == [10.0, 10.0]
    assert found["verdict"] == "holds" and found["target"] == "old" and found["reach"] == 0.5


def test_the_spread_is_compared_over_all_seeds_at_once():
    """Broken: steadiness over seeds could not be asked for."""
    tests = {"new": [0.60, 0.61, 0.60, 0.61, 0.60], "old": [0.5, 0.7, 0.4, 0.8, 0.6]}
    runs = {name: [run([0.5], seed=s, test=t) for s, t in enumerate(values)] for name, values in tests.items()}
    found = measures.contrast_record(contrast("spread"), runs, 0.95)
    expected = 100 * (np.std(tests["new"], ddof=1) - np.std(tests["old"], ddof=1))
    assert found["difference"] == pytest.approx(expected, abs=1e-3) and found["each"] == []
    assert found["verdict"] == "holds", "less spread is better"
