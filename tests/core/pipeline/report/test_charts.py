"""Charts: where values lie, which are left out, and what a reader without sight is told."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from ddfw.pipeline.report import charts
from ddfw.pipeline.report.charts import Line, Scale, line_chart, thinned


def corners(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each polyline."""
    found = re.findall(r'<polyline class="line[^>]* points="([^"]+)"', svg)
    return [[tuple(map(float, point.split(","))) for point in points.split()] for points in found]


def test_values_lie_where_a_ruler_would_put_them():
    """Broken: a curve would show other figures than the run had."""
    (points,) = corners(line_chart("a", "t", [Line(points=[(0.0, 1.0), (5.0, 2.0), (10.0, 5.0)])]))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (x0, x2) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert x1 - x0 == pytest.approx((x2 - x0) / 2, abs=0.2)
    assert (y0 - y1) / (y0 - y2) == pytest.approx(1 / 4, abs=0.01)  # upwards, as 2 - 1 is to 5 - 1


def test_equal_factors_take_equal_room_on_a_logarithmic_axis():
    """Broken: a loss over decades would be drawn on a wrong axis."""
    (points,) = corners(line_chart("a", "t", [Line(points=[(0.0, 1.0), (1.0, 10.0), (2.0, 100.0)])], log=True))
    heights = [y for _, y in points]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (0.1, 0.3, [0.1, 0.15, 0.2, 0.25, 0.3]),
        (0.0, 80.0, [0, 20, 40, 60, 80]),
    ],
)
def test_ticks_are_round_and_within_the_axis(low, high, expected):
    """Broken: an axis would have ticks that nobody can read, or that lie outside."""
    assert Scale(low=low, high=high).ticks() == pytest.approx(expected)


def test_decades_are_the_ticks_of_a_logarithmic_axis():
    """Broken: as above, for losses that span decades."""
    assert Scale(low=0.004, high=900.0, log=True).ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])


def test_thinning_keeps_extremes_and_both_ends():
    """Broken: a spike of the loss would vanish from the page of a long run."""
    points = [(float(x), math.sin(x / 50)) for x in range(20_000)]
    points[7_777] = (7_777.0, 99.0)
    points[12_345] = (12_345.0, -99.0)
    kept = thinned(points)
    assert len(kept) <= 2 * charts.BINS + 2
    assert {points[0], points[-1], points[7_777], points[12_345]} <= set(kept)
    assert kept == sorted(kept)


def test_a_value_that_is_none_interrupts_the_line():
    """Broken: a line would be drawn through steps whose loss was no number."""
    points = [(1.0, 1.0), (2.0, 2.0), (3.0, None), (4.0, math.nan), (5.0, 1.0), (6.0, 3.0)]
    assert [len(piece) for piece in corners(line_chart("a", "t", [Line(points=points)]))] == [2, 2]


def test_the_description_says_first_last_least_and_most():
    """Broken: who cannot see the curve would be told wrong figures."""
    svg = line_chart("a", "Loss", [Line(points=[(0.0, 3.0), (1.0, 7.0), (2.0, 2.0), (3.0, 4.0)])])
    tree = ElementTree.fromstring(svg)
    words = tree.find("svg/desc").text
    assert words == "from 3 at step 0 to 4 at step 3; least 2 at step 2, most 7 at step 1."
    assert tree.find("svg").get("role") == "img"


def test_the_selected_step_is_marked_at_its_place():
    """Broken: the mark would point at another step than the one that was kept."""
    svg = line_chart("a", "t", [Line(points=[(0.0, 1.0), (5.0, 2.0), (10.0, 5.0)], marked=5.0)])
    (at,) = re.findall(r'class="mark" x1="([\d.]+)"', svg)
    assert float(at) == pytest.approx(corners(svg)[0][1][0])
    assert "step 5 kept" in svg


@pytest.mark.parametrize("value", [None, 0.0, math.nan])
@pytest.mark.parametrize("log", [False, True])
def test_a_step_whose_value_cannot_be_drawn_is_still_marked(value, log):
    """Broken: the page of a run would fail, or show a value that the selected step does not have."""
    line = Line(points=[(0.0, 1.0), (5.0, value), (10.0, 50.0)], marked=5.0)
    (at,) = re.findall(r'class="mark" x1="([\d.]+)"', line_chart("a", "t", [line], log=log))
    assert float(at) == pytest.approx((charts.LEFT + charts.WIDTH - charts.RIGHT) / 2)
    rings = line_chart("a", "t", [line, Line(points=[(0.0, 2.0)])], log=log).count("ring")
    assert rings == (1 if value == 0.0 and not log else 0)


def test_nothing_to_draw_makes_no_chart():
    """Broken: a page would show an empty frame, or fail at a loss that was never a number."""
    assert line_chart("a", "t", [Line(points=[(1.0, None), (2.0, math.inf)])]) == ""


def test_each_of_several_lines_has_a_look_of_its_own():
    """Broken: two runs of one page could not be told apart."""
    looks = {charts.swatch(index) for index in range(8)}
    assert len(looks) == 8


def test_a_heat_map_shades_by_the_share_of_the_row():
    """Broken: the matrix of a run would be shaded wrongly."""
    svg = charts.heat_map("t", [[3, 1], [0, 8]], ["a", "b"], figures=True)
    shades = re.findall(r'class="(hit|miss)" [^>]*fill-opacity="([\d.]+)"', svg)
    assert [kind for kind, _ in shades] == ["hit", "miss", "hit"]
    assert [float(shade) for _, shade in shades] == pytest.approx(
        [0.08 + 0.52 * s for s in (0.75, 0.25, 1.0)], abs=0.006
    )
