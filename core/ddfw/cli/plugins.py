"""`ddfw plugins`."""

from __future__ import annotations

import click


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="A JSON array on standard output.")
def plugins_command(as_json: bool) -> None:
    """List installed plugins and whether they work.

    DDFW_DISABLE_PLUGINS leaves plugins out (by identity, entry point or distribution); DDFW_PLUGINS adds modules or
    .py files. Both take names separated by commas.
    """
    from ddfw.cli.output import say, show_rows
    from ddfw.config.listing import listing

    found = listing()
    facts = ("identity", "name", "distribution", "version", "status", "error", "value")
    rows = [{fact: str(getattr(plugin, fact)) for fact in facts} for plugin in found.plugins]
    failed = any(row["error"] for row in rows)
    shown = ("identity", "version", "status", "error") if failed else ("identity", "version", "status")
    show_rows(rows, shown, as_json, "no plugins are installed")
    for name in found.unknown_disabled:
        say(f"warning: DDFW_DISABLE_PLUGINS names {name!r}, which is not installed", err=True)
