"""Pictures of charts: where values and names lie, what is left out, and that a file is whole by itself."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from ddfw import Chart, Series, svg_of
from ddfw.pipeline.report.drawing import DARK_INKS, LIGHT_INKS, PAPERS
from ddfw.pipeline.report.placing import Axis, Scale, balanced, spread_out, text_width, tick_labels, wrapped

NS = {"s": "http://www.w3.org/2000/svg"}


def chart(*series: Series, **options) -> Chart:
    return Chart(**{"title": "T", "across": "outer step", "up": "test accuracy", "series": series, **options})


def panels(svg: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(svg).findall("s:g[@class='chart']", NS)


def panel(*series: Series, **options) -> ElementTree.Element:
    """The only chart of a picture."""
    (found,) = panels(svg_of("t", [chart(*series, **options)]))
    return found


def places(element: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def lines(found: ElementTree.Element) -> list[list[tuple[float, float]]]:
    return [places(line) for line in found.iterfind("s:g/s:polyline", NS)]


def ruler(found: ElementTree.Element, kind: str, place: str) -> list[tuple[float, float]]:
    """The value and the place of each labelled tick; the base of a figure beside the axis is 4 below its middle."""
    ticks = found.iterfind(f"s:text[@class='{kind}']", NS)
    lower = 4 if place == "y" else 0
    return [
        (float(t.text.replace(",", "").replace("−", "-").removesuffix(" %")), float(t.get(place)) - lower)
        for t in ticks
    ]


def measured(at: float, ticks: list[tuple[float, float]], *, log: bool = False) -> float:
    """The value at a place, read off as with a ruler between the outermost ticks."""
    (first, start), (last, end) = ticks[0], ticks[-1]
    share = (at - start) / (end - start)
    return first * (last / first) ** share if log else first + share * (last - first)


def named(svg: str, name: str) -> list[str]:
    """The colours that a name has at the ends of its lines."""
    texts = ElementTree.fromstring(svg).iterfind(".//s:text", NS)
    return [t.get("class") for t in texts if t.text == name and t.get("class", "").startswith("name")]


def test_values_lie_where_the_ticks_say():
    """Broken: a curve would show other figures than those that were measured."""
    points = [(0, 0.31), (70, 0.47), (100, 0.625)]
    found = panel(Series(name="a", points=points), percent=True)
    across, up = ruler(found, "tick-across", "x"), ruler(found, "tick-up", "y")
    assert [value for value, _ in across] == [0, 20, 40, 60, 80, 100]
    (line,) = lines(found)
    assert [measured(x, across) for x, _ in line] == pytest.approx([0, 70, 100], abs=0.1)
    assert [measured(y, up) / 100 for _, y in line] == pytest.approx([0.31, 0.47, 0.625], abs=0.0005)


def test_values_lie_where_the_ticks_of_logarithmic_axes_say():
    """Broken: accuracy against floats would be read off wrongly by factors."""
    points = [(3_000, 0.02), (45_000, 0.3), (600_000, 7)]
    found = panel(Series(name="a", points=points), log_across=True, log_up=True)
    across, up = ruler(found, "tick-across", "x"), ruler(found, "tick-up", "y")
    (line,) = lines(found)
    assert [measured(x, across, log=True) for x, _ in line] == pytest.approx([3_000, 45_000, 600_000], rel=0.005)
    assert [measured(y, up, log=True) for _, y in line] == pytest.approx([0.02, 0.3, 7], rel=0.005)
    assert [value for value, _ in up] == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5])


def test_bands_and_error_bars_reach_from_their_low_to_their_high():
    """Broken: the spread over seeds would be shown too narrow or too wide."""
    band = [(0, 0.1, 0.3), (5, 0.2, 0.5), (10, 0.3, 0.4)]
    points = [(x, (low + high) / 2) for x, low, high in band]
    area, bars = (panel(Series(name="a", points=points, band=band, dots=dots)) for dots in (False, True))
    up = ruler(area, "tick-up", "y")
    (polygon,) = area.iterfind(".//s:polygon[@class='band']", NS)
    corners = [measured(y, up) for _, y in places(polygon)]
    assert corners == pytest.approx([0.3, 0.5, 0.4, 0.3, 0.2, 0.1], abs=0.001)  # there and back
    up = ruler(bars, "tick-up", "y")
    drawn = [re.match(r"M[\d.]+,([\d.]+)V([\d.]+)M", path.get("d")) for path in bars.iterfind(".//s:path", NS)]
    ends = [(measured(float(bar[1]), up), measured(float(bar[2]), up)) for bar in drawn]
    assert [end for bar in ends for end in bar] == pytest.approx([v for _, *ends in band for v in ends], abs=0.001)
    assert len(bars.findall(".//s:circle", NS)) == 3


def test_a_value_that_is_none_interrupts_line_and_band():
    """Broken: a line would be drawn through steps that were never measured, or a picture would fail."""
    gaps = [
        (1.0, 1.0),
        (2.0, 2.0),
        (3.0, None),
        (4.0, math.nan),
        (5.0, 1.0),
        (math.nan, 2.0),
        (6.0, 3.0),
        (7.0, math.inf),
    ]
    band = [(x, y, math.inf if y is None else y) for x, y in gaps if x < 7]
    found = panel(Series(name="a", points=gaps, band=band))
    assert [len(line) for line in lines(found)] == [2, 2]
    assert [len(places(area)) for area in found.iterfind(".//s:polygon[@class='band']", NS)] == [4, 4]


@pytest.mark.parametrize(
    "series",
    [
        Series(name="a", points=[(3, 0.5)]),
        Series(name="a", points=[(3, 0.5)], band=[(3, 0.4, 0.6)]),
        Series(name="a", points=[(1, 0.02), (2, 0.02), (3, 0.02 + 1e-18)]),
        Series(name="a", points=[(1, 0), (2, 0)]),
        Series(name="a", points=[(1, 1e-9), (2, 3e30)]),
        Series(name="a", points=[(-1e9, -1e9), (1e9, 5.0)]),
        Series(name="a", points=[(1, 7.0), (1, 8.0)]),
    ],
)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("percent", [False, True])
def test_any_values_make_a_picture_whose_marks_lie_within(series, log, percent):
    """Broken: one point, equal, huge or tiny values would fail, or lie outside."""
    svg = svg_of("t", [chart(series, log_across=log, log_up=log, percent=percent)])
    _, _, width, height = map(float, ElementTree.fromstring(svg).get("viewBox").split())
    assert "nan" not in svg and "inf" not in svg
    for found in panels(svg):
        for element in (*found.iterfind(".//s:polyline", NS), *found.iterfind(".//s:polygon", NS)):
            assert all(-3 <= x <= width and -3 <= y <= height for x, y in places(element))


def test_a_chart_without_values_says_so_and_a_series_without_is_left_out():
    """Broken: a study that has not begun would fail, or list curves that are not there."""
    empty = Series(name="later", points=[(1, None)])
    svg = svg_of("t", [chart(empty), chart(empty, Series(name="now", points=[(1, 2.0), (2, 3.0)]))])
    first, second = panels(svg)
    assert [t.text for t in first.iterfind("s:text", NS)] == ["T", "test accuracy", "no data yet"]
    assert not lines(first) and len(lines(second)) == 1
    assert "later" not in svg
    assert ElementTree.fromstring(svg_of("t", [])).find("s:title", NS).text == "t"


def test_a_name_has_one_colour_in_all_charts_of_a_picture():
    """Broken: a reader would take one method for another."""
    a, b, c = (Series(name=name, points=[(1, 2.0), (2, 3.0)]) for name in "abc")
    svg = svg_of("t", [chart(a, b), chart(c, b)])
    assert len(set(named(svg, "b"))) == 1 and len(named(svg, "b")) == 2
    assert len({*named(svg, "a"), *named(svg, "b"), *named(svg, "c")}) == 3


@pytest.mark.parametrize("ends", [[0.5] * 8, [0.5, 0.501, 0.502, 0.9], [0.1 * n for n in range(8)], [1, 1, 1, 0, 0, 0]])
def test_names_at_the_ends_of_lines_do_not_overlap(ends):
    """Broken: names of curves that end together could not be read."""
    series = [Series(name=f"s{n}", points=[(0, 0.2), (10, end)]) for n, end in enumerate(ends)]
    texts = [t for t in panel(*series).iterfind("s:text", NS) if t.get("class", "").startswith("name")]
    heights = [float(text.get("y")) for text in texts]
    assert len(heights) == len(ends)
    assert all(later - earlier >= 14.9 for earlier, later in itertools.pairwise(heights))
    assert heights[0] >= 0 and heights[-1] <= 200
    order = sorted(range(len(ends)), key=lambda n: -ends[n])  # the highest value stands first
    assert [ends[int(text.text[1:])] for text in texts] == [ends[n] for n in order]


def test_names_stay_at_their_lines_where_there_is_room():
    """Broken: names would be moved without need."""
    assert spread_out([10, 50, 90], 15, 0, 100) == [10, 50, 90]
    assert spread_out([50, 50], 10, 0, 100) == [45, 55]
    assert spread_out([99, 99, 99], 10, 0, 100) == [80, 90, 100]
    assert spread_out([], 10, 0, 100) == []


@pytest.mark.parametrize(
    "names", [[f"n{n}" for n in range(9)], ["a name that is much too long to stand beside a line"]]
)
def test_many_or_long_names_stand_in_a_legend(names):
    """Broken: names would cover each other, or leave no room for the curves."""
    svg = svg_of("t", [chart(*(Series(name=name, points=[(0, 1.0), (1, 2.0)]) for name in names))])
    keys = [t.text for t in ElementTree.fromstring(svg).iterfind("s:text[@class='key']", NS)]
    assert " ".join(keys) == " ".join(names)
    assert not any(named(svg, name) for name in names)


def test_sixty_four_series_have_looks_of_their_own():
    """Broken: two series of a large study could not be told apart."""
    svg = svg_of("t", [chart(*(Series(name=f"n{n}", points=[(0, 1.0)]) for n in range(64)))])
    looks = set()
    for group in panels(svg)[0].iterfind("s:g", NS):
        marker = next(e for e in group if e.get("class") == "dot")
        middle = (
            [sum(end) / len(places(marker)) for end in zip(*places(marker), strict=True)]
            if marker.get("points")
            else []
        )
        shape = tuple((round(x - middle[0]), round(y - middle[1])) for x, y in places(marker)) if middle else ()
        looks.add((group.get("class"), shape))
    assert len(looks) == 64


def test_text_is_escaped_and_reaches_the_reader_whole():
    """Broken: a name from a file would break the picture or add elements to it."""
    odd = "<script>\"&'</script>\x1b\ud800"
    svg = svg_of(odd, [chart(Series(name=odd, points=[(0, 1.0), (1, 2.0)]), title=odd, up=odd, across=odd)], note=odd)
    tree = ElementTree.fromstring(svg.encode())
    shown = "<script>\"&'</script>\\x1b\\ud800".replace("\\x1b", "\\u001b")
    assert tree.find("s:title", NS).text == shown
    assert not tree.findall(".//s:script", NS)
    assert sum(shown in (text.text or "") for text in tree.iter()) >= 4


def test_a_picture_loads_nothing_and_its_bytes_are_always_the_same():
    """Broken: documents would show a broken picture, or a page would change without a change of its figures."""
    code = (
        "import sys; from ddfw import Chart, Series, svg_of;"
        "s = [Series(name=n, points=[(x, x / 7) for x in range(9)], band=[(2, 0, 1), (3, 0, 2)]) for n in 'abc'];"
        "print(svg_of('t', [Chart(title='u', across='x', up='y', series=s)]), end='');"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=env
        ).stdout
        for env in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    )
    assert first == second
    assert "http" not in first.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"<(script|image|use|link|foreignObject)|@import|url\(|href", first)


def test_the_description_says_first_last_and_best_values():
    """Broken: who cannot see the curves would be told nothing, or wrong figures."""
    svg = svg_of(
        "t", [chart(Series(name="MCT", points=[(0, 0.1), (500, 0.7), (1000, 0.65)]), percent=True)], note="Of 3."
    )
    root = ElementTree.fromstring(svg)
    assert root.find("s:desc", NS).text == (
        "T (test accuracy): MCT: from 10.0 % at outer step 0 to 65.0 % at outer step 1,000; "
        "least 10.0 % at outer step 0, most 70.0 % at outer step 500. Of 3."
    )
    assert root.get("role") == "img"
    assert {root.find("s:title", NS).get("id"), root.find("s:desc", NS).get("id")} == set(
        root.get("aria-labelledby").split()
    )


def test_axes_are_labelled_and_a_logarithmic_one_says_so():
    """Broken: a reader would not know what is drawn, or misjudge distances."""
    texts = [
        t.text for t in panel(Series(name="a", points=[(1, 1.0), (2, 3.0)]), log_across=True).iterfind("s:text", NS)
    ]
    assert "outer step (logarithmic)" in texts and "test accuracy" in texts


def test_one_column_fits_a_small_screen_with_text_that_can_be_read():
    """Broken: on a telephone the text of a picture would be smaller than 10 pixels."""
    one, two = (svg_of("t", [chart(Series(name="a", points=[(1, 1.0), (2, 3.0)]))] * 3, columns=n) for n in (1, 2))
    width = float(ElementTree.fromstring(one).get("width"))
    assert 12 * 320 / width >= 10
    shifts = [[re.findall(r"[\d.]+", found.get("transform"))[0] for found in panels(svg)] for svg in (one, two)]
    assert [len(set(column)) for column in shifts] == [1, 2]
    assert "max-width:100%" in one


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("name", ["a", "a name that is much too long to stand beside a line"])
def test_charts_do_not_cover_each_other_and_their_text_lies_within_the_picture(columns, name):
    """Broken: a long title or label would run into the chart above or beside, or be cut off."""
    series = Series(name=name, points=[(1, 1.0), (2e6, 3e6)])
    long = "words that need more than the one line which most titles take up in a picture " * 2
    charts = [chart(series, title=title, across=title, up=title) for title in ("T", long, long, "T", "T")]
    svg = svg_of(long, charts, columns=columns, note=long)
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    boxes = []
    for found in panels(svg):
        left, top = map(float, re.findall(r"[-\d.]+", found.get("transform")))
        texts = found.findall("s:text", NS)
        ends = [left + float(t.get("x")) for t in texts]
        heights = [top + float(t.get("y")) for t in texts]
        for text, x in zip(texts, ends, strict=True):
            room = text_width(text.text, 12)
            start = x - room * {"end": 1, "middle": 0.5}.get(text.get("text-anchor"), 0)
            assert start >= 0 and start + room <= width
        boxes.append((min(heights) - 12, max(heights)))
    rows = [boxes[first : first + columns] for first in range(0, len(boxes), columns)]
    edges = [edge for row in rows for edge in (min(top for top, _ in row), max(bottom for _, bottom in row))]
    outside = [float(t.get("y")) for t in root.iterfind("s:text", NS)]
    edges = [y for y in outside if y < edges[0]] + edges + [y for y in outside if y > edges[0]]
    assert edges == sorted(edges) and edges[-1] < height


def test_an_axis_ends_at_what_a_value_can_be():
    """Broken: a reader would see room for accuracies above 100 %, or for losses below 0."""
    sure = panel(Series(name="a", points=[(0, 0.4), (1, 1.0)]), percent=True)
    lost = panel(Series(name="a", points=[(0, 0.0), (1, 7.0)]))
    assert lines(sure)[0][1][1] == 0.0
    assert lines(lost)[0][0][1] == float(sure.find("s:line[@class='axis']", NS).get("y1"))
    below = panel(Series(name="a", points=[(0, -3.0), (1, 7.0)]))
    assert 0 < lines(below)[0][1][1] < lines(below)[0][0][1] < lines(lost)[0][0][1]


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([0, 500, 1000, 1500], False, ["0", "500", "1,000", "1,500"]),
        ([-0.5, 0, 0.5], False, ["−0.5", "0.0", "0.5"]),
        ([0.25, 0.5, 0.75], True, ["25 %", "50 %", "75 %"]),
        ([0.625, 0.65, 0.675], True, ["62.5 %", "65.0 %", "67.5 %"]),
        ([0.05, 0.1, 0.2, 0.5, 1, 2], False, ["0.05", "0.1", "0.2", "0.5", "1", "2"]),
        ([1e-6, 2e-6, 5e-6], False, ["10⁻⁶", "2·10⁻⁶", "5·10⁻⁶"]),
        ([0, 2.5e7, 5e7], False, ["0", "2.5·10⁷", "5·10⁷"]),
    ],
)
def test_figures_of_an_axis_are_written_alike(values, percent, expected):
    """Broken: thousands could not be read, or figures would have digits that say nothing."""
    assert tick_labels(values, percent) == expected


@pytest.mark.parametrize("room", [10, 30, 60, 90])
@pytest.mark.parametrize("log", [False, True])
def test_labels_of_ticks_do_not_touch(room, log):
    """Broken: figures of an axis would run into each other."""
    axis = Axis(scale=Scale(low=3, high=80_000, log=log), start=0, end=200)
    ticks = [axis.at(value) for value, label in axis.ticks(lambda _: room) if label]
    assert len(ticks) >= 2
    assert all(later - earlier > room for earlier, later in itertools.pairwise(ticks))


def test_lines_of_text_are_no_wider_than_they_may_be():
    """Broken: a title or a note would leave the picture."""
    words = "a title of many words with one" + "verylongword" * 20
    found = wrapped(words, 200, 12)
    assert all(text_width(line, 12) <= 200 for line in found)
    assert "".join(found).replace(" ", "") == words.replace(" ", "")
    assert wrapped("", 200, 12) == []


def test_a_title_of_two_lines_has_no_word_alone_in_the_second():
    """Broken: pictures would look unkempt."""
    words = "aaaa bbbb cccc dddd eeee"
    assert wrapped(words, 140, 12) == ["aaaa bbbb cccc dddd", "eeee"]
    assert balanced(words, 140, 12) == ["aaaa bbbb cccc", "dddd eeee"]
    assert balanced("aaaa", 140, 12) == ["aaaa"]


def contrast(one: str, other: str) -> float:
    """The ratio of two colours that WCAG defines."""
    lights = sorted(
        sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True)) for colour in (one, other)
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def linear(colour: str) -> list[float]:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]


@pytest.mark.parametrize(("inks", "paper"), [(LIGHT_INKS, PAPERS[0]), (DARK_INKS, PAPERS[1])])
def test_names_in_the_colours_of_lines_can_be_read(inks, paper):
    """Broken: names would be too faint on light or on dark paper for the contrast of 4.5 that WCAG asks for."""
    assert min(contrast(ink, paper) for ink in inks) >= 4.5


#: What eyes without one of the three cones see of linear red, green and blue: Machado, Oliveira, Fernandes 2009.
EYES = {
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def lab(rgb: list[float]) -> tuple[float, float, float]:
    """Linear red, green and blue as CIELAB, where distances are about as eyes see them."""
    red, green, blue = (min(max(share, 0), 1) for share in rgb)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("inks", [LIGHT_INKS, DARK_INKS])
@pytest.mark.parametrize("eyes", list(EYES.values()), ids=list(EYES))
def test_colour_blind_eyes_tell_the_colours_apart(inks, eyes):
    """Broken: a tenth of the readers would see two curves in one colour."""
    seen = [lab([sum(w * c for w, c in zip(row, linear(ink), strict=True)) for row in eyes]) for ink in inks]
    assert min(math.dist(one, other) for one, other in itertools.combinations(seen, 2)) >= 10
