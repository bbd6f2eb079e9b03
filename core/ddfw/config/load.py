"""Turns recipes, files and flags into a configuration, and resolves it: text, hash and foreign code.

Mistyped components are found before anything loads torch, where nothing else of the configuration can be wrong.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve, frozen

from ddfw.config.catalog import as_table, catalog, from_table
from ddfw.config.fingerprints import foreign_code
from ddfw.config.layers import QUICK, Settings, gather
from ddfw.config.listing import Listing, stored_listing
from ddfw.config.quick import changes, scaled
from ddfw.config.run_config import COMPONENT_TABLES, RunConfig
from ddfw.config.toml import toml_text
from ddfw.contracts.labels import takes_dtype
from ddfw.contracts.records import ResolvedRun
from ddfw.errors import ConfigError, ConfigProblem, DuplicateComponentError, UnknownComponentError
from ddfw.kinds import KINDS
from ddfw_registry import RegistryError

logger = logging.getLogger(__name__)

#: Where settings of a recipe or of a checked flag come from; nothing is wrong with these.
_RECIPE = "recipe "


def structured_config(settings: Settings) -> RunConfig:
    """The configuration that merged settings describe.

    Raises:
        ConfigError: every problem at once, each with its path.
    """
    tables = dict(settings.tables)
    observers = tables.get("observers")
    if isinstance(observers, Mapping):
        tables["observers"] = {k: v for k, v in observers.items() if not _missing_extra(k, v, settings)}
    try:
        config = from_table(tables, RunConfig)
    except ConfigError as error:
        raise settings.located(error) from error
    takes_dtype(type(config.labels))  # warns if the label strategy was written for an older hook API
    return config


def _missing_extra(key: str, table: object, settings: Settings) -> bool:
    """Whether an observer is not installed and only a recipe asks for it; warns, since the run goes on without it."""
    path = f"observers.{key}"
    said = [o for place, o in settings.origins.items() if place == path or place.startswith(f"{path}.")]
    if not said or not all(origin.startswith("recipe ") for origin in said):
        return False
    name = table.get("name", key) if isinstance(table, Mapping) else key
    if any(entry.name == name for entry in catalog().entries("observer")):
        return False
    logger.warning("the recipe's observer %r is not installed or is disabled", name)
    return True


@frozen(kw_only=True)
class Configured:
    """A configuration, and how it came about.

    Args:
        config: the configuration.
        settings: the merged settings that it was built from.
        changes: what `--quick` changed, one text for each value: `experts.count 100 → 3`.
    """

    config: RunConfig
    settings: Settings
    changes: tuple[str, ...] = ()


def configure(
    start: str | Mapping[str, Any] | None,
    flags: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    assignments: Sequence[str] = (),
    data_root: Path | None = None,
    *,
    quick: bool = False,
) -> Configured:
    """The configuration that a recipe or file, flags and --set describe, scaled down with `quick`.

    Args:
        start: a recipe's name, the path of a configuration file, the tables of a whole configuration, or None to choose
            a recipe by the settings.
        flags: tables of settings, such as `{"budget": {"ipc": 1}}`, or several layers of them, each overriding the one
            before it.
        assignments: texts `key.path=value`, as given to --set.
        data_root: folder in which data sets look for their files; used with `quick`, which counts the images.
        quick: scale everything down that the user did not set, so that a run ends in minutes.

    Raises:
        ConfigError: a recipe or component is unknown, or options are wrong; every problem at once, each with its path.
        DataError: with `quick`, the data set is missing or damaged.
    """
    settings = gather(start, flags, assignments)
    config = structured_config(settings)
    if not quick:
        return Configured(config=config, settings=settings)
    settings = gather(start, flags, assignments, quick=True)
    small = scaled(structured_config(settings), config, settings, data_root)
    what = tuple(changes(as_table(config), as_table(small)))
    settings = evolve(settings, origins={**settings.origins, **{text.split(" ")[0]: QUICK for text in what}})
    return Configured(config=small, settings=settings, changes=what)


def config_text(config: RunConfig) -> str:
    """The text of a run's config.toml, which can be run again as it is."""
    return resolve(config).text


def resolve(config: RunConfig, origins: Mapping[str, str] | None = None) -> ResolvedRun[RunConfig]:
    """The configuration with its tables, its TOML text and hash, and the foreign code that it uses.

    Args:
        config: the configuration.
        origins: which layer of settings set what, as `Settings.origins`; None where nobody knows.
    """
    tables = as_table(config)
    text = toml_text(tables)
    return ResolvedRun(
        config=config,
        tables=tables,
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        foreign=foreign_code(config),
        origins=dict(origins or {}),
    )


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
