"""Time and memory of one outer step against the number of inner steps N: ddfw and a plain loop.

python docs/examples/scaling.py --out docs/images/scaling.png
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from charts import COLOURS, DOTS, named, panels
from matplotlib.figure import Figure

from ddfw import AbstractExecutor, component
from ddfw_plugins.commands.bench.shapes import BENCH_SHAPES, BenchShape
from ddfw_plugins.commands.bench.suite import executor_modes, live_bytes, machine
from ddfw_plugins.commands.bench.timing import seconds_of
from ddfw_plugins.commands.bench.work import bench_work

#: Who is drawn, with the words and the colour of the line.
WHO = {
    "yardstick": ("plain loop: every step's graph is kept", COLOURS[0]),
    "ddfw": ("ddfw: no step graph is held", COLOURS[4]),
}


def measured(executor: AbstractExecutor, shape: BenchShape, steps: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Seconds and extra live bytes of one outer step for several N: no graph held, and the plain loop.

    Args:
        executor: whose session is measured; steps are not compiled.
        shape: of the work.
        steps: the Ns.
        repeats: the median of so many times is taken.
    """
    device, _ = machine(executor)
    plain, memory = executor_modes(executor)["no graph held"]
    rows = []
    for count in steps:
        sys.stderr.write(f"measuring N = {count} …\n")
        work = bench_work(shape, steps=count, memory=memory, device=device)
        with plain.open(work.context) as session:
            sides: dict[str, Callable[[], object]] = {
                "ddfw": lambda: session.meta_gradient(work.problem, [work.segment]),  # noqa: B023
                "yardstick": work.plain_gradient,
            }
            for who, side in sides.items():
                size = live_bytes(side, device)
                seconds = statistics.median(seconds_of(side, device) for _ in range(repeats))
                rows.append({"who": who, "steps": count, "seconds": seconds, "bytes": size})
    return rows


def picture(rows: Sequence[dict[str, Any]], steps: Sequence[int], title: str) -> Figure:
    """Two panels: seconds, and megabytes."""
    figure, axes = panels(760, 360, 2)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    for panel, key, words, scale in (
        (axes[0], "seconds", "seconds of one outer step", 1.0),
        (axes[1], "bytes", "extra live memory at its peak, MB", 2.0**-20),
    ):
        named(panel, words, "inner steps N")
        panel.set_xticks(steps)
        for who, (label, colour) in WHO.items():
            heights = [row[key] * scale for row in rows if row["who"] == who]
            panel.plot(steps, heights, color=colour, label=label, linewidth=2, **DOTS)
        panel.set_xlim(0)
        panel.set_ylim(0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, draws, and prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(BENCH_SHAPES), default="cifar-ipc1")
    parser.add_argument("--steps", default="5,10,20,40,80", help="the Ns")
    parser.add_argument("--repeats", type=int, default=3, help="the median of so many times is taken")
    parser.add_argument("--executor", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("scaling.png"))
    given = parser.parse_args(arguments)
    shape, steps = BENCH_SHAPES[given.shape], [int(n) for n in given.steps.split(",")]
    rows = measured(component("executor", given.executor), shape, steps, given.repeats)
    picture(rows, steps, shape.title.split(", N =")[0]).savefig(given.out)
    sys.stdout.write(json.dumps(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
