"""`ddfw describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ddfw.cli.completion_words import complete_described, complete_kinds_and_names
from ddfw.cli.output import console, say_json
from ddfw.cli.shared import plugin_option

if TYPE_CHECKING:
    from ddfw.config.listing import ListedComponent
    from ddfw_registry import Offer


@click.command("describe")
@click.argument("kind", metavar="KIND|NAME", shell_complete=complete_kinds_and_names)
@click.argument("name", required=False, shell_complete=complete_described)
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
@click.pass_context
def describe_command(context: click.Context, kind: str, name: str | None, as_json: bool) -> None:
    """Show a component's options, source and citation.

    The kind can be left out where no component of another kind has the name. A kind alone lists its components.

    \b
    ddfw describe param lss
    ddfw describe lss
    ddfw describe param
    """
    from ddfw.cli.list import list_command
    from ddfw.cli.words import EXTENSIONS, require_kind
    from ddfw.config.listing import listing
    from ddfw.kinds import KINDS

    if name is None:
        if kind in (*(k.id for k in KINDS), *EXTENSIONS):
            context.invoke(list_command, kind=kind, as_json=as_json)
            return
        kind, name = _only_kind(kind), kind
    offer = listing().components(require_kind(kind)).get(name)
    if offer.item.problem:
        raise click.ClickException(f"the options of {kind} {name} cannot be shown: {offer.item.problem}")
    facts = _facts(kind, offer)
    if as_json:
        say_json(facts, indent=2)
    else:
        _show(facts)


def _only_kind(name: str) -> str:
    """The kind of which there is a component of this name.

    Raises:
        click.UsageError: there is none, or there are several.
    """
    from ddfw.config.listing import listing
    from ddfw.kinds import KINDS
    from ddfw_registry import did_you_mean

    offers = {kind.id: listing().components(kind.id) for kind in KINDS}
    kinds = [kind for kind, offered in offers.items() if name in offered.entries or name in offered.duplicates]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        ways = " or ".join(f"`ddfw describe {kind} {name}`" for kind in kinds)
        raise click.UsageError(f"{name!r} names components of several kinds: {', '.join(kinds)}. Type {ways}.")
    names = [word for offered in offers.values() for word in offered.entries]
    hint = did_you_mean(name, names) or did_you_mean(name, offers)
    raise click.UsageError(f"{name!r} is neither a kind nor a component.{hint} `ddfw list` shows all.")


def _facts(kind: str, offer: Offer[ListedComponent]) -> dict[str, Any]:
    item = offer.item
    return {
        "schema": 1,
        "kind": kind,
        "name": item.name,
        "summary": item.summary,
        "description": item.description,
        "options": list(item.options),
        "class": item.cls,
        "source": item.source,
        "plugin": offer.plugin,
        "distribution": offer.distribution,
        "version": offer.version,
        "citation": item.citation,
    }


def _show(facts: dict[str, Any]) -> None:
    from rich.text import Text

    from ddfw.cli.output import show_rows

    screen = console()
    screen.print(Text.assemble((f"{facts['kind']} {facts['name']}", "bold"), f" – {facts['summary']}"))
    rest = facts["description"].partition("\n")[2].strip()
    if rest:
        screen.print(Text(f"\n{rest}"))
    if facts["options"]:
        defaults = (
            "required" if o["required"] else "–" if o["default"] is None else o["default"] for o in facts["options"]
        )
        rows = [{**o, "option": o["name"], "default": d} for o, d in zip(facts["options"], defaults, strict=True)]
        screen.print()
        show_rows(rows, ("option", "type", "default", "range", "help"), False, "")
        example = facts["options"][0]["name"]
        screen.print(Text(f"\nset with --set {facts['kind']}.{example}=… or in the table [{facts['kind']}] of a file"))
    screen.print(Text(f"\nclass    {facts['class']}\nsource   {facts['source']}"), soft_wrap=True)
    screen.print(Text(f"plugin   {facts['plugin']} (version {facts['version'] or 'unknown'})"))
    if facts["citation"]:
        screen.print(Text(f"\n{facts['citation']}"), soft_wrap=True)
