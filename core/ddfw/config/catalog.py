"""The catalogue of this process: plugins found once, components looked up when a kind is needed."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from ddfw import hookspecs
from ddfw.config.toml import dumps
from ddfw.kinds import KINDS
from ddfw_registry import Catalog, Discovery, KindInfo, Plugin, discover

T = TypeVar("T")


@cache
def plugins() -> Discovery:
    """Every installed plugin, loaded once; no hook is called and no torch loaded."""
    return discover(
        project="ddfw", group="ddfw.plugins", hookspecs=hookspecs, environ=os.environ, validate=_require_known_api
    )


def _require_known_api(plugin: Plugin) -> None:
    """Turns down a plugin that was written for a newer hook API; `DDFW_HOOK_API` in its module says which.

    Raises:
        ValueError: it was.
    """
    module = sys.modules.get(plugin.value.partition(":")[0])
    wanted = getattr(plugin.obj, "DDFW_HOOK_API", getattr(module, "DDFW_HOOK_API", 1))
    if not isinstance(wanted, int) or wanted > hookspecs.HOOK_API:
        raise ValueError(f"it needs hook API {wanted}, this ddfw has {hookspecs.HOOK_API}; install a newer ddfw")


@cache
def catalog() -> Catalog:
    """The components that the plugins offer."""
    kinds = [KindInfo(id=k.id, title=k.title, hook=k.hook, base=k.base) for k in KINDS]
    return Catalog(kinds, plugins())


def as_table(value: Any) -> dict[str, Any]:
    """A component, or a settings record, as the table of a configuration file."""
    from ddfw_registry import Structurer  # loads cattrs, which help does without

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
    from ddfw_registry import Structurer

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
