"""Turns recipes, files and flags into a configuration, and resolves it: text, hash and foreign code."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from ddfw.config.catalog import as_table, catalog, from_table
from ddfw.config.fingerprints import foreign_code
from ddfw.config.layers import QUICK, Settings, gather
from ddfw.config.quick import changes, scaled
from ddfw.config.run_config import RunConfig
from ddfw.config.toml import toml_text
from ddfw.contracts.labels import takes_dtype
from ddfw.contracts.records import ResolvedRun
from ddfw.errors import ConfigError

logger = logging.getLogger(__name__)


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
