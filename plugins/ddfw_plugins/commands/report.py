"""`ddfw report`."""

from __future__ import annotations

from pathlib import Path

import click

import ddfw


@click.command("report")
@click.argument(
    "runs",
    metavar="RUN...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    shell_complete=ddfw.complete_runs,
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file; the default is RUN/report.html, and ./report.html for several runs.",
)
def report_command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Make the page of a run again, or one page of several runs with their curves together.

    A page is one file that loads nothing: pictures, curves, results, settings with their origins, versions and
    citations, made of the files of the run directory. Every run writes its own at its end.

    \b
    ddfw report runs/mine
    ddfw report runs/mine runs/other --out both.html
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise click.UsageError(f"--out {out}: there is no folder {out.parent}")
    if len(runs) == 1:
        path = ddfw.write_page(runs[0], out)
    else:
        path = ddfw.write_joint_page(runs, Path("report.html") if out is None else out)
    ddfw.say(str(path))
    for run in runs:
        if problem := ddfw.read_run(run).problem:
            ddfw.say(f"warning: {problem}", err=True)
