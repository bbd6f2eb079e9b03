"""Finds mistyped components before anything loads torch, where nothing else of the configuration can be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ddfw.config.catalog import from_table
from ddfw.config.layers import Settings, gather
from ddfw.config.listing import Listing, stored_listing
from ddfw.config.run_config import COMPONENT_TABLES, RunConfig
from ddfw.errors import ConfigError, ConfigProblem, DuplicateComponentError, UnknownComponentError
from ddfw.kinds import KINDS
from ddfw_registry import RegistryError

#: Where settings of a recipe or of a checked flag come from; nothing is wrong with these.
_RECIPE = "recipe "


def refuse_unknown_components(
    start: str | Mapping[str, Any] | None,
    flags: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    assignments: Sequence[str],
) -> None:
    """Checks the names of all components of a configuration, if the installed ones are known without asking plugins.

    What it raises is what building the configuration would raise. Where a user's other settings could be wrong too it
    raises nothing, so that all mistakes are reported at once when the configuration is built.

    Args:
        start: a recipe's name, the path of a configuration file, or None, as for `configure`.
        flags: tables of settings.
        assignments: texts `key.path=value`, as given to --set.

    Raises:
        ConfigError: a component, or the recipe, is unknown; or the file or an assignment is malformed.
    """
    settings = gather(start, flags, assignments)
    known = stored_listing("components")
    if known is None:
        return
    faults = list(_faults(settings, known))
    if faults and not _more_to_check(settings, known, {path for path, _ in faults}):
        problems = [ConfigProblem(path, fault.message) for path, fault in faults]
        raise settings.located(ConfigError(problems, [fault.at(path) for path, fault in faults]))


def _faults(settings: Settings, known: Listing) -> list[tuple[str, UnknownComponentError | DuplicateComponentError]]:
    """The tables whose component is unknown or offered twice, in the order of the configuration."""
    found = []
    for table in (field.name for field in attrs.fields(RunConfig)):
        name = _component(settings.tables.get(table))
        if table in COMPONENT_TABLES and name is not None:
            try:
                known.components(table).get(name)
            except (UnknownComponentError, DuplicateComponentError) as error:
                found.append((table, error))
    return found


def _component(table: object) -> str | None:
    name = table.get("name") if isinstance(table, Mapping) else None
    return name if isinstance(name, str) else None


def _fits(settings: Settings, table: str) -> bool:
    """Whether a table is one of the settings that are no components, and everything in it is right."""
    cls = settings_tables().get(table)
    if cls is None:
        return False
    try:
        from_table(settings.tables.get(table, {}), cls, table)
    except ConfigError:
        return False
    return True


def settings_tables() -> dict[str, type]:
    """The tables of a configuration that are no components, such as `outer`, with their classes."""
    found = {field.name: field.type for field in attrs.fields(attrs.resolve_types(RunConfig))}
    kinds = {kind.id for kind in KINDS}
    return {n: cls for n, cls in found.items() if n not in kinds and isinstance(cls, type) and attrs.has(cls)}


def _more_to_check(settings: Settings, known: Listing, faulty: set[str]) -> bool:
    """Whether anything else that the user said could be wrong too, or a needed option be missing."""
    theirs = [path for path, origin in settings.origins.items() if not origin.startswith(_RECIPE)]
    for table, _, key in (path.partition(".") for path in theirs):
        component = table in COMPONENT_TABLES and (table in faulty or key == "name")
        if not component and not _fits(settings, table):
            return True
    observers = settings.tables.get("observers", {})
    if any(name not in known.components("observer").entries for name in observers):
        return True
    for table in {*COMPONENT_TABLES} - faulty:
        said = settings.tables.get(table)
        name = _component(said)
        if name is None or not isinstance(said, Mapping):
            return True
        try:
            item = known.components(table).get(name).item
        except RegistryError:
            return True
        if any(option["required"] and option["name"] not in said for option in item.options):
            return True
    return False
