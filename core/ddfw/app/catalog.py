"""The catalogue of this process: plugins found once, components looked up when a kind is needed."""

from __future__ import annotations

import os
from functools import cache

from ddfw import hookspecs
from ddfw.kinds import KINDS
from ddfw_registry import Catalog, Discovery, KindInfo, discover


@cache
def plugins() -> Discovery:
    """Every installed plugin, loaded once; no hook is called and no torch loaded."""
    return discover(project="ddfw", group="ddfw.plugins", hookspecs=hookspecs, environ=os.environ)


@cache
def catalog() -> Catalog:
    """The components that the plugins offer."""
    kinds = [KindInfo(id=k.id, title=k.title, hook=k.hook, base=k.base) for k in KINDS]
    return Catalog(kinds, plugins())
