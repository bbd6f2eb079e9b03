"""`ddfw run`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddfw.cli.completion_words import complete_runs, complete_starts
from ddfw.cli.duration import max_time_option
from ddfw.cli.output import console, say, say_json
from ddfw.cli.shared import (
    cache_option,
    component_flags,
    cross_option,
    data_root_option,
    download_option,
    experts_dir_option,
    flag_tables,
    flags_named,
    plugin_option,
    quiet_option,
    seed_numbers,
    set_option,
    setting_option,
)
from ddfw.config.catalog import as_table
from ddfw.config.load import configure, refuse_unknown_components
from ddfw.errors import ConfigError
from ddfw.kinds import KINDS

if TYPE_CHECKING:
    from ddfw.config.layers import Settings
    from ddfw.config.load import Configured
    from ddfw.config.run_config import RunConfig
    from ddfw.contracts.observer import AbstractObserver
    from ddfw.pipeline.runner import Places
    from ddfw.pipeline.stages import RunResult


@click.command("run")
@click.argument("recipe", required=False, metavar="[RECIPE|FILE]", shell_complete=complete_starts)
@component_flags(*(kind.id for kind in KINDS))
@setting_option("--ipc", "budget.ipc", least=1, help="Images per class that the budget would store as pixels.")
@setting_option("--seed", "run.seed", least=0, help="Seed of the run; experts and evaluation have their own.")
@click.option("--seeds", metavar="A,B,C", help="Several runs, one for each seed, and their mean ± std.")
@cross_option
@setting_option(
    "--init-from",
    "outer.init_from",
    metavar="RUN|PATH",
    shell_complete=complete_runs,
    callback=lambda ctx, param, start: start and str(Path(start).resolve()),  # the run's config.toml holds anywhere
    help="Start from this set and not from real images.",
)
@plugin_option
@click.option("--quick", is_flag=True, help="Scale everything down that no flag says, to minutes on two cores.")
@click.option("--out", type=click.Path(path_type=Path), help="The run directory (with --seeds: its parent).")
@experts_dir_option
@data_root_option
@download_option
@set_option
@cache_option
@max_time_option
@click.option("--json", "as_json", is_flag=True, help="JSON Lines on standard output, the last with the summary.")
@quiet_option
@click.option("--print-config", is_flag=True, help="Print the resolved configuration with its origins and stop.")
@click.option("--dry-run", is_flag=True, help="Check everything, predict time and memory, and stop.")
def run_command(
    recipe: str | None,
    seeds: str | None,
    quick: bool,
    out: Path | None,
    experts_dir: Path,
    data_root: Path | None,
    download: bool,
    assignments: tuple[str, ...],
    cached: bool,
    max_time: float | None,
    as_json: bool,
    quiet: bool,
    print_config: bool,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Distil a data set.

    Settings come from a RECIPE that ships with ddfw or a FILE (a run's config.toml, say), then from flags, then from
    --set. Without a name, the recipe is chosen by data, ipc, param and traj.

    \b
    ddfw run --param lss --traj mct
    ddfw run --param pixel --traj mtt --labels hard --seeds 0,1,2
    ddfw run --data npz --set data.path=mine.npz --set model.width=64 --dry-run
    ddfw run lss-mct-cifar10-ipc1 --quick --data-root ~/data
    """
    until = None if max_time is None else time.monotonic() + max_time
    tables = flag_tables(flags)
    if seeds is not None and flags["run__seed"] is not None:
        raise click.UsageError("--seed and --seeds exclude each other")
    numbers = seed_numbers(seeds)
    with flags_named():
        refuse_unknown_components(recipe, tables, assignments)
    from ddfw.pipeline import runner  # after what can be refused without torch

    if download and not dry_run:
        runner.download_data(configure(recipe, tables, assignments).config, data_root)
    with flags_named():
        made = configure(recipe, tables, assignments, data_root, quick=quick)
    config, settings = made.config, made.settings
    places = runner.Places(out=out, experts=experts_dir, data_root=data_root, known_rows=cached)
    if made.changes:
        say(*_in_lines("quick: ", made.changes), err=True)
    try:
        if print_config:
            _print_config(config, settings)
        elif dry_run:
            _dry_run(config, places, as_json)
        elif numbers:
            _run_seeds(made, places, numbers, quiet, as_json, until)
        else:
            _show(_run(made, places, quiet, as_json, until), as_json)
    except ConfigError as error:  # what does not fit the data is found late, and may stand in the file all the same
        raise settings.located(error) from error


def _in_lines(head: str, items: Sequence[str]) -> list[str]:
    """Items separated by semicolons, as many on a line as fit, below one another."""
    width = min(shutil.get_terminal_size((110, 24)).columns, 110)
    lines = [head + items[0]]
    for item in items[1:]:
        if len(lines[-1]) + len(item) + 2 > width:
            lines[-1] += ";"
            lines.append(" " * len(head) + item)
        else:
            lines[-1] += f"; {item}"
    return lines


def _print_config(config: RunConfig, settings: Settings) -> None:
    from ddfw.config.toml import toml_text

    say(f"# {config.title()}")
    say(*toml_text(as_table(config), lambda path: settings.origins.get(path, "")).splitlines())


def _dry_run(config: RunConfig, places: Places, as_json: bool) -> None:
    from ddfw.forecast.dry_run import forecast_lines, forecast_record, outlined

    def measuring(notes: Sequence[str]) -> None:
        for note in notes:
            say(f"note: {note}", err=True)
        say("measuring short steps, for some seconds …", err=True)

    facts, forecast = outlined(config, places, None if as_json else measuring)
    if as_json:
        say_json({**facts, **forecast_record(forecast)})
        return
    told = {key.replace("_", " "): value for key, value in facts.items() if key not in ("schema", "notes")}
    for key, value in {**told, **forecast_lines(forecast)}.items():
        say(f"{key:<20} {value}")


def _run(
    made: Configured, places: Places, quiet: bool, as_json: bool, until: float | None, *, first: bool = True
) -> Any:
    """One run; the first one of a command gets somewhere, however short the time."""
    from ddfw.artifacts import atomic
    from ddfw.pipeline.runner import run

    atomic.require_room(places.out or Path("runs"))
    stream = json_observers() if as_json else []
    left = None if until is None else until - time.monotonic()
    if left is not None and first:
        left = max(left, 1e-3)
    result = run(made.config, places, stream, quiet=quiet or as_json, max_seconds=left, origins=made.settings.origins)
    _say_finished(result, as_json=as_json)
    return result


def json_observers() -> list[tuple[str, AbstractObserver]]:
    """The observers of `--json`: every report as a line of JSON on standard output."""
    from ddfw.pipeline.observers import JsonStream

    return [("--json", JsonStream(stream=sys.stdout))]


def _say_finished(result: RunResult, *, as_json: bool) -> None:
    from ddfw.pipeline.observers import JsonStream

    if result.already_finished:
        say(f"{result.directory} holds this run, finished; nothing to do", err=True)
        if as_json:
            JsonStream(stream=sys.stdout).repeat(result.directory, result.summary.to_json())


def show_result(result: RunResult, *, as_json: bool) -> None:
    """Prints the table of a run, as `ddfw run` does.

    Args:
        result: the run.
        as_json: the lines of JSON were printed already, so that no table is.
    """
    _say_finished(result, as_json=as_json)
    _show(result, as_json)


def _show(result: RunResult, as_json: bool) -> None:
    from ddfw.pipeline.report.tables import table

    if as_json:
        return
    screen = console()
    screen.print()
    screen.print(table(result.summary))
    screen.print(f"picture: {result.directory / 'images' / 'synthetic.png'}", highlight=False, soft_wrap=True)
    if (page := result.directory / "report.html").is_file():
        screen.print(f"page:    {page}", highlight=False, soft_wrap=True)


def _run_seeds(
    made: Configured, places: Places, numbers: list[int], quiet: bool, as_json: bool, until: float | None
) -> None:
    from attrs import evolve

    from ddfw.pipeline.report.summary import over_seeds
    from ddfw.pipeline.report.tables import seeds_table

    summaries, first = [], True
    for number in numbers:
        one = evolve(made, config=evolve(made.config, run=evolve(made.config.run, seed=number)))
        place = evolve(places, out=None if places.out is None else places.out / f"seed-{number}")
        result = _run(one, place, quiet, as_json, until, first=first)
        first = first and result.already_finished
        _show(result, as_json)
        summaries.append(result.summary)
    if as_json:
        record = {"schema": 1, "event": "seeds_finished", "seeds": numbers, "rows": over_seeds(summaries)}
        say_json(record)
    else:
        screen = console()
        screen.print()
        screen.print(seeds_table(summaries))
