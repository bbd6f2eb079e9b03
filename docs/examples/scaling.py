"""Time and memory of one outer step against the number of inner steps N: ddfw and a plain loop.

python docs/examples/scaling.py --out docs/images/scaling.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charts import COLOURS, INK, Axis, Chart, Panel

from ddfw.config.catalog import component
from ddfw_plugins.commands.bench.shapes import SHAPES
from ddfw_plugins.commands.bench.suite import scaling

#: Who is drawn, with the words and the colour of the line.
WHO = {
    "yardstick": ("plain loop: every step's graph is kept", COLOURS[0]),
    "ddfw": ("ddfw: no step graph is held", COLOURS[4]),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, draws, and prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="cifar-ipc1")
    parser.add_argument("--steps", default="5,10,20,40,80", help="the Ns")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many times is taken")
    parser.add_argument("--executor", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("scaling.png"))
    given = parser.parse_args(arguments)
    steps = [int(n) for n in given.steps.split(",")]
    rows = scaling(
        component("executor", given.executor),
        SHAPES[given.shape],
        steps,
        given.repeats,
        lambda words: sys.stderr.write(f"measuring {words} …\n"),
    )
    draw(rows, steps, SHAPES[given.shape].title).save(given.out)
    sys.stdout.write(json.dumps(rows) + "\n")
    return 0


def draw(rows: Sequence[dict[str, Any]], steps: Sequence[int], title: str) -> Any:
    """Two panels: seconds, and megabytes."""
    chart = Chart(760, 360)
    # The font has no multiplication sign.
    chart.text(20, 18, title.split(", N =")[0].replace("×", "x"), 14, anchor="lm")
    for left, key, words, scale in (
        (70.0, "seconds", "seconds of one outer step", 1.0),
        (440.0, "bytes", "extra live memory at its peak, MB", 2.0**-20),
    ):
        top = max(row[key] for row in rows) * scale
        ticks = _round_ticks(top)
        panel = Panel(
            chart,
            left,
            80,
            290,
            190,
            Axis(0, max(steps) * 1.05, tuple(steps), "inner steps N"),
            Axis(0, top, ticks, ""),
        )
        panel.frame(words, [str(n) for n in steps], [f"{tick:g}" for tick in ticks])
        for who, (_, colour) in WHO.items():
            points = [panel.at(row["steps"], row[key] * scale) for row in rows if row["who"] == who]
            chart.line(points, colour, 2)
            for x, y in points:
                chart.dot(x, y, 4, colour)
    for number, (words, colour) in enumerate(WHO.values()):
        x = 70 + 370 * number
        chart.dot(x + 4, 335, 5, colour)
        chart.text(x + 16, 335, words, 12, INK, "lm")
    return chart.finished()


def _round_ticks(top: float) -> tuple[float, ...]:
    """Four to eight round numbers up to `top`."""
    step = next(s * 10.0**e for e in range(-4, 6) for s in (1, 2, 5) if top / (s * 10.0**e) <= 7)
    return tuple(step * k for k in range(int(top / step) + 1))


if __name__ == "__main__":
    sys.exit(main())
