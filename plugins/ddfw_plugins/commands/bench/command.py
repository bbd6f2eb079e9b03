"""The command `ddfw bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddfw import OptionError, component_flags, did_you_mean, flag_tables, option_errors_at, quiet_option, set_option
from ddfw_plugins.commands.bench.gpu.sections import GPU_SECTIONS
from ddfw_plugins.commands.bench.shapes import BENCH_GROUPS, BENCH_SHAPES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ddfw_plugins.commands.bench.suite import BenchRow

WORDS = tuple(dict.fromkeys((*BENCH_GROUPS, *GPU_SECTIONS)))
_NAMES = f"{', '.join(BENCH_GROUPS)}; of the preset: {', '.join(GPU_SECTIONS)}"


@click.command("bench")
@component_flags("executor")
@click.option(
    "--preset", type=click.Choice(["gpu"]), help="Answer the open questions about a GPU instead, the weightiest first."
)
@click.option(
    "--only", type=click.Choice(WORDS), metavar="NAME", multiple=True, help=f"Measure only this (repeatable): {_NAMES}."
)
@click.option("--shape", "shapes", multiple=True, metavar="NAME", help="Measure outer steps only in this size.")
@click.option("--pairs", type=click.IntRange(min=1), help="Pairs of timings per ratio.  [default: 9]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Time limit of a preset.  [default: 460]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Also write a preset's rows to this new file."
)
@click.option("--pretend", is_flag=True, help="Run a preset on the CPU with tiny work, to see that it runs.")
@set_option
@quiet_option
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output: an object, or a preset's rows.")
def bench_command(
    executor: str | None,
    preset: str | None,
    only: tuple[str, ...],
    shapes: tuple[str, ...],
    pairs: int | None,
    seconds: float | None,
    out: Path | None,
    pretend: bool,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure ddfw against a plain trajectory-matching loop, on this machine.

    Both do the same work in turn, in one process, so that ratios hold on a busy machine, too. A ratio below 1 means
    that ddfw is faster, or takes less memory. The whole takes about twenty minutes on two cores, `--shape digits` two.

    The preset `gpu` asks whether a GPU's numbers are right, how fast it is in each way that the executor cuda has, and
    what it waits for. It ends by itself, and its rows are written as they come.

    \b
    ddfw bench --shape digits --only outer
    ddfw bench --executor cuda --json > bench.json
    ddfw bench --preset gpu --seconds 460 --out gpu.jsonl
    """
    _require_fitting(preset, executor, only, {"--shape": shapes, "--pairs": pairs},
                     {"--seconds": seconds, "--out": out, "--pretend": pretend})  # fmt: skip
    if strange := [text for text in assignments if not text.startswith("executor.")]:
        raise click.UsageError(f"bench has its own work; --set takes executor.… alone, not {strange[0]}")
    if preset is None:
        _compare(executor, only or BENCH_GROUPS, shapes, pairs or 9, assignments, quiet=quiet, as_json=as_json)
        return
    from ddfw_plugins.commands.bench.gpu.preset import GpuPreset
    from ddfw_plugins.commands.bench.gpu.show import show_gpu_preset

    names = only or tuple(GPU_SECTIONS)
    chosen = GpuPreset(seconds=seconds or 460, pretend=pretend, names=names, assignments=assignments)
    show_gpu_preset(chosen, out, quiet=quiet, as_json=as_json)


def _require_fitting(
    preset: str | None,
    executor: str | None,
    only: tuple[str, ...],
    of_ratios: Mapping[str, object],
    of_presets: Mapping[str, object],
) -> None:
    """Refuses options that mean nothing together.

    Raises:
        UsageError: an option of the other form of the command was given.
    """
    strange = of_ratios if preset else of_presets
    if given := [flag for flag, value in strange.items() if value]:
        wrong = f"is not for --preset {preset}" if preset else "is for presets; add --preset gpu"
        raise click.UsageError(f"{given[0]} {wrong}")
    if preset and executor not in (None, "cuda"):
        raise click.UsageError(f"--preset gpu measures the executor cuda, not {executor}")
    known = tuple(GPU_SECTIONS) if preset else BENCH_GROUPS
    if unknown := [name for name in only if name not in known]:
        whose = f"part of --preset {preset}" if preset else "measured without --preset gpu"
        raise click.UsageError(f"--only {unknown[0]} is not {whose}. Known: {', '.join(known)}")


def _compare(
    executor: str | None,
    groups: Sequence[str],
    shapes: Sequence[str],
    pairs: int,
    assignments: tuple[str, ...],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measures ratios to the plain loop and prints each as it comes, then all of them."""
    for name in shapes:
        if name not in BENCH_SHAPES:
            hint = did_you_mean(name, BENCH_SHAPES)
            raise click.UsageError(f"unknown shape {name!r}.{hint} Known: {', '.join(BENCH_SHAPES)}")
    from ddfw import configure, say, say_json, show_table
    from ddfw_plugins.commands.bench.suite import BENCH_SCHEMA, Benchmarks, machine

    def tell(words: str) -> None:
        if not (quiet or as_json):
            say(words, err=True)

    chosen = configure(None, flag_tables({"executor": executor}), assignments).config.executor
    rows: list[BenchRow] = []
    with option_errors_at("executor"):
        if chosen.name in ("torchrun", "ray"):
            raise OptionError(f"bench measures one process; take cpu or cuda, not {chosen.name}")
        device, about = machine(chosen)
        sizes = [BENCH_SHAPES[name] for name in shapes or BENCH_SHAPES]
        suite = Benchmarks(
            executor=chosen, device=device, shapes=sizes, pairs=pairs, tick=lambda words: tell(f"measuring {words} …")
        )
        try:
            for row in suite.rows(groups):
                rows.append(row)
                tell(_row_line(row))
        finally:  # what was measured is not lost when a later measurement fails or is interrupted
            if rows and not as_json:
                show_table(_table(rows, about))
    if as_json:
        say_json({"schema": BENCH_SCHEMA, **about, "rows": [row.record() for row in rows]})


def _row_line(row: BenchRow) -> str:
    """A row in one line, for people who watch."""
    what, how, ratio, quartiles, bound, ours, plain = _cells(row)
    unit = "" if row.bytes is not None else " s"
    spread = "; ".join(filter(None, (quartiles, bound)))
    return f"{what}, {how}: {ratio}{f' ({spread})' if spread else ''}, {ours}{unit} against {plain}{unit}"


def _table(rows: list[BenchRow], about: dict[str, Any]) -> RenderableType:
    """The rows as a table for a terminal, broken bounds in red, with notes on the machine."""
    from rich.text import Text

    from ddfw import text_table

    lines = [[Text(cell, "red" if row.kept is False else "") for cell in _cells(row)] for row in rows]
    threads = about["device"].get("threads", about["cores"])
    where = about["device"].get("gpu") or f"{about['processor']}, {threads} thread{'' if threads == 1 else 's'}"
    notes = [
        f"{where}; torch {about['torch']}, Python {about['python']}",
        "ratio: ddfw's seconds (memory: bytes) over the plain loop's on the same work, median of interleaved pairs",
    ]
    figures = ("ratio", "quartiles", "bound", "ddfw", "plain")
    return text_table(("measured", "how", *figures), lines, notes, ("measured", "how"), figures)


def _cells(row: BenchRow) -> tuple[str, ...]:
    bound = "" if row.bound is None else f"{'not ' if row.kept is False else ''}≤ {row.bound:.3g}"
    first = (f"{row.bench}, {row.shape}", row.mode, f"{row.value:.3f}")
    if row.bytes is not None:
        return *first, "", bound, *(f"{size / 2**20:,.0f} MB" for size in row.bytes)
    assert row.ratio is not None
    quartiles = f"{row.ratio.low:.2f}–{row.ratio.high:.2f}"
    return *first, quartiles, bound, f"{row.ratio.seconds:.3g}", f"{row.ratio.reference_seconds:.3g}"
