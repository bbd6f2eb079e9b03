"""Where ticks, names and lines of text find room in a picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from attrs import frozen

from ddfw.pipeline.report.charts import Scale
from ddfw.plain import printable

#: First digits of the ticks of a logarithmic axis, in the order in which they get a label.
_ORDERS = ("125", "512", "251")


@frozen(kw_only=True)
class Axis:
    """Where the values of an axis lie in a picture.

    Args:
        scale: its values.
        start: the place of the least value.
        end: the place of the greatest value.
        percent: whether values are fractions that are written as percent.
        whole: whether only whole numbers get a tick, if there are any.
    """

    scale: Scale
    start: float
    end: float
    percent: bool = False
    whole: bool = False

    def at(self, value: float) -> float:
        """A value's place; what is below the axis lies at its least value."""
        return self.start + self.scale.at(max(value, self.scale.low)) * (self.end - self.start)

    def ticks(self, room: Callable[[str], float]) -> list[tuple[float, str]]:
        """Round values and their labels, as many as find room; on a logarithmic axis some have an empty label.

        Args:
            room: what a label takes along the axis.
        """
        tried = [self._clear(values, room) for values in self._candidates()]
        return max(tried, key=lambda ticks: (sum(bool(label) for _, label in ticks), all(label for _, label in ticks)))

    def _candidates(self) -> list[list[float]]:
        """Sets of round values that may be the ticks, the most welcome first; in a set those that need a label most."""
        folds = self.scale.folds((1, 2, 5)) if self.scale.log else []
        if len(folds) > 16:
            folds = self.scale.folds((1,))
        if len(folds) >= 2:
            return [[v for digit in order for v in folds if f"{v:.0e}"[0] == digit] for order in _ORDERS]
        plain = Scale(low=self.scale.low, high=self.scale.high)
        found = [plain.ticks(count) for count in (6, 5, 4, 3, 2)]
        return [[v for v in values if v == int(v)] or values for values in found] if self.whole else found

    def _clear(self, values: Sequence[float], room: Callable[[str], float]) -> list[tuple[float, str]]:
        """Each value with its label, which is empty where it would touch that of a value before it in the list."""
        ordered, kept = sorted(values), list[float]()
        labels = dict(zip(ordered, tick_labels(ordered, self.percent), strict=True))
        for value in values:
            if all(abs(self.at(value) - self.at(k)) > (room(labels[value]) + room(labels[k])) / 2 for k in kept):
                kept.append(value)
        return [(value, labels[value] if value in kept else "") for value in ordered]


def tick_labels(values: Sequence[float], percent: bool = False) -> list[str]:
    """The values of the ticks of one axis, alike: thousands separated, or powers of ten for large and small ones."""
    sizes = [abs(value) for value in values if value]
    if percent:
        shown, end = [100 * value for value in values], " %"
    elif sizes and (max(sizes) >= 1e7 or min(sizes) < 1e-4):
        return [_power(value) if value else "0" for value in values]
    else:
        shown, end = list(values), ""
    # As many decimals as the value that needs most, where ticks are evenly spaced; as its own on a logarithmic axis.
    decimals = [next((d for d in range(9) if abs(round(v, d) - v) <= 1e-6 * abs(v)), 9) for v in shown]
    even = len(values) < 3 or abs(values[0] - 2 * values[1] + values[2]) < 1e-6 * abs(values[2] - values[0])
    if even:
        decimals = [max(decimals)] * len(values)
    return [f"{v:,.{d}f}{end}".replace("-", "−") for v, d in zip(shown, decimals, strict=True)]


def _power(value: float) -> str:
    factor, exponent = f"{value:.2e}".split("e")
    factor = factor.rstrip("0").rstrip(".")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{'' if factor == '1' else factor + '·'}10{raised}".replace("-", "−")


def text_width(words: str, size: float) -> float:
    """About how wide a text is in an ordinary sans serif font, rather too much than too little."""
    widths = (
        1.0
        if unicodedata.east_asian_width(c) in "WF"
        else 0.34
        if c in " .,:;'|!()[]ijlt"
        else 0.88
        if c in "mwMW@%−+=<>×"
        else 0.68
        if c.isupper()
        else 0.6
        for c in words
    )
    return size * sum(widths)


def wrapped(words: str, width: float, size: float) -> list[str]:
    """A text in lines that are at most so wide; a longer word is broken."""
    lines: list[str] = []
    for word in printable(words, 1500).split(" "):
        joined = f"{lines[-1]} {word}" if lines else word
        if text_width(joined, size) <= width:
            lines[-1:] = [joined]
            continue
        lines.append("")
        for character in word:
            if text_width(lines[-1] + character, size) > width:
                lines.append("")
            lines[-1] += character
    return [line for line in lines if line]


def balanced(words: str, width: float, size: float) -> list[str]:
    """A title in as few lines as `wrapped` makes, but of about one length."""
    lines = wrapped(words, width, size)
    tried = (wrapped(words, width * share / 20, size) for share in range(10, 20))
    return next((even for even in tried if len(even) <= len(lines)), lines)


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places between low and high that are `gap` apart or more, in the order of the wanted ones and close to them.

    Args:
        wanted: in ascending order.
        gap: between neighbours.
        low: the least place.
        high: the greatest place; it is exceeded where there is no room.
    """
    # Without the gaps, places may only ascend: neighbours that do not are moved together to their mean.
    groups: list[tuple[float, int]] = []
    for number, place in enumerate(wanted):
        total, count = place - number * gap, 1
        while groups and groups[-1][0] / groups[-1][1] > total / count:
            total, count = total + groups[-1][0], count + groups[-1][1]
            groups.pop()
        groups.append((total, count))
    last = max(low, high - gap * (len(wanted) - 1))
    means = [total / count for total, count in groups for _ in range(count)]
    return [min(max(mean, low), last) + number * gap for number, mean in enumerate(means)]
