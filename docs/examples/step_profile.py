"""Where the time of an outer step goes on a CPU: ddfw with all graphs held, with none, and the plain loop.

python docs/examples/step_profile.py --shape cifar-ipc1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from torch.profiler import ProfilerActivity, profile

from ddfw import component
from ddfw_plugins.commands.bench.shapes import BENCH_SHAPES
from ddfw_plugins.commands.bench.suite import executor_modes
from ddfw_plugins.commands.bench.work import bench_work

#: Parts of a step, by words in the names of PyTorch's operations; the first that fits takes it.
PARTS = {
    "convolution": ("conv", "bmm"),
    "normalisation": ("group_norm", "GroupNorm", "_Second"),
    "pooling": ("avg_pool", "_Halve", "_Spread"),
    "activation": ("threshold", "clamp", "relu"),
    "filling with zeros": ("fill_", "zero_"),
    "sums, products, copies": ("mul", "add", "sub", "sum", "div", "neg", "copy_", "mm", "dot", "cat", "mean"),
}
REST = "everything else"


def shares(work: Callable[[], object], repeats: int) -> tuple[dict[str, float], float]:
    """Milliseconds of each part in one call, and of all of them."""
    work()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        for _ in range(repeats):
            work()
    parts = dict.fromkeys([*PARTS, REST], 0.0)
    for entry in found.key_averages():
        part = next((p for p, words in PARTS.items() if any(word in entry.key for word in words)), REST)
        parts[part] += entry.self_cpu_time_total / 1000 / repeats
    return parts, sum(parts.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(BENCH_SHAPES), default="cifar-ipc1")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    shape, columns = BENCH_SHAPES[given.shape], {}
    executor = component("executor", "cpu")
    for mode in ("all graphs held", "no graph held"):
        plain, memory = executor_modes(executor)[mode]
        made = bench_work(shape, memory=memory)
        with plain.open(made.context) as session:
            columns[f"ddfw, {mode}"] = shares(
                lambda: session.meta_gradient(made.problem, [made.segment]),  # noqa: B023
                given.repeats,
            )
    columns["plain loop"] = shares(bench_work(shape).plain_gradient, given.repeats)
    write = sys.stdout.write
    write(f"| {shape.title}: ms of one outer step | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n")
    for part in [*PARTS, REST]:
        cells = [f"{parts[part]:.0f} ({100 * parts[part] / total:.0f} %)" for parts, total in columns.values()]
        write(f"| {part} | {' | '.join(cells)} |\n")
    write(f"| in all | {' | '.join(f'{total:.0f}' for _, total in columns.values())} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
