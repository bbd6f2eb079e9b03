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
    from ddfw.cli.output import show_rows
    from ddfw.config.catalog import plugins

    found = plugins()
    rows = [
        *(_row(p, "ok", "", p.value) for p in found.plugins),
        *(_row(p, "failed", p.error, p.value) for p in found.failures),
        *(_row(p, "disabled", "", "") for p in found.disabled),
    ]
    rows.sort(key=lambda row: row["identity"])
    shown = ("identity", "version", "status", "error") if found.failures else ("identity", "version", "status")
    show_rows(rows, shown, as_json, "no plugins are installed")
    for name in found.unknown_disabled:
        click.echo(f"warning: DDFW_DISABLE_PLUGINS names {name!r}, which is not installed", err=True)


def _row(plugin: object, status: str, error: str, value: str) -> dict[str, str]:
    names = ("identity", "name", "distribution", "version")
    return {**{n: str(getattr(plugin, n)) for n in names}, "status": status, "error": error, "value": value}
