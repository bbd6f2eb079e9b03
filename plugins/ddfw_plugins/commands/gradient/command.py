"""The command `ddfw gradient`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ddfw import (
    complete_starts,
    component_flags,
    data_root_option,
    experts_dir_option,
    flag_tables,
    quiet_option,
    set_option,
)

F = TypeVar("F", bound=Callable[..., Any])
#: The columns of numbers: key in JSON, heading, number of decimals.
_FIGURES = (
    *(("loss", "loss", 3), ("cosine", "cosine", 3), ("norm_ratio", "norm ratio", 2)),
    *(("relative_error", "relative error", 2), ("step_size_ratio", "∂a ratio", 2)),
)


def _numbers_option(flag: str, kind: type[int] | type[float], default: str, about: str) -> Callable[[F], F]:
    """A click option whose value is numbers above 0, separated by commas."""

    def parse(context: click.Context, parameter: click.Parameter, text: str) -> list[float]:
        try:
            found = [kind(part) for part in text.split(",")]
        except ValueError:
            found = []
        if not found or not all(0 < number < math.inf for number in found):
            whole = "whole " if kind is int else ""
            raise click.BadParameter(f"expected {whole}numbers above 0 such as {default}, got {text!r}")
        return found

    return click.option(flag, default=default, show_default=True, callback=parse, help=about)


@click.command("gradient")
@click.argument("recipe", required=False, metavar="[RECIPE|FILE]", shell_complete=complete_starts)
@component_flags("data", "model", "augment", "param", "traj", "labels", "loss", "executor")
@_numbers_option("--steps", int, "10,20,50", "Numbers N of student steps to try.")
@_numbers_option("--step-sizes", float, "0.01,0.05,0.1", "Student step sizes a to try.")
@click.option("--draws", type=click.IntRange(min=1), default=5, show_default=True, help="Segments in each row.")
@experts_dir_option
@data_root_option
@set_option
@quiet_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
def gradient_command(
    recipe: str | None,
    steps: list[int],
    step_sizes: list[float],
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
    from ddfw import Places, configure, plan, say, say_json, show_table, text_table
    from ddfw_plugins.commands.gradient.measure import compare_gradients

    config = configure(recipe, flag_tables(components), assignments).config
    made = plan(config, Places(experts=experts_dir, data_root=data_root))
    record = compare_gradients(made, steps, step_sizes, draws, quiet=quiet or as_json)
    if as_json:
        say_json(record)
        return
    say(f"{record['run']}: TESLA's gradient over {record['images']} images against the exact one, float64")
    say(f"{record['experts']} experts of {record['epochs']} epochs; means over {draws} segments")
    headings = ("start", "N", "a", *(heading for _, heading, _ in _FIGURES), "∂a sign wrong")
    show_table(text_table(headings, [_cells(row, draws) for row in record["rows"]], [], ("start",)))


def _cells(row: Mapping[str, Any], draws: int) -> Sequence[str]:
    figures = ("–" if row[key] is None else f"{row[key]:.{digits}f}" for key, _, digits in _FIGURES)
    wrong = "–" if row["step_size_wrong_sign"] is None else f"{row['step_size_wrong_sign']}/{draws}"
    return row["start"], str(row["N"]), f"{row['a']:g}", *figures, wrong
