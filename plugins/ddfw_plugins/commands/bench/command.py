"""The command `ddfw bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ddfw import OptionError, component_flags, did_you_mean, flag_tables, option_errors_at, quiet_option, set_option
from ddfw_plugins.commands.bench.shapes import BENCH_GROUPS, BENCH_SHAPES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ddfw_plugins.commands.bench.suite import BenchRow


@click.command("bench")
@component_flags("executor")
@click.option("--only", type=click.Choice(BENCH_GROUPS), multiple=True, help="Measure only this (repeatable).")
@click.option("--shape", "shapes", multiple=True, metavar="NAME", help="Measure outer steps only in this size.")
@click.option("--pairs", type=click.IntRange(min=1), default=9, show_default=True, help="Pairs of timings per ratio.")
@set_option
@quiet_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
def bench_command(
    executor: str | None,
    only: tuple[str, ...],
    shapes: tuple[str, ...],
    pairs: int,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure ddfw against a plain trajectory-matching loop, on this machine.

    Both do the same work in turn, in one process, so that ratios hold on a busy machine, too. A ratio below 1 means
    that ddfw is faster, or takes less memory. The whole takes about twenty minutes on two cores, `--shape digits` two.

    \b
    ddfw bench --shape digits --only outer
    ddfw bench --executor cuda --json > bench.json
    """
    for name in shapes:
        if name not in BENCH_SHAPES:
            hint = did_you_mean(name, BENCH_SHAPES)
            raise click.UsageError(f"unknown shape {name!r}.{hint} Known: {', '.join(BENCH_SHAPES)}")
    if strange := [text for text in assignments if not text.startswith("executor.")]:
        raise click.UsageError(f"bench has its own work; --set takes executor.… alone, not {strange[0]}")
    from ddfw import configure, say, say_json, show_table
    from ddfw_plugins.commands.bench.suite import BENCH_SCHEMA, Benchmarks, machine

    def tick(words: str) -> None:
        if not (quiet or as_json):
            say(f"measuring {words} …", err=True)

    chosen = configure(None, flag_tables({"executor": executor}), assignments).config.executor
    with option_errors_at("executor"):
        if chosen.name in ("torchrun", "ray"):
            raise OptionError(f"bench measures one process; take cpu or cuda, not {chosen.name}")
        device, about = machine(chosen)
        sizes = [BENCH_SHAPES[name] for name in shapes or BENCH_SHAPES]
        suite = Benchmarks(executor=chosen, device=device, shapes=sizes, pairs=pairs, tick=tick)
        rows = list(suite.rows(only or BENCH_GROUPS))
    if as_json:
        record = {"schema": BENCH_SCHEMA, **about, "rows": [row.record() for row in rows]}
        say_json(record)
        return
    show_table(_table(rows, about))


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
