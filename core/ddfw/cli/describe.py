"""`ddfw describe`."""

from __future__ import annotations

import json
from typing import Any

import click

from ddfw.cli.shared import plugin_option


@click.command("describe")
@click.argument("kind")
@click.argument("name")
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
def describe_command(kind: str, name: str, as_json: bool) -> None:
    """Show a component's options, source and citation."""
    import inspect

    from ddfw.cli.words import require_kind
    from ddfw.config.catalog import catalog
    from ddfw_registry import options

    entry = catalog().get(require_kind(kind), name)
    facts: dict[str, Any] = {
        "schema": 1,
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "description": inspect.getdoc(entry.cls) or "",
        "options": [o.as_dict() for o in options(entry.cls)],
        "class": f"{entry.cls.__module__}.{entry.cls.__qualname__}",
        "source": inspect.getsourcefile(entry.cls) or "",
        "plugin": entry.plugin,
        "distribution": entry.distribution,
        "version": entry.version,
        "citation": getattr(entry.cls, "citation", ""),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _show(facts)


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    from ddfw.cli.output import show_rows

    console = Console()
    console.print(Text.assemble((f"{facts['kind']} {facts['name']}", "bold"), f" – {facts['summary']}"))
    rest = facts["description"].partition("\n")[2].strip()
    if rest:
        console.print(Text(f"\n{rest}"))
    if facts["options"]:
        defaults = (
            "required" if o["required"] else "–" if o["default"] is None else o["default"] for o in facts["options"]
        )
        rows = [{**o, "option": o["name"], "default": d} for o, d in zip(facts["options"], defaults, strict=True)]
        console.print()
        show_rows(rows, ("option", "type", "default", "range", "help"), False, "")
        example = facts["options"][0]["name"]
        console.print(Text(f"\nset with --set {facts['kind']}.{example}=… or in the table [{facts['kind']}] of a file"))
    console.print(Text(f"\nclass    {facts['class']}\nsource   {facts['source']}"), soft_wrap=True)
    console.print(Text(f"plugin   {facts['plugin']} (version {facts['version'] or 'unknown'})"))
    if facts["citation"]:
        console.print(Text(f"\n{facts['citation']}"), soft_wrap=True)
