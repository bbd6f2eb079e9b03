"""Line charts and heat maps as inline SVG, without styles of their own: page.css colours their classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from attrs import frozen

from ddfw.pipeline.report.markup import figure, text

#: Size of a line chart, and of its edges: left, right, top, bottom. Units of the SVG.
WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 24, 40
#: A line is thinned to the least and the greatest value of so many stretches.
BINS = 150
#: Colours and dashes that page.css tells apart; more lines than colours repeat them with another dash.
COLOURS, DASHES = 6, ("", "7 4", "2 3", "9 3 2 3")

Point = tuple[float, float | None]


@frozen(kw_only=True)
class Line:
    """One curve.

    Args:
        name: of the run, for the description; "" for the only line.
        points: (x, y) in the order of x; None or a non-finite y interrupts the line.
        dots: whether each point is marked, for few points.
        marked: the x that is marked, the selected step; None for no mark.
    """

    name: str = ""
    points: Sequence[Point]
    dots: bool = False
    marked: float | None = None


@frozen(kw_only=True)
class Scale:
    """Where a value lies along an axis.

    Args:
        low: the smallest value.
        high: the greatest value.
        log: whether equal factors take equal room.
    """

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """A value's place, from 0 (low) to 1 (high)."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low) if high > low else 0.5

    def folds(self, factors: Sequence[int]) -> list[float]:
        """The values within a logarithmic axis that are a power of ten times one of the factors, in ascending order.

        Args:
            factors: (1,) for powers of ten alone, of which a long axis gets every second, third, …; or (1, 2, 5).
        """
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        span = range(first, last + 1, max(1, -(-(last - first) // 6)) if len(factors) == 1 else 1)
        return [f * 10.0**e for e in span for f in factors if self.low <= f * 10.0**e <= self.high]

    def ticks(self, count: int = 4) -> list[float]:
        """Round values within the axis: powers of ten (and their 2 and 5 folds) on a logarithmic one."""
        if self.log:
            for factors in ((1,), (1, 2, 5)):
                found = self.folds(factors)
                if len(found) >= 3:
                    return found
            return found or [self.low, self.high]
        if self.high <= self.low:
            return [self.low]
        raw = (self.high - self.low) / count
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * f for f in (1, 2, 2.5, 5, 10) if size * f >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def drawn(value: float | None, *, log: bool = False) -> bool:
    """Whether a value has a place on an axis."""
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def thinned(points: Sequence[Point], bins: int = BINS) -> list[Point]:
    """At most two points of each stretch of x: its least and its greatest value, and the first and the last point.

    Gaps (values that are None or not finite) stay where a stretch holds nothing else.
    """
    if len(points) <= 2 * bins:
        return list(points)
    kept = {0, len(points) - 1}
    for number in range(bins):
        stretch = range(number * len(points) // bins, (number + 1) * len(points) // bins)
        there = [i for i in stretch if drawn(points[i][1])]
        if there:
            kept |= {min(there, key=lambda i: points[i][1] or 0.0), max(there, key=lambda i: points[i][1] or 0.0)}
        else:
            kept.add(stretch[0])
    return [points[i] for i in sorted(kept)]


def spans_decades(lines: Sequence[Line]) -> bool:
    """Whether the values are all positive and the greatest is more than twenty times the least."""
    values = [y for line in lines for _, y in line.points if y is not None and math.isfinite(y)]
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def line_chart(
    anchor: str,
    title: str,
    lines: Sequence[Line],
    *,
    log: bool = False,
    tick: Callable[[float], str] = figure,
    skipped: Sequence[float] = (),
) -> str:
    """A figure with one chart of values over outer steps.

    Args:
        anchor: an id that is unique in the page.
        title: what is drawn, as text.
        lines: the curves; each has a colour and a dash of its own, by its place.
        log: a logarithmic axis of values.
        tick: how a value is written.
        skipped: steps that changed nothing, marked along the axis.
    """
    seen = [(x, y) for line in lines for x, y in line.points if y is not None and drawn(y, log=log)]
    if not seen:
        return ""
    across = Scale(low=min(x for x, _ in seen), high=max(x for x, _ in seen))
    up = padded(min(y for _, y in seen), max(y for _, y in seen), log)

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + across.at(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up.at(y) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(across, up, place, tick)]
    for x in [s for s in dict.fromkeys(skipped) if across.low <= s <= across.high][:400]:
        at = place(x, up.low)[0]
        parts.append(
            f'<line class="skip" x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM - 6}"/>'
        )
    for index, line in enumerate(lines):
        parts.append(_curve(line, index, place, log, alone=len(lines) == 1))
    words = " ".join(filter(None, (described(line, tick, log) for line in lines)))
    said = text(words, 600) if len(lines) == 1 else ""
    kind = " <span>(logarithmic)</span>" if log else ""
    return (
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{anchor}-t {anchor}-d">'
        f'<title id="{anchor}-t">{text(title)}</title><desc id="{anchor}-d">{text(words, 2000)}</desc>{"".join(parts)}'
        f"</svg><figcaption><strong>{text(title)}</strong>{kind}<br/>{said}</figcaption></figure>"
    )


def padded(low: float, high: float, log: bool) -> Scale:
    """An axis with a little room above and below its values."""
    if log:
        factor = max((high / low) ** 0.05, 1.05)
        return Scale(low=low / factor, high=high * factor, log=True)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low=low - room, high=high + room)


def _axes(
    across: Scale, up: Scale, place: Callable[[float, float], tuple[float, float]], tick: Callable[[float], str]
) -> str:
    parts = []
    for value in up.ticks():
        y = place(across.low, value)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text(tick(value))}</text>'
        )
    for value in across.ticks(5):
        if value == int(value):
            x = place(value, up.low)[0]
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:,.0f}</text>')
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text class="unit" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">outer step</text>')
    return "".join(parts)


def pieces(
    points: Sequence[Point], place: Callable[[float, float], tuple[float, float]], log: bool
) -> list[list[tuple[float, float]]]:
    """The places of a curve's points, thinned. A value that cannot be drawn ends a piece; none is empty."""
    found: list[list[tuple[float, float]]] = [[]]
    for x, y in thinned(points):
        if y is not None and drawn(y, log=log):
            found[-1].append(place(x, y))
        elif found[-1]:
            found.append([])
    return [piece for piece in found if piece]


def path_text(places: Sequence[tuple[float, float]]) -> str:
    """Places as the attribute `points` of a polyline or a polygon."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _curve(
    line: Line, index: int, place: Callable[[float, float], tuple[float, float]], log: bool, *, alone: bool
) -> str:
    colour, dash = index % COLOURS, DASHES[index % len(DASHES)]
    look = f'class="line c{colour}"' + (f' stroke-dasharray="{dash}"' if dash else "")
    parts = []
    marked = next((point for point in line.points if point[0] == line.marked), None)
    if marked and alone:
        # The step has a place along the axis even where its value has none.
        at = place(marked[0], next(y for _, y in line.points if y is not None and drawn(y, log=log)))[0]
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        end = at > WIDTH / 2
        words = f'x="{at + (4 if end else -4):.1f}" y="{TOP - 8}" text-anchor="{"end" if end else "start"}"'
        parts.append(f'<text class="kept" {words}>step {marked[0]:,.0f} kept</text>')
    elif marked and marked[1] is not None and drawn(marked[1], log=log):
        at, y = place(marked[0], marked[1])
        parts.append(f'<circle class="ring c{colour}" cx="{at:.1f}" cy="{y:.1f}" r="5"/>')
    for piece in pieces(line.points, place, log):
        if len(piece) > 1:
            parts.append(f'<polyline {look} points="{path_text(piece)}"/>')
        if len(piece) == 1 or line.dots:
            parts += [f'<circle class="dot c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in piece[:300]]
    return "".join(parts)


def swatch(index: int) -> str:
    """A short piece of the line at a place, for a legend."""
    dash = DASHES[index % len(DASHES)]
    look = f'class="line c{index % COLOURS}"' + (f' stroke-dasharray="{dash}"' if dash else "")
    return f'<svg class="swatch" viewBox="0 0 36 10" aria-hidden="true"><polyline {look} points="1,5 35,5"/></svg>'


def _step(x: float) -> str:
    return f"step {x:,.0f}"


def described(line: Line, tick: Callable[[float], str], log: bool, at: Callable[[float], str] = _step) -> str:
    """A sentence with the first, the last and the extreme values of a curve.

    Args:
        line: its name, if it has one, begins the sentence.
        tick: how a value is written.
        log: whether values that are not positive are left out.
        at: how a place along the axis is written.
    """
    seen = [(x, y) for x, y in line.points if y is not None and drawn(y, log=log)]
    if not seen:
        return ""
    least, most = min(seen, key=lambda p: p[1]), max(seen, key=lambda p: p[1])
    start = f"{line.name}: " if line.name else ""
    if len(seen) == 1:
        return f"{start}{tick(seen[0][1])} at {at(seen[0][0])}."
    return (
        f"{start}from {tick(seen[0][1])} at {at(seen[0][0])} to {tick(seen[-1][1])} at {at(seen[-1][0])}; "
        f"least {tick(least[1])} at {at(least[0])}, most {tick(most[1])} at {at(most[0])}."
    )


def bar(fraction: float) -> str:
    """A horizontal bar for a fraction, beside a figure that says the same."""
    share = min(max(fraction, 0.0), 1.0)
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="rest" width="100" height="8"/><rect class="part" width="{100 * share:.1f}" height="8"/></svg>'
    )


def heat_map(title: str, matrix: Sequence[Sequence[int]], names: Sequence[str], *, figures: bool) -> str:
    """A square of counts, each row shaded by its share of the row's sum.

    Args:
        title: what it shows, as text.
        matrix: [m][m] counts; rows are true classes, columns predicted ones.
        names: of the m classes.
        figures: whether names and counts are written; without them it is only the small picture of a large matrix.
    """
    longest = min(11, max(map(len, names)))
    size, edge = (34, 20 + 7 * longest) if figures else (max(2, min(12, 600 // len(matrix))), 0)
    side = edge + size * len(matrix)
    parts = []
    for i, row in enumerate(matrix):
        total = sum(row) or 1
        for j, count in enumerate(row):
            x, y = edge + j * size, edge + i * size
            if count:
                kind, shade = "hit" if i == j else "miss", f"{_shade(count / total):.2f}"
                square = f'x="{x}" y="{y}" width="{size}" height="{size}"'
                parts.append(f'<rect class="{kind}" {square} fill-opacity="{shade}"/>')
            if figures and count:
                parts.append(f'<text x="{x + size / 2}" y="{y + size / 2 + 4}" text-anchor="middle">{count:,}</text>')
    for i, name in enumerate(names if figures else ()):
        word = text(name if len(name) <= 11 else name[:10] + "…")
        middle = edge + i * size + size / 2
        parts.append(f'<text x="{edge - 8}" y="{middle + 4}" text-anchor="end">{word}</text>')
        turned = f' transform="rotate(-60 {middle} {edge - 8})"' if longest > 3 else ""
        anchor = "start" if turned else "middle"
        parts.append(f'<text x="{middle}" y="{edge - 8}" text-anchor="{anchor}"{turned}>{word}</text>')
    frame = f'<rect class="frame" x="{edge}" y="{edge}" width="{side - edge}" height="{side - edge}"/>'
    room = side + (30 if figures else 0)
    return (
        f'<svg class="heat" viewBox="0 0 {room} {side}" width="{room}" height="{side}" role="img" '
        f'aria-label="{text(title)}">{"".join(parts)}{frame}</svg>'
    )


def _shade(share: float) -> float:
    """Opacity of a cell: a single confusion still shows, and text stays readable on the darkest one."""
    return 0.08 + 0.52 * share
