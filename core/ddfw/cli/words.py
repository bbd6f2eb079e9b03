"""Names that users type, checked."""

from __future__ import annotations

import click

from ddfw.kinds import KINDS


def require_kind(kind: str) -> str:
    """The kind's id.

    Raises:
        click.UsageError: no such kind; suggests one.
    """
    from ddfw_registry import suggest

    known = tuple(k.id for k in KINDS)
    if kind in known:
        return kind
    close = suggest(kind, known)
    hint = f" Did you mean {close!r}?" if close else ""
    raise click.UsageError(f"unknown kind {kind!r}.{hint} Known: {', '.join(known)}.")
