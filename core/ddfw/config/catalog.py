"""The catalogue of this process: plugins found once, components looked up when a kind is needed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from ddfw import hookspecs
from ddfw.config.toml import dumps
from ddfw.kinds import KINDS
from ddfw_registry import Catalog, Discovery, KindInfo, Structurer, discover

T = TypeVar("T")


@cache
def plugins() -> Discovery:
    """Every installed plugin, loaded once; no hook is called and no torch loaded."""
    return discover(project="ddfw", group="ddfw.plugins", hookspecs=hookspecs, environ=os.environ)


@cache
def catalog() -> Catalog:
    """The components that the plugins offer."""
    kinds = [KindInfo(id=k.id, title=k.title, hook=k.hook, base=k.base) for k in KINDS]
    return Catalog(kinds, plugins())


def as_table(value: Any) -> dict[str, Any]:
    """A component, or a settings record, as the table of a configuration file."""
    return Structurer(catalog()).unstructure(value)


def from_table(table: Mapping[str, Any], cls: type[T], path: str = "") -> T:
    """The component or settings record that a table describes.

    Args:
        table: as in a configuration file.
        cls: what it has to be; for a component also the base class of its kind, the table's `name` then chooses.
        path: where the table stands in its file; the paths of problems start with it.

    Raises:
        ConfigError: every problem at once, each with its path.
    """
    return Structurer(catalog()).structure(table, cls, path)


def through_toml(component: T) -> T:
    """A component written as a configuration file's table and read again; its class need not be registered.

    Raises:
        ConfigError, TypeError, ValueError: its options do not survive that.
    """
    return from_table(tomllib.loads(dumps(as_table(component))), type(component))


def component(kind: str, name: str, **options: Any) -> Any:
    """A component with these options, the rest as they are by default.

    Raises:
        UnknownComponentError: no plugin offers it.
    """
    return catalog().get(kind, name).cls(**options)
