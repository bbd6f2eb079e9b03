"""The markers that a plugin's entry-point module imports. Importing this module never loads torch."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pluggy

#: Marks a function of a plugin as an implementation of one of the hooks in `ddfw.hookspecs`.
hookimpl = pluggy.HookimplMarker("ddfw")
#: Marks a hook specification of `ddfw.hookspecs`; plugins do not need it.
hookspec = pluggy.HookspecMarker("ddfw")


def offers(hook: str, *items: object) -> SimpleNamespace:
    """An object for an entry point, with one hook implementation that returns these items.

    Args:
        hook: the hook's name, such as `ddfw_register_models`.
        items: the objects to offer. A string `module:attribute` names an object that is imported when the hook is
            called, so that a component's module is loaded only when its kind is needed.
    """

    def implementation() -> list[object]:
        return [_imported(item) if isinstance(item, str) else item for item in items]

    return SimpleNamespace(**{hook: hookimpl(implementation)})


def _imported(target: str) -> object:
    module, _, name = target.partition(":")
    found: object = getattr(importlib.import_module(module), name)
    return found
