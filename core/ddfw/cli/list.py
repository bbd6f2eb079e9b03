"""`ddfw list`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from ddfw.cli.completion_words import complete_kinds
from ddfw.cli.shared import plugin_option

if TYPE_CHECKING:
    from ddfw_registry import Offer, Offers


@click.command("list")
@click.argument("kind", required=False, shell_complete=complete_kinds)
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="A JSON array on standard output.")
def list_command(kind: str | None, as_json: bool) -> None:
    """List what is installed, of one KIND or of all.

    Kinds of components: param, traj, loss, labels, data, model, augment, executor, observer. Beside these: command,
    format and recipes.
    """
    from ddfw.cli.output import say, show_groups, show_rows
    from ddfw.cli.words import EXTENSIONS, require_kind
    from ddfw.config.listing import listing
    from ddfw.kinds import KINDS

    kinds = [require_kind(kind, EXTENSIONS)] if kind else [*(k.id for k in KINDS), *EXTENSIONS]
    found = listing()
    extensions: dict[str, Offers[Any]] = {
        "command": found.commands,
        "format": found.formats,
        "recipes": found.recipe_folders,
    }
    offers = {k: extensions[k] if k in extensions else found.components(k) for k in kinds}
    empty = "no components; `ddfw plugins` says why"
    if as_json or kind:
        rows = [row for k, offered in offers.items() for row in _rows(k, offered.entries.values())]
        show_rows(rows, ("name", "summary", "plugin"), as_json, empty)
    else:
        titles = {k.id: f"{k.id} ({k.title})" for k in KINDS}
        groups = {titles.get(k, k): _rows(k, offered.entries.values()) for k, offered in offers.items()}
        show_groups(groups, ("name", "summary"), empty)
    for k, offered in offers.items():
        for name, owners in offered.duplicates.items():
            say(f"warning: {k} {name} is offered by {' and '.join(owners)}; disable one of them", err=True)
    for failure in found.failures:
        say(f"warning: plugin {failure.identity} does not work: {failure.error}", err=True)


def _rows(kind: str, offers: Iterable[Offer[Any]]) -> list[dict[str, str]]:
    """One row for each component, command, format or folder of recipes."""
    return [
        {
            "kind": kind,
            "name": offer.distribution if kind == "recipes" else offer.name,
            "summary": _summary(offer.item) if kind == "recipes" else offer.item.summary,
            "plugin": offer.plugin,
            "distribution": offer.distribution,
            "version": offer.version,
        }
        for offer in offers
    ]


def _summary(folder: Any) -> str:
    return f"recipes: {folder.recipes}, comparisons: {folder.comparisons}"
