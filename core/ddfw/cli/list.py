"""`ddfw list`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddfw.cli.shared import plugin_option

if TYPE_CHECKING:
    from ddfw.contracts.command import Command
    from ddfw.contracts.format import Format
    from ddfw_registry import Entry, Offers

#: What plugins offer beside components.
EXTENSIONS = ("command", "format", "recipes")


@click.command("list")
@click.argument("kind", required=False)
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="A JSON array on standard output.")
def list_command(kind: str | None, as_json: bool) -> None:
    """List what is installed, of one KIND or of all.

    Kinds of components: param, traj, loss, labels, data, model, augment, executor, observer. Beside these: command,
    format and recipes.
    """
    from ddfw.cli.output import show_rows
    from ddfw.cli.words import require_kind
    from ddfw.config.catalog import catalog
    from ddfw.config.extensions import commands, formats, recipe_folders
    from ddfw.kinds import KINDS

    kinds = [require_kind(kind, EXTENSIONS)] if kind else [*(k.id for k in KINDS), *EXTENSIONS]
    found = catalog()
    offers: dict[str, Offers[Any]] = {"command": commands(), "format": formats(), "recipes": recipe_folders()}
    rows = [row for k in kinds for row in (_extension_rows(k, offers[k]) if k in offers else _rows(found.entries(k)))]
    show_rows(rows, ("kind", "name", "summary", "plugin"), as_json, "no components; `ddfw plugins` says why")
    for k in kinds:
        taken = offers[k].duplicates if k in offers else found.duplicates(k)
        for name, owners in taken.items():
            click.echo(f"warning: {k} {name} is offered by {' and '.join(owners)}; disable one of them", err=True)
    for failure in (*found.failures, *(f for offer in offers.values() for f in offer.failures)):
        click.echo(f"warning: plugin {failure.identity} does not work: {failure.error}", err=True)


def _rows(entries: Iterable[Entry]) -> list[dict[str, str]]:
    """Rows of components."""
    facts = ("kind", "name", "summary", "plugin", "distribution", "version")
    return [{fact: getattr(entry, fact) for fact in facts} for entry in entries]


def _extension_rows(kind: str, offers: Offers[Any]) -> list[dict[str, str]]:
    """Rows of commands, formats or folders of recipes."""
    return [
        {
            "kind": kind,
            "name": offer.distribution if kind == "recipes" else name,
            "summary": _summary(offer.item),
            "plugin": offer.plugin,
            "distribution": offer.distribution,
            "version": offer.version,
        }
        for name, offer in offers.entries.items()
    ]


def _summary(item: Command | Format | Path) -> str:
    if isinstance(item, Path):
        recipes, comparisons = (len(list(item.glob(pattern))) for pattern in ("*.toml", "comparisons/*.toml"))
        return f"recipes: {recipes}, comparisons: {comparisons}"
    return item.summary
