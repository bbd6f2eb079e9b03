"""Recipes: settings for known data, methods and sizes, found by name or by a run's data, size and method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from attrs import field, frozen

from ddfw.config.extensions import recipe_folders
from ddfw.config.files import read_toml
from ddfw.config.merge import merge
from ddfw.errors import PluginError
from ddfw_registry import ConfigError

#: Settings by which a recipe can be chosen.


#: Name of the recipe that lies below all others and gives the settings that no other layer sets.
DEFAULT = "default"


@frozen(kw_only=True)
class Recipe:
    """A file of settings that a plugin offers.

    Args:
        name: its file's name without the ending.
        summary: one line about the recipe.
        source: the paper or code that its values come from.
        selects: values of data, ipc, param, traj for which it is chosen; of several that fit, the one with most values
            wins.
        tables: the settings, including those of the recipes that it extends.
        quick: settings that `--quick` adds.
        extends: name of the recipe whose settings lie below, "" for none.
        tuned: whether its settings were tuned for the data, size and method that it selects.
        origin: identity of the plugin that offers it.
    """

    name: str
    summary: str
    source: str
    selects: Mapping[str, Any]
    tables: Mapping[str, Any]
    quick: Mapping[str, Any] = field(factory=dict)
    extends: str = ""
    tuned: bool = True
    origin: str = ""


#: Used where no plugin offers a recipe named `default`.
NO_RECIPE = Recipe(name=DEFAULT, summary="", source="", selects={}, tables={}, tuned=False)


@frozen
class _File:
    """A recipe's file, and the plugin that offers its folder."""

    path: Path
    origin: str


@cache
def recipes() -> Mapping[str, Recipe]:
    """All recipes, by name.

    Raises:
        PluginError: a file is not a valid recipe, or two recipes have the same name or selection.
    """
    files: dict[str, _File] = {}
    # Those that ship with ddfw first: where two collide, the other one is refused.
    for offer in sorted(recipe_folders().entries.values(), key=lambda o: (o.distribution != "ddfw", o.plugin)):
        for path in sorted(offer.item.glob("*.toml")):
            if path.stem in files:
                raise _refused(path, offer.plugin, f"{files[path.stem].path} has the same name")
            files[path.stem] = _File(path, offer.plugin)
    found: dict[str, Recipe] = {}
    selected: dict[tuple[tuple[str, Any], ...], Recipe] = {}
    for name, file in files.items():
        recipe = _add_recipe(name, files, found)
        twin = selected.setdefault(tuple(sorted(recipe.selects.items())), recipe) if recipe.selects else recipe
        if twin is not recipe:
            raise _refused(file.path, recipe.origin, f"recipe {twin.name!r} selects the same")
    return {name: found[name] for name in sorted(files)}


def _refused(path: Path, owner: str, reason: str) -> PluginError:
    return PluginError(
        f"recipe {path} of plugin {owner} is refused: {reason}; DDFW_DISABLE_PLUGINS={owner} leaves it out"
    )


def _add_recipe(name: str, files: Mapping[str, _File], found: dict[str, Recipe]) -> Recipe:
    """Reads a recipe and those that it extends, adds them to `found`, and returns the recipe."""
    if name in found:
        return found[name]
    file = files[name]
    try:
        own = read_toml(file.path)
        head, own_quick = own.pop("recipe"), own.pop("quick", {})
        summary, source = head["summary"], head["source"]
        if "extends" in head and (head["extends"] not in files or head["extends"] == name):
            raise ValueError(f"it extends {head['extends']!r}, which is no other recipe")
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError) as error:
        words = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise _refused(file.path, file.origin, words) from error
    below = _add_recipe(head["extends"], files, found) if "extends" in head else None
    tables: dict[str, Any] = {}
    quick: dict[str, Any] = {}
    for layer in (below.tables if below else {}, own):
        merge(tables, layer, "", "", {})
    for layer in (below.quick if below else {}, own_quick):
        merge(quick, layer, "", "", {})
    found[name] = Recipe(
        name=name,
        summary=summary,
        source=source,
        selects=head.get("selects", {}),
        tables=tables,
        quick=quick,
        extends=below.name if below else "",
        tuned=head.get("tuned", True),
        origin=file.origin,
    )
    return found[name]


def choose(known: Iterable[Recipe], default: Recipe, layers: Sequence[Mapping[str, Any]]) -> Recipe:
    """The recipe that fits the data, ipc, param and traj of some settings best.

    Args:
        known: the recipes to choose from.
        default: the recipe that is returned if none fits; gives the values that the layers do not set.
        layers: tables of settings, each overriding the one before it.
    """
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
