"""How the examples' charts look, with matplotlib; nothing here knows what is drawn."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

GREY, PALE = "#8a8a8a", "#e4e4e4"
#: Colours that people who do not tell red from green tell apart (Okabe and Ito).
COLOURS = (GREY, "#e69f00", "#56b4e9", "#cc79a7", "#d55e00", "#009e73", "#0072b2")
#: Points on a line, or alone: filled circles with a white rim.
DOTS: dict[str, Any] = {"marker": "o", "markeredgecolor": "white", "clip_on": False}


def panels(width: int, height: int, count: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many pixels when it is saved, with panels side by side."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    grid = figure.subplots(1, count, squeeze=False)
    for axes in grid.flat:
        axes.grid(color=PALE)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(GREY)
        axes.tick_params(length=0, labelcolor=GREY, labelsize=8)
    return figure, list(grid.flat)


def named(axes: Axes, title: str, across: str, up: str = "") -> None:
    """The panel's title, below it what its heights are, and what runs across."""
    axes.set_title(title, loc="left", fontsize=9, pad=22 if up else 8)
    axes.set_xlabel(across, loc="right", fontsize=8, color=GREY)
    axes.text(0, 1.02, up, transform=axes.transAxes, fontsize=8, color=GREY)


def in_percent(*sides: Any) -> None:
    """Shows an axis' fractions as percent without a sign, at round numbers."""
    for axis in sides:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda value, position: f"{100 * value:g}")
