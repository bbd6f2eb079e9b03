"""The command `ddfw compare`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

import ddfw
from ddfw import data_root_option, experts_dir_option, max_time_option, quiet_option
from ddfw_plugins.commands.compare import files, jobs, runner, tables


@click.command("compare")
@click.argument("comparisons", metavar="NAME|FILE", nargs=-1, required=True, shell_complete=ddfw.complete_comparisons)
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
    comparisons: tuple[str, ...],
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
    ship with ddfw have names. Finished runs are not run again, so the same command continues an interrupted comparison,
    and the same command in a second terminal shares the runs. Tables and a picture are made anew after each run.

    \b
    ddfw compare fashionmnist-ipc1 --data-root DATA
    ddfw compare mine.toml --only pixel-mtt --only lss-mct --seeds 0,1,2
    """
    whole = files.read(_single(comparisons))
    chosen = files.chosen(whole, only, ddfw.seed_numbers(seeds))
    places = ddfw.Places(out=out, experts=experts_dir, data_root=data_root)
    if dry_run:
        planned = [job for variant in chosen.variants for job in jobs.trials(whole, variant, places)]
        _dry_run([*planned, *jobs.jobs(chosen, places)], as_json)
        return
    say: Callable[[str], None] = (lambda text: None) if quiet else _tell
    folder, record = runner.run(whole, chosen, places, say=say, quiet=quiet or as_json, max_seconds=max_time)
    if as_json:
        ddfw.say_json(record)
        return
    ddfw.show_table(tables.table(record))
    written = (str(folder / f"comparison.{ending}") for ending in ("json", "md", "svg"))
    ddfw.say(f"written: {', '.join(written)}")


def _single(given: tuple[str, ...]) -> str:
    """The one comparison that is asked for.

    Raises:
        UsageError: there are several, or run directories.
    """
    if any((Path(name) / "config.toml").is_file() for name in given):
        both = given if len(given) > 1 else (*given, "OTHER")
        raise click.UsageError(
            f"{given[0]} is a run, expected a comparison's name or file; `ddfw diff {' '.join(both)}` compares runs"
        )
    if len(given) > 1:
        raise click.UsageError(f"one comparison at a time, got {', '.join(given)}; `ddfw diff A B` compares runs")
    return given[0]


def _dry_run(planned: Sequence[jobs.Job], as_json: bool) -> None:
    rows = [
        {
            "variant": job.variant.name,
            "seed": job.config.run.seed,
            "trial": "" if job.trial is None else str(job.trial),
            "run": job.config.title(),
            "outer steps": job.config.outer.steps,
            "directory": str(job.places.out),
        }
        for job in planned
    ]
    ddfw.show_rows(rows, ("variant", "trial", "seed", "outer steps", "run"), as_json, "nothing to run")


def _tell(text: str) -> None:
    """Says on standard error what is going on."""
    ddfw.say(*text.split("\n"), err=True)
