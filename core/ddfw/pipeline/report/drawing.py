"""Pictures of charts, for documents and browsers: one SVG file that needs nothing beside it, light and dark."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from attrs import evolve, frozen

from ddfw.pipeline.report.charts import Line, Point, Scale, described, drawn, padded, path_text, pieces, thinned
from ddfw.pipeline.report.markup import figure, percent_text, text
from ddfw.pipeline.report.placing import Axis, balanced, spread_out, text_width, wrapped
from ddfw.plain import printable

#: Width of a chart with its labels, alone in its row (for small screens) and beside others. Units of the SVG.
_ALONE, _BESIDE = 352, 408
#: Height of a plot, room around the picture and between charts.
_HEIGHT, _EDGE, _BETWEEN = 196, 12, 20
#: Sizes of text: title of the picture, title of a chart, names of series and axes, figures of ticks and the note.
_TITLE, _HEAD, _NAME, _SMALL = 17, 14, 12.5, 12
#: Names stand beside the ends of the lines unless a chart has more series, or a name needs more room than this.
_MOST_NAMES, _NAME_ROOM = 8, 132
#: Room between names at the ends of lines, and for the leader between a line and its name.
_NAME_GAP, _LEADER = 15, 16
#: Colours on light and on dark paper: each has a contrast of 4.5 or more and stays apart for colour-blind eyes.
LIGHT_INKS = ("#0a6be0", "#ad342b", "#00493b", "#c533a8", "#877000", "#4b128c", "#5c2a0a", "#00687c")
DARK_INKS = ("#3f9bff", "#ff6a3d", "#2eeb98", "#ee6fbd", "#f2d64a", "#c6a6ff", "#dc9a96", "#b5e3f2")
PAPERS = ("#ffffff", "#14161a")
#: Corners of the markers, around (0, 0); without corners it is a circle.
_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.2), (1.15, 0.8), (-1.15, 0.8)),
    ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
    ((0, 1.2), (1.15, -0.8), (-1.15, -0.8)),
    ((-1.1, -1.1), (1.1, -1.1), (-1.1, 1.1), (1.1, 1.1)),
    ((-1.2, -0.45), (1.2, -0.45), (1.2, 0.45), (-1.2, 0.45)),
    ((-0.45, -1.3), (0.45, -1.3), (0.45, 1.3), (-0.45, 1.3)),
)
#: Stands where a chart has nothing to draw.
_NOTHING = "no data yet"
_STYLE = (
    "svg{max-width:100%%;height:auto;color-scheme:light dark}"
    'text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:#555b65;'
    "font-variant-numeric:tabular-nums}"
    f".title{{font-size:{_TITLE}px;font-weight:650;fill:#1b1e23}}.head{{font-size:{_HEAD}px;font-weight:600;fill:#1b1e23}}"
    f".key{{font-size:{_NAME}px;fill:#1b1e23}}.name{{font-size:{_NAME}px;font-weight:600;fill:currentColor}}"
    ".paper{fill:%s}.grid{stroke:#e3e4e0}.fold{stroke:#f1f1ee}.axis{stroke:#8b919b}"
    ".line,.error,.leader{fill:none;stroke:currentColor;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}"
    ".line.dashed{stroke-dasharray:6 5}.error{stroke-width:1.3}.leader{stroke-width:.8;stroke-opacity:.7}"
    ".band{fill:currentColor;fill-opacity:.15}.dot{fill:currentColor}%s"
    "@media (prefers-color-scheme:dark){.paper{fill:%s}text{fill:#a6adb8}.title,.head,.key{fill:#e7e9ed}"
    ".grid{stroke:#333943}.fold{stroke:#23282f}.axis{stroke:#7b828e}.band{fill-opacity:.2}%s}"
)


@frozen(kw_only=True)
class Series:
    """One curve of a chart.

    Args:
        name: written at the end of the curve; in all charts of a picture one name has one colour and one marker.
        points: (x, y), drawn in the order of x; a y that is None or not finite interrupts the curve.
        band: (x, low, high), the spread around the curve: an area, or with `dots` an error bar at each x.
        dots: whether each point is marked, for few points.
        dashed: whether the line is dashed, for what is a reference.
    """

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()
    dots: bool = False
    dashed: bool = False


@frozen(kw_only=True)
class Chart:
    """One chart of a picture.

    Args:
        title: what is compared.
        across: what the horizontal axis counts, with its unit.
        up: what the vertical axis measures, with its unit.
        series: the curves; those that have no value yet are left out.
        log_across: whether equal factors take equal room along the horizontal axis; only positive x are drawn.
        log_up: the same for the vertical axis.
        percent: whether values are fractions, to be written as percent.
    """

    title: str
    across: str
    up: str
    series: Sequence[Series]
    log_across: bool = False
    log_up: bool = False
    percent: bool = False

    def written(self, value: float) -> str:
        """A value of the vertical axis, in words."""
        return percent_text(value) if self.percent else figure(value)

    @property
    def curves(self) -> list[Series]:
        """The series that have something to draw, with that alone: x in ascending order, None for gaps."""
        found = []
        for series in self.series:
            points = [(x, y if drawn(y, log=self.log_up) else None) for x, y in series.points if self._has(x)]
            band = [(x, low, high) for x, low, high in series.band if self._has(x)]
            if any(y is not None for _, y in points):
                points, band = sorted(points, key=lambda p: p[0]), sorted(band, key=lambda b: b[0])
                found.append(evolve(series, points=points, band=band))
        return found

    def _has(self, x: float) -> bool:
        return drawn(x, log=self.log_across)

    def bands(self, series: Series) -> list[list[tuple[float, float, float]]]:
        """The stretches of a band that can be drawn; on a logarithmic axis its low end may be below the axis."""
        runs = itertools.groupby(series.band, lambda b: drawn(b[1]) and drawn(b[2], log=self.log_up))
        return [list(run) for whole, run in runs if whole]


@frozen(kw_only=True)
class _Panel:
    """A chart with its place for everything: the plot's upper end is y = 0, its lower one y = HEIGHT."""

    chart: Chart
    curves: Sequence[tuple[int, Series]]
    width: float
    across: Axis
    up: Axis
    named: bool

    @property
    def heads(self) -> list[str]:
        return balanced(self.chart.title, self.width, _HEAD)

    @property
    def labels(self) -> list[str]:
        """What the vertical axis measures, in lines above the plot."""
        return wrapped(_axis_name(self.chart.up, self.chart.log_up), self.width, _SMALL)

    @property
    def feet(self) -> list[str]:
        return wrapped(_axis_name(self.chart.across, self.chart.log_across), self.across.end, _SMALL)

    @property
    def above(self) -> float:
        """Room above the plot."""
        return 18 * len(self.heads) + 15 * len(self.labels) + 8

    @property
    def below(self) -> float:
        """Room below the plot."""
        return 22 + 15 * len(self.feet)

    def place(self, x: float, y: float) -> tuple[float, float]:
        return self.across.at(x), self.up.at(y)


def _axis_name(words: str, log: bool) -> str:
    return f"{words} (logarithmic)" if log else words


def svg_of(title: str, charts: Sequence[Chart], *, columns: int = 2, note: str = "") -> str:
    """A picture of charts as the text of an SVG file, the same for the same charts.

    It follows the reader's choice of light or dark, loads nothing, holds its text as text, and describes each curve to
    those who cannot see it.

    Args:
        title: what the charts show together.
        charts: in rows from left to right.
        columns: charts in a row; one suits narrow screens.
        note: a line at the foot: what is averaged, what a band is, where the figures come from.
    """
    looks = {name: at for at, name in enumerate(dict.fromkeys(s.name for chart in charts for s in chart.series))}
    curves = [[(looks[series.name], series) for series in chart.curves] for chart in charts]
    used = {series.name: (look, series) for found in reversed(curves) for look, series in reversed(found)}
    named = max(map(len, curves), default=0) <= _MOST_NAMES and all(
        text_width(printable(name), _NAME) <= _NAME_ROOM for name in used
    )
    columns = max(1, min(columns, len(charts)))
    width = _ALONE if columns == 1 else _BESIDE
    panels = [_panel(chart, found, width, named) for chart, found in zip(charts, curves, strict=True)]
    inner = columns * (width + _BETWEEN) - _BETWEEN
    heads = balanced(title, inner, _TITLE)
    parts, y = [_words(heads, "title", _EDGE, _EDGE + _TITLE, 22)], _EDGE + 22.0 * len(heads) + 10
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        y += max(panel.above for panel in row)
        parts += [_drawn(panel, _EDGE + at * (width + _BETWEEN), y) for at, panel in enumerate(row)]
        y += _HEIGHT + max(panel.below for panel in row) + 14
    if not named:
        keys, height = _legend(sorted(used.values(), key=lambda pair: pair[0]), inner, y)
        parts, y = [*parts, keys], y + height
    notes = wrapped(note, inner, _SMALL)
    parts.append(_words(notes, "", _EDGE, y + _SMALL, 16))
    return _file(title, _described(charts, note), inner + 2 * _EDGE, y + 16 * len(notes) + _EDGE, "\n".join(parts))


def _file(title: str, words: str, width: float, height: float, content: str) -> str:
    colours = [
        "".join(f".c{at}{{color:{colour}}}" for at, colour in enumerate(colours)) for colours in (LIGHT_INKS, DARK_INKS)
    ]
    style = _STYLE % (PAPERS[0], colours[0], PAPERS[1], colours[1])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-labelledby="picture-title picture-words">\n'
        f'<title id="picture-title">{text(title)}</title>\n<desc id="picture-words">{text(words, 50_000)}</desc>\n'
        f'<style>{style}</style>\n<rect class="paper" width="100%" height="100%"/>\n{content}\n</svg>\n'
    )


def _described(charts: Sequence[Chart], note: str) -> str:
    def sentences(chart: Chart) -> str:
        lines = [Line(name=series.name, points=series.points) for series in chart.curves]
        said = [described(line, chart.written, chart.log_up, lambda x: f"{chart.across} {x:,.9g}") for line in lines]
        return f"{chart.title} ({chart.up}): {' '.join(said) or f'{_NOTHING}.'}"

    return " ".join([*map(sentences, charts), note]).strip()


def _panel(chart: Chart, curves: Sequence[tuple[int, Series]], width: float, named: bool) -> _Panel:
    """The axes of a chart, which hold all that its curves and bands show."""
    bands = [point for _, series in curves for run in chart.bands(series) for point in run]
    points = [(x, y) for _, series in curves for x, y in series.points if y is not None]
    xs = [x for x, _ in points] + [x for x, _, _ in bands]
    ys = [y for _, y in points] + [end for _, *ends in bands for end in ends if drawn(end, log=chart.log_up)]
    low, high = min(xs, default=1), max(xs, default=1)
    if any(series.dots for _, series in curves) and high > low:
        across = padded(low, high, chart.log_across)
    else:
        across = Scale(low=low, high=high, log=chart.log_across)
    up = Axis(scale=_values_scale(ys or [1], chart), start=_HEIGHT, end=0, percent=chart.percent)
    left = max([16, *(text_width(label, _SMALL) for _, label in up.ticks(_line_room))]) + 7
    names = max((text_width(printable(series.name), _NAME) for _, series in curves), default=0) + _LEADER
    end = width - (names if named else 12)
    horizontal = Axis(scale=across, start=left, end=end, whole=all(x == int(x) for x in xs))
    over = max(horizontal.at(x) + text_width(label, _SMALL) / 2 - width for x, label in horizontal.ticks(_label_room))
    if over > 0:  # a long figure at the end of the axis would leave the chart
        horizontal = evolve(horizontal, end=end - over)
    return _Panel(chart=chart, curves=curves, width=width, across=horizontal, up=up, named=named)


def _values_scale(values: Sequence[float], chart: Chart) -> Scale:
    low, high = min(values), max(values)
    if not chart.log_up and high - low <= 1e-9 * abs(high):  # equal but for rounding: no axis has ticks so close
        low = high
    scale = padded(low, high, chart.log_up)
    if chart.log_up:
        return scale
    # No room for what cannot be: values below 0 where none is, more than 100 %.
    least = 0.0 if low >= 0 else scale.low
    most = 1.0 if chart.percent and high <= 1 else scale.high
    return Scale(low=max(scale.low, least), high=min(scale.high, most))


def _drawn(panel: _Panel, left: float, top: float) -> str:
    """A chart with the upper left corner of its plot's panel at a place."""
    parts = [
        _words(panel.heads, "head", 0, _HEAD - panel.above, 18),
        _words(panel.labels, "", 0, 18 * len(panel.heads) - panel.above + _SMALL, 15),
    ]
    if panel.curves:
        parts += [_axes(panel)]
        parts += [_band(panel, look, series) for look, series in panel.curves]
        parts += [_curve(panel, look, series) for look, series in panel.curves]
        if panel.named:
            parts.append(_names(panel))
    else:
        parts.append(f'<text x="{panel.width / 2}" y="{_HEIGHT / 2}" text-anchor="middle">{_NOTHING}</text>')
        parts.append(f'<polyline class="axis" points="0,{_HEIGHT} {panel.width},{_HEIGHT}"/>')
    return f'<g class="chart" transform="translate({left:.1f} {top:.1f})">{"".join(parts)}</g>'


def _axes(panel: _Panel) -> str:
    left, right = panel.across.start, panel.across.end
    parts = []
    for value, label in panel.up.ticks(_line_room):
        y = panel.up.at(value)
        kind = "grid" if label else "fold"
        parts.append(f'<line class="{kind}" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_words([label], "tick-up", left - 6, y + 4, 0, "end") if label else "")
    for value, label in panel.across.ticks(_label_room):
        x = panel.across.at(value)
        kind = "grid" if label else "fold"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}"/>')
        parts.append(_words([label], "tick-across", x, _HEIGHT + 16, 0, "middle") if label else "")
    parts.append(f'<line class="axis" x1="{left:.1f}" x2="{right:.1f}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>')
    return "".join([*parts, _words(panel.feet, "", right, _HEIGHT + 33, 15, "end")])


def _label_room(label: str) -> float:
    return text_width(label, _SMALL) + 10


def _line_room(label: str) -> float:
    return _SMALL + 3


def _band(panel: _Panel, look: int, series: Series) -> str:
    """The spread around a curve: areas, or error bars for dots and for a stretch of one point."""
    parts = []
    for run in panel.chart.bands(series):
        if len(run) == 1 or series.dots:
            for x, low, high in run:
                at, bottom, top = panel.across.at(x), panel.up.at(low), panel.up.at(high)
                ends = "".join(f"M{at - 3:.1f},{y:.1f}h6" for y in (bottom, top))
                parts.append(f'<path class="error" d="M{at:.1f},{bottom:.1f}V{top:.1f}{ends}"/>')
        else:
            lows, highs = thinned([(x, low) for x, low, _ in run]), thinned([(x, high) for x, _, high in run])
            around = [panel.place(x, y) for x, y in (*highs, *reversed(lows)) if y is not None]
            parts.append(f'<polygon class="band" points="{path_text(around)}"/>')
    return f'<g class="c{look % len(LIGHT_INKS)}">{"".join(parts)}</g>' if parts else ""


def _curve(panel: _Panel, look: int, series: Series) -> str:
    found = pieces(series.points, panel.place, panel.chart.log_up)
    kind = "line dashed" if series.dashed else "line"
    parts = [f'<polyline class="{kind}" points="{path_text(piece)}"/>' for piece in found if len(piece) > 1]
    every = [place for piece in found for place in piece]
    alone = [piece[0] for piece in found if len(piece) == 1]
    marked = every if series.dots else dict.fromkeys([*alone, *_stops(every, look, panel.across), every[-1]])
    parts += [_marker(look, x, y) for x, y in marked]
    return f'<g class="series c{look % len(LIGHT_INKS)}"><title>{text(series.name)}</title>{"".join(parts)}</g>'


def _stops(places: Sequence[tuple[float, float]], look: int, across: Axis) -> list[tuple[float, float]]:
    """Three points of a line that are marked, at other places than those of other lines."""
    share = (look % len(_SHAPES) + 0.5) / len(_SHAPES)
    wanted = [across.start + (across.end - across.start) * (number + share) / 3 for number in range(3)]
    return [min(places, key=lambda place: abs(place[0] - x)) for x in wanted if x <= places[-1][0]]


def _names(panel: _Panel) -> str:
    """The name of each curve, beside its end or, where others are, joined to it by a thin line."""
    ends = []
    for look, series in panel.curves:
        x, y = [(x, y) for x, y in series.points if y is not None][-1]
        ends.append((panel.up.at(y), panel.across.at(x), look, series.name))
    ends.sort(key=lambda end: end[0])
    right, parts = panel.across.end, []
    for (y, x, look, name), at in zip(
        ends, spread_out([end[0] for end in ends], _NAME_GAP, 4, _HEIGHT - 4), strict=True
    ):
        if abs(at - y) > 2 or x < right - _LEADER:
            places = path_text([(x + 5, y), (max(x + 5, right + 3), y), (right + _LEADER - 4, at)])
            parts.append(f'<polyline class="leader c{look % len(LIGHT_INKS)}" points="{places}"/>')
        parts.append(_words([printable(name)], f"name c{look % len(LIGHT_INKS)}", right + _LEADER - 2, at + 4.3, 0))
    return "".join(parts)


def _legend(used: Sequence[tuple[int, Series]], width: float, top: float) -> tuple[str, float]:
    """The names of all series below the charts, in columns of one width, and the height that they take."""
    swatch, gap = 40, 18
    longest = max((text_width(printable(series.name), _NAME) for _, series in used), default=0)
    room = min(width, swatch + longest + 1)
    columns = max(1, int((width + gap) // (room + gap)))
    parts, y = [], top + 4
    for first in range(0, len(used), columns):
        row = used[first : first + columns]
        for number, (look, series) in enumerate(row):
            x = _EDGE + number * (room + gap)
            kind = "line dashed" if series.dashed else "line"
            line = f'<polyline class="{kind}" points="{path_text([(x, y + 8), (x + 30, y + 8)])}"/>'
            parts.append(f'<g class="c{look % len(LIGHT_INKS)}">{line}{_marker(look, x + 15, y + 8)}</g>')
            parts.append(_words(wrapped(series.name, room - swatch, _NAME), "key", x + swatch, y + 12.3, 16))
        y += 3 + 16 * max(len(wrapped(series.name, room - swatch, _NAME)) for _, series in row)
    return "".join(parts), y + 8 - top


def _words(lines: Sequence[str], kind: str, x: float, y: float, step: float, anchor: str = "") -> str:
    """Lines of text, the first one's base at a place."""
    look = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return "".join(
        f'<text{look} x="{x:.1f}" y="{y + step * number:.1f}">{text(line)}</text>' for number, line in enumerate(lines)
    )


def _marker(look: int, x: float, y: float, size: float = 3.1) -> str:
    """A marker of the series with that number; after eight, colours come again with other markers."""
    shape = _SHAPES[(look + look // len(_SHAPES)) % len(_SHAPES)]
    if not shape:
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    return f'<polygon class="dot" points="{path_text([(x + size * dx, y + size * dy) for dx, dy in shape])}"/>'
