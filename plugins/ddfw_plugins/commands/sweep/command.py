"""The command `ddfw sweep`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import ddfw
from ddfw import data_root_option, errors_in, experts_dir_option, quiet_option
from ddfw_plugins.commands.sweep import files, runner, study, tables, trials


@click.command("sweep")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The sweep's folder; the default is runs/<file's name>.")
@experts_dir_option
@data_root_option
@click.option(
    "--on",
    default="",
    metavar="NAME",
    shell_complete=ddfw.complete_components("executor"),
    help="Executor that sends out whole trials, such as ray.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, help="Number of trials that an optuna study proposes at a time."
)
@quiet_option
@click.option("--dry-run", is_flag=True, help="List the trials, check every configuration, and stop.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
@click.pass_context
def sweep_command(
    context: click.Context,
    file: Path,
    out: Path | None,
    experts_dir: Path,
    data_root: Path | None,
    on: str,
    workers: int,
    quiet: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Try values of any settings, each combination an ordinary run, and rank them by validation accuracy.

    FILE is a TOML file with the settings that all trials share, and a [grid] of values or a [space] for optuna
    (docs/sweep.md). The same command continues an interrupted sweep. The exit code is 1 if no trial finished.

    \b
    ddfw sweep ranks.toml
    ddfw sweep ranks.toml --dry-run
    ddfw sweep ranks.toml --on ray
    """
    sweep, places = files.read(file), ddfw.Places(out=out, experts=experts_dir, data_root=data_root)
    if dry_run:
        with errors_in(str(file)):
            _dry_run(sweep, places, as_json)
        return
    say: Callable[[str], None] = (lambda text: None) if quiet else _tell
    try:
        with errors_in(str(file)):
            folder, record = runner.run(sweep, places, on=on, workers=workers, say=say, quiet=quiet or as_json)
    except KeyboardInterrupt:
        ddfw.say("ddfw: trials that ended are kept; the same command goes on", err=True)
        raise
    if as_json:
        ddfw.say_json(record)
    else:
        _show(folder, record)
    if record["best"] is None:
        context.exit(1)


def _show(folder: Path, record: dict[str, Any]) -> None:
    ddfw.show_table(tables.table(record))
    for row in record["trials"]:
        if row["number"] == record["best"]:
            accuracy = ddfw.percent(row["validation_accuracy"])
            ddfw.say(f"best: {folder / row['directory']} ({accuracy} % on validation images)")
    ddfw.say(f"written: {folder / 'sweep.json'}, {folder / 'sweep.md'}")


def _dry_run(sweep: files.Sweep, places: ddfw.Places, as_json: bool) -> None:
    planned = trials.grid(sweep, places) if sweep.method == "grid" else study.preview(sweep, places)
    rows = [
        {
            "trial": f"{trial.number:04d}",
            "parameters": files.words(trial.parameters) if not as_json else runner.plain(trial.parameters),
            "recipe": trial.recipe,
            "run": f"impossible: {trial.reason}" if trial.config is None else trial.config.title(),
            "directory": str(trial.directory),
        }
        for trial in planned
    ]
    ddfw.show_rows(rows, ("trial", "parameters", "recipe", "run"), as_json, "nothing to run")
    if more := sweep.count - len(planned):
        ddfw.say(f"and {more} more, which follow from the outcomes of these", err=True)


def _tell(text: str) -> None:
    """Says on standard error what is going on."""
    ddfw.say(*text.split("\n"), err=True)
