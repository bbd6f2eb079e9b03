"""The catalogue of this process: plugins found once, components looked up when a kind is needed."""

from __future__ import annotations

import os
import tomllib
from functools import cache
from typing import Any, TypeVar

from ddfw import hookspecs
from ddfw.app.toml import dumps
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


def through_toml(component: T) -> T:
    """A component written as a configuration file's table and read again; its class need not be registered.

    Raises:
        ConfigError, TypeError, ValueError: its options do not survive that.
    """
    structurer = Structurer(catalog())
    return structurer.structure(tomllib.loads(dumps(structurer.unstructure(component))), type(component))


def named_component(kind: str, name: str, **options: Any) -> Any:
    """A component with these options, the rest as they are by default.

    Raises:
        UnknownComponentError: no plugin offers it.
    """
    return catalog().get(kind, name).cls(**options)
