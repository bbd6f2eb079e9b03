"""`ddfw recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import ddfw
from ddfw import data_root_option


@click.group("recipes", invoke_without_command=True)
@click.pass_context
def recipes_group(context: click.Context) -> None:
    """Settings that ship with ddfw, each with its source; `ddfw run NAME` runs one. Without a command: all of them."""
    if context.invoked_subcommand is None:
        context.invoke(recipes_list)


@recipes_group.command("list")
@click.argument("words", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="A JSON array on standard output.")
def recipes_list(words: tuple[str, ...] = (), as_json: bool = False) -> None:
    """List the recipes, or those whose name or summary holds all of WORDS."""
    rows = [
        {"name": r.name, "summary": r.summary, "source": r.source, "extends": r.extends, "selects": dict(r.selects)}
        for r in ddfw.listing().recipes.values()
        if all(word.lower() in f"{r.name} {r.summary}".lower() for word in words)
    ]
    ddfw.show_rows(rows, ("name", "summary"), as_json, f"no recipe has {' '.join(words)} in its name or summary")


@recipes_group.command("show")
@click.argument("name", shell_complete=ddfw.complete_recipes)
@click.option("--quick", is_flag=True, help="As `ddfw run NAME --quick` takes it.")
@data_root_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
def recipes_show(name: str, quick: bool, data_root: Path | None, as_json: bool) -> None:
    """Show the recipe NAME: where its settings come from, and all of them, as `ddfw run` takes them from a file."""
    made = ddfw.configure(name, {}, (), data_root, quick=quick)
    settings, recipe = made.settings, ddfw.recipes()[made.settings.recipe]
    tables = ddfw.as_table(made.config)
    if as_json:
        head: dict[str, Any] = {"schema": 1, "name": name, "summary": recipe.summary, "source": recipe.source}
        ddfw.say_json({**head, "selects": dict(recipe.selects), "settings": tables})
        return
    for line in (f"{recipe.name}: {recipe.summary}", f"source: {recipe.source}"):
        ddfw.say(f"# {line}")
    if recipe.selects:
        ddfw.say(f"# chosen for {', '.join(f'{key} {value}' for key, value in recipe.selects.items())}")
    ddfw.say("")
    text = ddfw.toml_text(tables, lambda path: _origin(settings.origins.get(path, ""), name))
    ddfw.say(*text.splitlines())


def _origin(origin: str, name: str) -> str:
    """What stands behind a value: nothing where the recipe itself says it."""
    return "" if origin == f"recipe {name}" else origin or "default"
