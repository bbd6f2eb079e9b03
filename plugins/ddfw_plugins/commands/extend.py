"""`ddfw extend`."""

from __future__ import annotations

import time
from pathlib import Path

import click

import ddfw
from ddfw import (
    cache_option,
    data_root_option,
    experts_dir_option,
    max_time_option,
    plugin_option,
    quiet_option,
    trust_option,
)


@click.command("extend")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path), shell_complete=ddfw.complete_runs)
@click.option(
    "--steps",
    required=True,
    type=click.IntRange(min=1),
    help="Outer steps that the run shall have in all, those that are done included.",
)
@plugin_option
@experts_dir_option
@data_root_option
@cache_option
@trust_option
@max_time_option
@click.option("--json", "as_json", is_flag=True, help="JSON Lines on standard output, the last with the summary.")
@quiet_option
def extend_command(
    run: Path,
    steps: int,
    experts_dir: Path,
    data_root: Path | None,
    cached: bool,
    trust: bool,
    max_time: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Continue a finished RUN to more outer steps.

    It goes on from its last checkpoint, with the state of its optimisers, and learns what a run of so many steps would
    have learned in one go. What the shorter run said and learned stays in RUN/earlier. The test split is read once
    more, and the new rows say that the run was extended after it had been read. A run that you have not run here
    yourself is continued only with --trust-config.

    \b
    ddfw extend runs/mine --steps 1000
    """
    until = None if max_time is None else time.monotonic() + max_time
    places = ddfw.Places(experts=experts_dir, data_root=data_root, known_rows=cached)
    stream = ddfw.json_observers() if as_json else ()
    left = None if until is None else max(until - time.monotonic(), 1e-3)
    silent = quiet or as_json
    say = {} if silent else {"say": lambda text: ddfw.say(text, err=True)}
    result = ddfw.extend(run, steps, places, stream, quiet=silent, max_seconds=left, trust=trust, **say)
    ddfw.show_result(result, as_json=as_json)
