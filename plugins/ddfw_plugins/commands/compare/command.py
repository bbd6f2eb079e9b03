"""The command `ddfw compare`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

import ddfw
from ddfw import data_root_option, experts_dir_option, max_time_option, quiet_option
from ddfw_plugins.commands.compare import files, runner, tables


@click.command("compare")
@click.argument("comparison", metavar="NAME|FILE", shell_complete=ddfw.complete_comparisons)
@click.option("--only", multiple=True, metavar="VARIANT", help="Run only this variant (may be given several times).")
@click.option("--seeds", metavar="A,B,C", help="Run seeds to use instead of the file's.")
@click.option("--out", type=click.Path(path_type=Path), help="The comparison's folder; the default is runs/<name>.")
@experts_dir_option
@data_root_option
@max_time_option
@quiet_option
@click.option("--dry-run", is_flag=True, help="Check every variant, list the runs, and stop.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
def compare_command(
    comparison: str,
    only: tuple[str, ...],
    seeds: str | None,
    out: Path | None,
    experts_dir: Path,
    data_root: Path | None,
    max_time: float | None,
    quiet: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run several ways to distil at equal cost, and compare them over run seeds.

    A comparison is a TOML file with the settings that all variants share, and those that each changes. Comparisons that
    ship with ddfw have names. Finished runs are not run again, so the same command continues an interrupted comparison.

    \b
    ddfw compare fashionmnist-ipc1 --data-root DATA
    ddfw compare mine.toml --only pixel-mtt --only lss-mct --seeds 0,1,2
    """
    whole = files.read(comparison)
    chosen = files.chosen(whole, only, ddfw.seed_numbers(seeds))
    places = ddfw.Places(out=out, experts=experts_dir, data_root=data_root)
    if dry_run:
        _dry_run(runner.jobs(chosen, places), as_json)
        return
    say: Callable[[str], None] = (lambda line: None) if quiet else partial(click.echo, err=True)
    folder, record = runner.run(whole, chosen, places, say=say, quiet=quiet or as_json, max_seconds=max_time)
    if as_json:
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    ddfw.show_table(tables.table(record))
    click.echo(f"written: {folder / 'comparison.json'}, {folder / 'comparison.md'}")


def _dry_run(jobs: Sequence[runner.Job], as_json: bool) -> None:
    rows = [
        {
            "variant": job.variant.name,
            "seed": job.config.run.seed,
            "run": job.config.title(),
            "outer steps": job.config.outer.steps,
            "directory": str(job.places.out),
        }
        for job in jobs
    ]
    ddfw.show_rows(rows, ("variant", "seed", "outer steps", "run"), as_json, "nothing to run")
