"""Small charts with Pillow: axes in percent, points with numbers, lines with names."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field, frozen
from PIL import Image, ImageDraw, ImageFont

#: Everything is drawn this many times too large and shrunk in the end, so that edges are smooth.
FINE = 3
INK, GREY, PALE = "#222222", "#8a8a8a", "#e4e4e4"
#: Colours that people who do not tell red from green tell apart (Okabe and Ito).
COLOURS = ("#8a8a8a", "#e69f00", "#56b4e9", "#cc79a7", "#d55e00", "#009e73")


@frozen
class Axis:
    """Fractions from `low` to `high`, with ticks, and what they are."""

    low: float
    high: float
    ticks: tuple[float, ...]
    title: str

    @classmethod
    def percent(cls, values: Sequence[float], title: str, room: float = 0.06) -> Axis:
        """Round percents around the values, with some room at both ends."""
        spread = max(max(values) - min(values), 0.02)
        low, high = max(0.0, min(values) - room * spread), min(1.0, max(values) + room * spread)
        step = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 6), 0.2)
        first = -int(-low / step // 1)
        ticks = tuple(step * k for k in range(first, int(high / step + 1e-9) + 1))
        return cls(low, high, ticks, title)


@define
class Chart:
    """An image with panels, in points of the finished picture."""

    width: int
    height: int
    _image: Image.Image = field(init=False)
    _draw: ImageDraw.ImageDraw = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._image = Image.new("RGB", (self.width * FINE, self.height * FINE), "white")
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1.0) -> None:
        """Straight lines from point to point."""
        self._draw.line([(x * FINE, y * FINE) for x, y in points], colour, round(width * FINE), joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        """A filled circle with a white rim."""
        box = [(x - radius) * FINE, (y - radius) * FINE, (x + radius) * FINE, (y + radius) * FINE]
        self._draw.ellipse(box, fill=colour, outline="white", width=FINE)

    def text(self, x: float, y: float, words: str, size: float = 12, colour: str = INK, anchor: str = "mm") -> None:
        """Words at a point, which `anchor` says the place of, as in Pillow."""
        font = ImageFont.load_default(size * FINE)
        self._draw.text((x * FINE, y * FINE), words, fill=colour, font=font, anchor=anchor)

    def finished(self) -> Image.Image:
        """The picture in its size."""
        return self._image.resize((self.width, self.height), Image.Resampling.LANCZOS)


@frozen
class Panel:
    """A rectangle of a chart with two axes."""

    chart: Chart
    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pair of values lies in the chart."""
        across = (x - self.x.low) / (self.x.high - self.x.low)
        up = (y - self.y.low) / (self.y.high - self.y.low)
        return self.left + across * self.width, self.top + (1 - up) * self.height

    def frame(self, title: str, names: Sequence[str] = (), heights: Sequence[str] = ()) -> None:
        """Grid, ticks and titles; `names` and `heights` stand at the x and y ticks in place of percents."""
        right, bottom = self.left + self.width, self.top + self.height
        for number, tick in enumerate(self.x.ticks):
            at = self.at(tick, self.y.low)[0]
            self.chart.line([(at, self.top), (at, bottom)], PALE)
            self.chart.text(at, bottom + 12, names[number] if names else f"{100 * tick:.0f}", 11, GREY)
        for number, tick in enumerate(self.y.ticks):
            at = self.at(self.x.low, tick)[1]
            self.chart.line([(self.left, at), (right, at)], PALE)
            self.chart.text(self.left - 7, at, heights[number] if heights else f"{100 * tick:.0f}", 11, GREY, "rm")
        self.chart.line([(self.left, self.top), (self.left, bottom), (right, bottom)], GREY)
        self.chart.text(self.left, self.top - 30, title, 14, anchor="lm")
        self.chart.text(self.left, self.top - 11, self.y.title, 11, GREY, "lm")
        self.chart.text(right, bottom + 29, self.x.title, 11, GREY, "rm")
