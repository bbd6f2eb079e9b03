"""Merges the layers of a run's settings: recipe < its quick table < file < flags < --set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from ddfw.config.files import read_toml
from ddfw.config.merge import merge
from ddfw.config.recipes import DEFAULT, NO_RECIPE, Recipe, choose, recipes
from ddfw.config.run_config import COMPONENT_TABLES
from ddfw.config.toml import parse_value
from ddfw.errors import ConfigError, ConfigProblem, PluginError, config_error
from ddfw_registry import did_you_mean

#: Origin of settings that come from a recipe's quick table.
QUICK = "--quick"
#: What the origin of settings that a file sets begins with; the file's path follows.
FILE = "file "


@frozen(kw_only=True)
class Settings:
    """Merged settings, and where they come from.

    Args:
        tables: the tables of the configuration.
        origins: for each dotted path (`param.rank`), the name of the layer that set its value.
        recipe: name of the recipe that was merged.
    """

    tables: Mapping[str, Any]
    origins: Mapping[str, str] = field(factory=dict)
    recipe: str = ""

    def located(self, error: ConfigError) -> ConfigError:
        """The same error, with the file that a wrong setting stands in, and how a missing one is set."""
        return evolve(error, problems=[self._located(problem) for problem in error.problems])

    def _located(self, problem: ConfigProblem) -> ConfigProblem:
        path, table = problem.path, problem.path.rpartition(".")[0]
        below = {origin for place, origin in self.origins.items() if place.startswith((f"{path}.", f"{path}["))}
        plain = path.partition("[")[0]  # of a list, the whole of it is set
        unanimous = below.pop() if len(below) == 1 else ""
        name = self.origins.get(f"{table}.name", "") if problem.missing else ""
        origin = self.origins.get(plain) or unanimous or name
        if problem.missing:
            problem = evolve(problem, message=f"{problem.message}; set it, as in --set {path}=…")
        file = origin.removeprefix(FILE) if origin.startswith(FILE) else ""
        return evolve(problem, path=f"{file}: {path}") if file and not path.startswith(f"{file}: ") else problem


def gather(
    start: str | Mapping[str, Any] | None,
    flags: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    assignments: Sequence[str],
    *,
    quick: bool = False,
) -> Settings:
    """Merges all layers of a run's settings and returns them with the layer that each value comes from.

    Args:
        start: a recipe's name, the path of a configuration file, the tables of a whole configuration, or None to choose
            a recipe by the settings.
        flags: tables of settings, such as `{"param": {"name": "lss"}, "budget": {"ipc": 1}}`; or several layers of
            them, each overriding the one before it.
        assignments: texts `key.path=value`, as given to --set.
        quick: merge the recipe's `[quick]` table, too; flags, --set and a file that sets some values override it.

    Raises:
        ConfigError: the recipe is unknown, the file is unreadable, or an assignment has no `=`.
        PluginError: no plugin offers the recipe `default`, and the settings do not name every component.
    """
    known = recipes()
    file = _start(start, known)
    said = [flags] if isinstance(flags, Mapping) else flags
    layers = [(file.tables, file.origin), *((tables, "flag") for tables in said), (_assigned(assignments), "--set")]
    default = known.get(DEFAULT, NO_RECIPE)
    recipe = known[file.recipe] if file.recipe else choose(known.values(), default, [tables for tables, _ in layers])
    quick_layer = [(recipe.quick, QUICK)] if quick else []
    if file.complete:  # the file already holds its recipe's settings, but not those of the quick table
        layers[1:1] = quick_layer if file.recipe else []
    else:
        layers = [*((r.tables, f"recipe {r.name}") for r in (default, recipe)), *quick_layer, *layers]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for tables, origin in layers:
        merge(merged, tables, "", origin, origins)
    if default is NO_RECIPE and (missing := [table for table in COMPONENT_TABLES if table not in merged]):
        raise PluginError(
            f"no installed plugin ships the recipe {DEFAULT!r}, so every component has to be named; "
            f"missing: {', '.join(missing)}"
        )
    run = merged.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("recipe", recipe.name)
        if quick:
            run["quick"] = True
    return Settings(tables=merged, origins=origins, recipe=recipe.name)


@frozen(kw_only=True)
class _Start:
    """The recipe, file or card that a configuration starts from.

    Args:
        tables: the settings of the file or card, {} for a recipe or nothing.
        origin: name of the tables in messages.
        recipe: name of the recipe, "" if one has to be chosen.
        complete: whether the tables are a whole configuration, as runs write it, with no recipe below: what is missing
            there is meant to be unset.
    """

    tables: Mapping[str, Any] = field(factory=dict)
    origin: str = ""
    recipe: str = ""
    complete: bool = False


def _start(start: str | Mapping[str, Any] | None, known: Mapping[str, Recipe]) -> _Start:
    if start is None:
        return _Start()
    if isinstance(start, Mapping):
        return _Start(tables=start, origin="card", complete=True)
    if not (start.endswith(".toml") or "/" in start or Path(start).is_file()):
        if start not in known:
            if Path(start).is_dir():
                raise config_error(
                    start, f"is a folder; expected a recipe's name, or a file such as {start}/config.toml"
                )
            hint = did_you_mean(start, known) or f" {_some(known.values())}"
            raise config_error("run.recipe", f"unknown recipe {start!r}.{hint} A file needs a / or .toml in its name")
        return _Start(recipe=start)
    tables = read_toml(Path(start))
    head = tables.get("run")
    said = head.get("recipe") if isinstance(head, Mapping) else None
    return _Start(
        tables=tables,
        origin=f"{FILE}{start}",
        recipe=said if isinstance(said, str) and said in known else "",
        complete=isinstance(said, str) and all(table in tables for table in COMPONENT_TABLES),
    )


def _some(known: Collection[Recipe]) -> str:
    """A sentence that names a few recipes, the most general ones first."""
    if not known:
        return "No plugin offers any."
    ordered = [recipe.name for recipe in sorted(known, key=lambda recipe: recipe.tuned)]
    return f"There are {', '.join(ordered[:6])}, …; `ddfw recipes` lists all {len(ordered)}."


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for text in assignments:
        path, equals, value = text.partition("=")
        keys = [k.strip() for k in path.split(".")]
        if not equals or not all(keys):
            raise config_error("--set", f"expected key.path=value, got {text!r}")
        _assign(tables, keys, parse_value(value.strip()))
    return tables


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose keys may be dotted paths, such as `{"param.rank": 3}`, as tables.

    Raises:
        ConfigError: not a mapping, or a key that is no path.
    """
    if not isinstance(settings, Mapping):
        expected = "expected tables such as {'param': {'rank': 3}}, or {'param.rank': 3}"
        raise config_error("settings", f"{expected}, got {settings!r}")
    tables: dict[str, Any] = {}
    for path in settings:
        if not isinstance(path, str) or not all(path.split(".")):
            raise config_error("settings", f"expected keys such as 'param' or 'param.rank', got {path!r}")
    for path in sorted(settings, key=lambda path: path.count(".")):  # so that whole tables are not laid over a part
        _assign(tables, path.split("."), _copied(settings[path]))
    return tables


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _assign(tables: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Sets one value in nested tables, which are made where they are missing."""
    table = tables
    for key in keys[:-1]:
        inner = table.get(key)
        if not isinstance(inner, dict):
            inner = table[key] = {} if inner is None else {"name": inner}
        table = inner
    if isinstance(table.get(keys[-1]), dict) and not isinstance(value, dict):
        table[keys[-1]]["name"] = value
    else:
        table[keys[-1]] = value
