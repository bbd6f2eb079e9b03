"""Durations as people type them."""

from __future__ import annotations

import re

import click

_NUMBER = r"\d+(?:\.\d+)?"
_PARTS = re.compile(rf"(?:({_NUMBER})h)?(?:({_NUMBER})m)?(?:({_NUMBER})s)?", re.ASCII)


def seconds_of(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """`90s`, `30m`, `2h`, `1h30m`, or a plain number of seconds, as seconds; None for None.

    Raises:
        BadParameter: anything else, or nothing at all.
    """
    if value is None:
        return None
    found, seconds = _PARTS.fullmatch(value), 0.0
    if re.fullmatch(_NUMBER, value, re.ASCII):
        seconds = float(value)
    elif found is not None:
        hours, minutes, rest = (float(part or 0) for part in found.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(
            f"expected 90s, 30m, 2h, 1h30m or a number of seconds, got {value!r}", ctx=ctx, param=param
        )
    return seconds


#: `--max-time`; the command gets `max_time`, seconds or None.
max_time_option = click.option(
    "--max-time",
    metavar="DURATION",
    callback=seconds_of,
    help="Stop in order after 90s, 30m, 2h, 1h30m or so many seconds; the same command goes on.",
)
