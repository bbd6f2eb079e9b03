"""Names that users type, checked."""

from __future__ import annotations

import click

from ddfw.kinds import KINDS

#: What plugins offer beside components.
EXTENSIONS = ("command", "format", "recipes")


def require_kind(kind: str, others: tuple[str, ...] = ()) -> str:
    """The kind's id, or one of the other words that are allowed.

    Raises:
        click.UsageError: no such kind; suggests one.
    """
    from ddfw_registry import did_you_mean

    known = (*(k.id for k in KINDS), *others)
    if kind in known:
        return kind
    raise click.UsageError(f"unknown kind {kind!r}.{did_you_mean(kind, known)} Known: {', '.join(known)}.")
