"""`ddfw gradient`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from ddfw.cli.shared import component_flags, data_root_option, experts_dir_option, flag_tables, set_option


@click.command("gradient")
@click.argument("recipe", required=False, metavar="[RECIPE|FILE]")
@component_flags("data", "model", "augment", "param", "traj", "labels", "loss", "executor")
@click.option("--steps", default="10,20,50", show_default=True, help="Numbers of student steps N.")
@click.option("--step-sizes", default="0.01,0.05,0.1", show_default=True, help="Step sizes a.")
@click.option("--draws", type=click.IntRange(min=1), default=5, show_default=True, help="Segments of each row.")
@experts_dir_option
@data_root_option
@set_option
@click.option("-q", "--quiet", is_flag=True, help="No progress, only the table.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
def gradient_command(
    recipe: str | None,
    steps: str,
    step_sizes: str,
    draws: int,
    experts_dir: Path,
    data_root: Path | None,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **components: str | None,
) -> None:
    """Measure how far TESLA's approximate meta-gradient is from the exact one.

    Both are computed in float64 on the configuration's experts and initial synthetic set, for students that start
    early and late on the experts' paths.

    \b
    ddfw gradient --data digits --param pixel --traj mtt --labels hard
    """
    from ddfw.config.layers import gather
    from ddfw.config.load import structured_config
    from ddfw_plugins.commands.gradient.measure import COLUMNS, compare, lines

    config = structured_config(gather(recipe, flag_tables(components), assignments))
    numbers = [int(n) for n in _numbers("--steps", steps)]
    record = compare(
        config,
        experts_dir,
        data_root,
        numbers,
        _numbers("--step-sizes", step_sizes),
        draws,
        quiet=quiet or as_json,
    )
    if as_json:
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in COLUMNS:
        grid.add_column(column, justify="right")
    for cells in lines(record):
        grid.add_row(*cells)
    console = Console()
    console.print(f"{record['run']}: TESLA's gradient over {record['images']} images against the exact one, float64")
    console.print(f"{record['experts']} experts of {record['epochs']} epochs; means over {draws} segments")
    console.print(grid)


def _numbers(flag: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    whole = flag == "--steps"
    if not found or not all(math.isfinite(n) and n > 0 and (not whole or n == int(n)) for n in found):
        kind = "whole numbers such as 10,20,50" if whole else "numbers such as 0.01,0.1"
        raise click.UsageError(f"{flag} wants {kind}, all above 0; got {text!r}")
    return found
