"""`ddfw list`."""

from __future__ import annotations

import click


@click.command("list")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="A JSON array on standard output.")
def list_command(kind: str | None, as_json: bool) -> None:
    """List components, of one KIND or of all.

    Kinds: param, traj, loss, labels, data, model, augment, executor, observer.
    """
    from ddfw.app.catalog import catalog
    from ddfw.cli.output import show_rows
    from ddfw.cli.words import require_kind
    from ddfw.kinds import KINDS

    kinds = [require_kind(kind)] if kind else [k.id for k in KINDS]
    found = catalog()
    rows = [
        {
            "kind": e.kind,
            "name": e.name,
            "summary": e.summary,
            "plugin": e.plugin,
            "distribution": e.distribution,
            "version": e.version,
        }
        for k in kinds
        for e in found.entries(k)
    ]
    show_rows(rows, ("kind", "name", "summary", "plugin"), as_json, "no components; `ddfw plugins` says why")
    for k in kinds:
        for name, owners in found.duplicates(k).items():
            click.echo(f"warning: {k} {name} is offered by {' and '.join(owners)}; disable one of them", err=True)
    for failure in found.failures:
        click.echo(f"warning: plugin {failure.identity} does not work: {failure.error}", err=True)
