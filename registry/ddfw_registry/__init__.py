"""Finds plugins, catalogues the components that they offer, and turns tables of options into objects.

The package is generic: its caller defines the hooks and the kinds of components. Everything public is importable from
here. `Structurer` is imported on first use, because its import of cattrs is slow and most commands read no config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddfw_registry._output import prints_to_stderr
from ddfw_registry._sources import Source
from ddfw_registry._words import did_you_mean, suggest
from ddfw_registry.catalog import Catalog, Entry, KindInfo
from ddfw_registry.describe import OptionInfo, options
from ddfw_registry.discovery import (
    DisabledPlugin,
    Discovery,
    Plugin,
    PluginFailure,
    discover,
    is_named,
    listed_in,
    watching,
)
from ddfw_registry.errors import (
    ConfigError,
    ConfigProblem,
    DuplicateComponentError,
    RegistryError,
    UnknownComponentError,
)
from ddfw_registry.offers import Offer, Offers, collect

if TYPE_CHECKING:
    from ddfw_registry.structure import Structurer

__all__ = [
    "Catalog",
    "ConfigError",
    "ConfigProblem",
    "DisabledPlugin",
    "Discovery",
    "DuplicateComponentError",
    "Entry",
    "KindInfo",
    "Offer",
    "Offers",
    "OptionInfo",
    "Plugin",
    "PluginFailure",
    "RegistryError",
    "Source",
    "Structurer",
    "UnknownComponentError",
    "collect",
    "did_you_mean",
    "discover",
    "is_named",
    "listed_in",
    "options",
    "prints_to_stderr",
    "suggest",
    "watching",
]


def __getattr__(name: str) -> object:
    if name == "Structurer":
        from ddfw_registry.structure import Structurer

        globals()[name] = Structurer
        return Structurer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
