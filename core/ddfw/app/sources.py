"""Where a run's settings come from: recipe < its quick table < file < flags < --set, and which of them said what."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from attrs import field, frozen

from ddfw.app.config import COMPONENT_TABLES
from ddfw.app.documents import read_toml
from ddfw.app.toml import parse_value
from ddfw_registry import ConfigError, Problem, suggest

#: What a recipe may be chosen by.
SELECTORS = ("data", "ipc", "param", "traj")
#: Recipes that suit many methods, and are tuned for none.
UNTUNED = ("default", "digits")
#: The origin of what a recipe's quick table says.
QUICK = "--quick"


@frozen(kw_only=True)
class Recipe:
    """A file of settings that ships with ddfw.

    Args:
        name: its file's name without the ending.
        summary: one line.
        source: where its figures come from.
        selects: values of data, ipc, param, traj for which it is chosen; the recipe that names most of them wins.
        tables: the settings, those of the recipes that it extends included.
        quick: what `--quick` sets on top of them.
        extends: the recipe below this one, "" for none.
    """

    name: str
    summary: str
    source: str
    selects: Mapping[str, Any]
    tables: Mapping[str, Any]
    quick: Mapping[str, Any] = field(factory=dict)
    extends: str = ""


@frozen(kw_only=True)
class Settings:
    """Merged settings, for each dotted path the layer that had the last word, and the recipe below them."""

    tables: Mapping[str, Any]
    origins: Mapping[str, str] = field(factory=dict)
    recipe: str = ""


@cache
def recipes() -> Mapping[str, Recipe]:
    """All recipes, by name."""
    texts = {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in sorted(resources.files("ddfw.app").joinpath("recipes").iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".toml")
    }
    found: dict[str, Recipe] = {}
    for name in texts:
        _add_recipe(name, texts, found)
    return {name: found[name] for name in texts}


def _add_recipe(name: str, texts: Mapping[str, str], found: dict[str, Recipe]) -> Recipe:
    """A recipe over the one that it extends, which is read first."""
    if name in found:
        return found[name]
    own = tomllib.loads(texts[name])
    head, own_quick = own.pop("recipe"), own.pop("quick", {})
    below = _add_recipe(head["extends"], texts, found) if "extends" in head else None
    tables: dict[str, Any] = {}
    quick: dict[str, Any] = {}
    for layer in (below.tables if below else {}, own):
        merge(tables, layer, "", "", {})
    for layer in (below.quick if below else {}, own_quick):
        merge(quick, layer, "", "", {})
    found[name] = Recipe(
        name=name,
        summary=head["summary"],
        source=head["source"],
        selects=head.get("selects", {}),
        tables=tables,
        quick=quick,
        extends=below.name if below else "",
    )
    return found[name]


def gather(
    start: str | Mapping[str, Any] | None,
    flags: Mapping[str, Any],
    assignments: Sequence[str],
    *,
    quick: bool = False,
) -> Settings:
    """Merges all layers.

    Args:
        start: a recipe's name, a configuration file, complete tables that stand for one, or None.
        flags: tables that flags set, `{"param": {"name": "lss"}, "budget": {"ipc": 1}}`.
        assignments: `key.path=value` texts of --set.
        quick: lay the recipe's quick table over it, below what the user said.

    Raises:
        ConfigError: an unknown recipe, an unreadable file, a --set without `=`.
    """
    known = recipes()
    file_tables: Mapping[str, Any] = {}
    file_origin, named, resolved = "", None, False
    if isinstance(start, Mapping):
        file_tables, file_origin, resolved = start, "card", True
    elif start is not None and (start.endswith(".toml") or "/" in start or Path(start).is_file()):
        file_tables, file_origin = read_toml(Path(start)), f"file {start}"
        head = file_tables.get("run")
        said = head.get("recipe") if isinstance(head, Mapping) else None
        # Where the file does not come from a recipe of ours, one is chosen as if it had been given by flags.
        named = said if isinstance(said, str) and said in known else None
        resolved = isinstance(said, str) and all(table in file_tables for table in COMPONENT_TABLES)
    elif start is not None:
        named = start
        if start not in known:
            close = suggest(start, tuple(known))
            hint = f"Did you mean {close!r}?" if close else _some(known)
            raise ConfigError(
                (
                    Problem(
                        path="run.recipe",
                        message=f"unknown recipe {start!r}. {hint} A file needs a / or .toml in its name",
                    ),
                )
            )
    set_tables = _assigned(assignments)
    said_layers = [(file_tables, file_origin), (flags, "flag"), (set_tables, "--set")]
    default = known["default"]
    recipe = known[named] if named else choose(known.values(), default, [tables for tables, _ in said_layers])
    below = [(default.tables, "recipe default"), (recipe.tables, f"recipe {recipe.name}")]
    # A file with its recipe's name and every component is a run's own: what it leaves out is meant to be left out.
    if quick:
        below.append((recipe.quick, QUICK))
    if resolved:  # the file holds what is below it already, but for the quick table
        said_layers[1:1] = [(recipe.quick, QUICK)] if quick and named else []
        below = []
    layers = [*below, *said_layers]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for tables, origin in layers:
        merge(merged, tables, "", origin, origins)
    run = merged.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("recipe", recipe.name)
        if quick:
            run["quick"] = True
    return Settings(tables=merged, origins=origins, recipe=recipe.name)


def _some(names: Iterable[str]) -> str:
    """A few names, the most general ones first."""
    ordered = [*UNTUNED, *(name for name in names if name not in UNTUNED)]
    return f"There are {', '.join(ordered[:6])}, …; `ddfw recipes` lists all {len(ordered)}."


def choose(known: Iterable[Recipe], default: Recipe, layers: Sequence[Mapping[str, Any]]) -> Recipe:
    """The recipe for (data, ipc, param, traj) as the layers say them, the default's values where they are silent."""
    merged: dict[str, Any] = {}
    for tables in [default.tables, *layers]:
        merge(merged, tables, "", "", {})
    budget = merged.get("budget")
    wanted = {kind: _name(merged.get(kind)) for kind in ("data", "param", "traj")}
    wanted["ipc"] = budget.get("ipc", 1) if isinstance(budget, Mapping) else 1
    fitting = [r for r in known if r.selects and all(wanted[key] == value for key, value in r.selects.items())]
    return max(fitting, key=lambda recipe: len(recipe.selects), default=default)


def _name(table: object) -> object:
    return table.get("name") if isinstance(table, Mapping) else table


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        keys = [k.strip() for k in path.split(".")]
        if not equals or not all(keys):
            raise ConfigError((Problem(path="--set", message=f"expected key.path=value, got {text!r}"),))
        table = tables
        for key in keys[:-1]:
            inner = table.get(key)
            if not isinstance(inner, dict):
                inner = table[key] = {} if inner is None else {"name": inner}
            table = inner
        parsed = parse_value(value.strip())
        if isinstance(table.get(keys[-1]), dict) and not isinstance(parsed, dict):
            table[keys[-1]]["name"] = parsed
        else:
            table[keys[-1]] = parsed
    return tables


def merge(into: dict[str, Any], tables: Mapping[str, Any], path: str, origin: str, origins: dict[str, str]) -> None:
    """Merges one layer; a component table that names another component replaces the old one."""
    for key, value in tables.items():
        here = f"{path}.{key}" if path else key
        if not path and key in COMPONENT_TABLES and isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            into[key] = value
            origins[here] = origin
            continue
        old = into.get(key)
        component = not path and key in COMPONENT_TABLES
        if not isinstance(old, dict) or (component and value.get("name", old.get("name")) != old.get("name")):
            for stale in [p for p in origins if p.startswith(f"{here}.")]:
                del origins[stale]
            old = into[key] = {}
        if not value:
            origins[here] = origin
        merge(old, value, here, origin, origins)
