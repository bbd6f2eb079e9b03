"""The installed plugins and the components that they offer, found once per process."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from ddfw import hookspecs
from ddfw.config.toml import toml_text
from ddfw.contracts.watch import watch
from ddfw.kinds import KINDS
from ddfw_registry import Catalog, Discovery, Entry, KindInfo, Plugin, Source, discover

T = TypeVar("T")


@cache
def plugins() -> Discovery:
    """Every installed plugin, loaded once; no hook is called and no torch loaded."""
    return discover(
        project="ddfw",
        group="ddfw.plugins",
        hookspecs=hookspecs,
        environ=os.environ,
        validate=_require_known_api,
        harmful=_harmful,
    )


def _harmful(sources: Sequence[Source]) -> Mapping[str, str]:
    """Plugins of third parties that end or hang whatever process imports them, by identity, with what happened."""
    from ddfw.config.listing_file import harmful_plugins  # imported here, since it asks the plugins by this module

    return {} if all(source.distribution == "ddfw" for source in sources) else harmful_plugins()


def _require_known_api(plugin: Plugin) -> None:
    """Refuses a plugin that needs a newer hook API; `DDFW_HOOK_API` in its module says which, 1 if it is missing.

    Raises:
        ValueError: the plugin needs a newer hook API than this version of ddfw has.
    """
    module = sys.modules.get(plugin.value.partition(":")[0])
    wanted = getattr(plugin.obj, "DDFW_HOOK_API", getattr(module, "DDFW_HOOK_API", 1))
    if not isinstance(wanted, int) or wanted > hookspecs.HOOK_API:
        raise ValueError(f"it needs hook API {wanted}, this ddfw has {hookspecs.HOOK_API}; install a newer ddfw")


@cache
def catalog() -> Catalog:
    """The components that the plugins offer."""
    kinds = [KindInfo(id=k.id, title=k.title, hook=k.hook, base=k.base) for k in KINDS]
    return Catalog(kinds, plugins(), _watch_third_party)


def _watch_third_party(entry: Entry) -> None:
    """Has a component watched that does not ship with ddfw."""
    if entry.distribution != "ddfw":
        watch(entry.cls, entry.kind, entry.plugin)


def as_table(value: Any) -> dict[str, Any]:
    """A component, or a settings record, as the table of a configuration file."""
    from ddfw_registry import Structurer  # imported here, since it loads cattrs, which slows `ddfw --help`

    return Structurer(catalog()).unstructure(value)


def from_table(table: Mapping[str, Any], cls: type[T], path: str = "") -> T:
    """The component or settings record that a table describes.

    Args:
        table: keys and values as in a configuration file.
        cls: the class to build. With the base class of a kind, the table's `name` chooses the component.
        path: where the table stands in its file; the paths of problems start with it.

    Raises:
        ConfigError: every problem at once, each with its path.
    """
    from ddfw_registry import Structurer

    return Structurer(catalog()).structure(table, cls, path)


def through_toml(component: T) -> T:
    """A component written as a table of a configuration file and read back; no plugin needs to offer its class.

    Raises:
        ConfigError, TypeError, ValueError: the options cannot be written as TOML, or not be read back.
    """
    return from_table(tomllib.loads(toml_text(as_table(component))), type(component))


def component(kind: str, name: str, **options: Any) -> Any:
    """Builds a component from its kind and name, with these options and defaults for all others.

    Raises:
        UnknownComponentError: no plugin offers a component of this kind and name.
    """
    return catalog().get(kind, name).cls(**options)
