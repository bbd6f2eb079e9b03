"""`ddfw bench`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ddfw.cli.shared import component_flags, flag_tables, set_option

if TYPE_CHECKING:
    from ddfw_plugins.commands.bench.suite import Row

#: What can be measured; the same words as ddfw.app.bench.suite.GROUPS, which would load torch.
GROUPS = ("outer", "memory", "augment", "expert", "ensemble")


@click.command("bench")
@component_flags("executor")
@click.option("--only", type=click.Choice(GROUPS), multiple=True, help="Only this (may be given several times).")
@click.option("--shape", "shapes", multiple=True, metavar="NAME", help="Only this shape (of --only outer).")
@click.option("--pairs", type=click.IntRange(min=1), default=9, show_default=True, help="Interleaved pairs per ratio.")
@set_option
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the table.")
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

    Both do the same work in one process, in turn, so that ratios hold on a busy machine, too. Below 1 ddfw is faster,
    or takes less memory. All of it takes some twenty minutes on two cores; `--shape digits` two.

    \b
    ddfw bench --shape digits --only outer
    ddfw bench --executor cuda --json > bench.json
    """
    from ddfw.config.layers import gather
    from ddfw.config.load import structured_config
    from ddfw.errors import OptionError, did_you_mean, option_errors_at
    from ddfw_plugins.commands.bench import suite
    from ddfw_plugins.commands.bench.shapes import SHAPES

    for name in shapes:
        if name not in SHAPES:
            hint = did_you_mean(name, tuple(SHAPES))
            raise click.UsageError(f"unknown shape {name!r}.{hint} Known: {', '.join(SHAPES)}")
    if strange := [text for text in assignments if not text.startswith("executor.")]:
        raise click.UsageError(f"bench has its own work; --set takes executor.… alone, not {strange[0]}")
    chosen = structured_config(gather(None, flag_tables({"executor": executor}), assignments)).executor
    rows: list[Row] = []
    with option_errors_at("executor"):
        if chosen.name in ("torchrun", "ray"):
            raise OptionError(f"bench measures one process; take cpu or cuda, not {chosen.name}")
        about = suite.surroundings(chosen)
        sizes = [SHAPES[name] for name in shapes or SHAPES]

        def tick(words: str) -> None:
            if not (quiet or as_json):
                click.echo(f"measuring {words} …", err=True)

        rows.extend(suite.run(chosen, sizes, only or GROUPS, pairs, tick))
    if as_json:
        record = {"schema": suite.BENCH_SCHEMA, **about, "rows": [row.record() for row in rows]}
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    _show(rows, about)


def _show(rows: list[Row], about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("measured", "how"):
        grid.add_column(column)
    for column in ("ratio", "quartiles", "bound", "ddfw", "plain"):
        grid.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        style = "red" if row.kept is False else ""
        grid.add_row(f"{row.bench}, {row.shape}", row.mode, *_cells(row), style=style)
    console.print()
    console.print(grid, width=None if console.is_terminal else 120, crop=False)
    console.print()
    device = about["device"]
    threads = device.get("threads", about["cores"])
    where = device.get("gpu") or f"{about['processor']}, {threads} thread{'' if threads == 1 else 's'}"
    console.print(f"{where}; torch {about['torch']}, Python {about['python']}", highlight=False)
    console.print(
        "ratio: ddfw's seconds (memory: bytes) over the plain loop's on the same work, median of interleaved pairs",
        highlight=False,
        soft_wrap=True,
    )


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    bound = "" if row.bound is None else f"{'not ' if row.kept is False else ''}≤ {row.bound:.3g}"
    if row.ratio is None:
        assert row.bytes is not None
        mine, theirs = (f"{size / 2**20:,.0f} MB" for size in row.bytes)
        return f"{row.value:.3f}", "", bound, mine, theirs
    ratio = row.ratio
    return (
        f"{ratio.median:.3f}",
        f"{ratio.low:.2f}–{ratio.high:.2f}",
        bound,
        f"{ratio.seconds:.3g}",
        f"{ratio.reference_seconds:.3g}",
    )
