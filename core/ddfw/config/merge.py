"""Merges one layer of settings into another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddfw.config.run_config import COMPONENT_TABLES


def merge(into: dict[str, Any], tables: Mapping[str, Any], path: str, origin: str, origins: dict[str, str]) -> None:
    """Merges one layer of settings into another; a table that names another component replaces the old table.

    Args:
        into: the settings so far; updated in place.
        tables: the layer whose values override them.
        path: dotted path of both in the configuration, "" for the whole of it.
        origin: name of the layer, such as "flag".
        origins: for each dotted path, the name of the layer that set its value; updated in place.
    """
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
