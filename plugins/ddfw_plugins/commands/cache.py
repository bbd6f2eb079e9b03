"""`ddfw cache`."""

from __future__ import annotations

import time
from pathlib import Path

import click

import ddfw
from ddfw import experts_dir_option

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


@click.group("cache")
def cache_group() -> None:
    """Rows of baselines that were measured before: list, clear.

    A run that would train the same networks on the same real images as an earlier one, with the same data, network,
    settings, threads and versions, takes that run's row. `ddfw run --no-cache` measures everything itself.
    """


@cache_group.command("list")
@experts_dir_option
@_JSON
def cache_list(experts_dir: Path, as_json: bool) -> None:
    """List the rows, the newest first."""
    now, rows, damaged = time.time(), [], []
    for file in ddfw.list_rows(experts_dir):
        if file.row is None:
            damaged.append(file.path)
            continue
        mean, std = ddfw.mean_std(file.row.accuracies)
        rows.append(
            {
                "trained on": ddfw.subject_title(file.about.get("subject", "")),
                "data": file.about.get("data", ""),
                "network": file.about.get("network", ""),
                "accuracy": f"{ddfw.percent(mean)} ± {ddfw.percent(std)} %",
                "n": len(file.row.accuracies),
                "age": ddfw.age_text(now - file.written),
                "run": file.row.run,
                **({"mean": mean, "std": std, "bytes": file.bytes, "path": str(file.path)} if as_json else {}),
            }
        )
    columns = ("trained on", "data", "network", "accuracy", "n", "age", "run")
    ddfw.show_rows(rows, columns, as_json, f"no rows beside the experts in {experts_dir}")
    for path in damaged:
        ddfw.say(f"warning: {path} is damaged; it is measured again when it is needed", err=True)


@cache_group.command("clear")
@experts_dir_option
def cache_clear(experts_dir: Path) -> None:
    """Remove all rows; runs keep the figures that they have, experts stay."""
    number = ddfw.clear_rows(experts_dir)
    ddfw.say(f"removed {number} row{'' if number == 1 else 's'} beside the experts in {experts_dir}")
