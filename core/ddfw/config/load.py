"""From words to a configuration: layers are merged, structured by the catalogue, and resolved once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from ddfw.config.catalog import as_table, catalog, from_table
from ddfw.config.layers import QUICK, Settings, gather
from ddfw.config.quick import changes, scaled
from ddfw.config.run_config import RunConfig
from ddfw.config.toml import dumps

if TYPE_CHECKING:
    pass


def structured_config(settings: Settings) -> RunConfig:
    """The configuration that merged settings describe.

    Raises:
        ConfigError: every problem at once, each with its path.
    """
    tables = dict(settings.tables)
    observers = tables.get("observers")
    if isinstance(observers, Mapping):
        tables["observers"] = {k: v for k, v in observers.items() if not _missing_extra(k, v, settings)}
    return from_table(tables, RunConfig)


def _missing_extra(key: str, table: object, settings: Settings) -> bool:
    """Whether an observer that only a recipe asked for is not installed; a run goes on without it."""
    said = [
        o for path, o in settings.origins.items() if path == f"observers.{key}" or path.startswith(f"observers.{key}.")
    ]
    if not said or not all(origin.startswith("recipe ") for origin in said):
        return False
    name = table.get("name", key) if isinstance(table, Mapping) else key
    if any(entry.name == name for entry in catalog().entries("observer")):
        return False
    sys.stderr.write(f"warning: the recipe's observer {name!r} is not installed or is disabled\n")
    return True


@frozen(kw_only=True)
class Configured:
    """A configuration, the settings it came from, and what `--quick` changed, a text for each value."""

    config: RunConfig
    settings: Settings
    changes: tuple[str, ...] = ()


def configure(
    start: str | Mapping[str, Any] | None,
    flags: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    assignments: Sequence[str],
    data_root: Path | None = None,
    *,
    quick: bool = False,
) -> Configured:
    """The configuration that a recipe or file, flags and --set describe, scaled down where asked for.

    Args:
        start: a recipe's name, a configuration file, complete tables, or None.
        flags: tables that flags set, or several layers of them, each laid over the one before it.
        assignments: texts of --set.
        data_root: where data sets look for their files; scaling down counts the images.
        quick: scale down.

    Raises:
        ConfigError, DataError: see there.
    """
    settings = gather(start, flags, assignments)
    config = structured_config(settings)
    if not quick:
        return Configured(config=config, settings=settings)
    settings = gather(start, flags, assignments, quick=True)
    small = scaled(structured_config(settings), config, settings, data_root)
    what = tuple(changes(config_document(config), config_document(small)))
    settings = evolve(settings, origins={**settings.origins, **{text.split(" ")[0]: QUICK for text in what}})
    return Configured(config=small, settings=settings, changes=what)


def config_document(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as tables."""
    return as_table(config)


def config_text(config: RunConfig) -> str:
    """config.toml: the resolved configuration, which runs again."""
    return dumps(config_document(config))
