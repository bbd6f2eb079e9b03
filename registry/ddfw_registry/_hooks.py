"""What is asked of a plugin's hook implementations before they are registered."""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import ModuleType

import pluggy

from ddfw_registry._words import did_you_mean


class Rejected(Exception):
    """A plugin is turned down; the text is meant for its author."""


def implementations(manager: pluggy.PluginManager, obj: object) -> Iterator[tuple[str, bool, object]]:
    """The hook implementations of a plugin object, as (hook's name, optional, function)."""
    for attribute in dir(obj):
        opts = manager.parse_hookimpl_opts(obj, attribute)
        if opts is not None:
            yield opts.get("specname") or attribute, bool(opts.get("optionalhook")), getattr(obj, attribute)


def check(manager: pluggy.PluginManager, obj: object) -> None:
    """Turn down a plugin that offers no hook, implements unknown hooks, or has parameters that are never filled.

    Raises:
        Rejected: with what is wrong.
    """
    known = [name for name, caller in vars(manager.hook).items() if _is_specified(caller)]
    offered = list(implementations(manager, obj))
    if not offered:
        raise Rejected("it offers no hook: nothing in it is marked as a hook implementation of this project")
    for name, optional, function in offered:
        if name not in known:
            if optional:
                continue
            raise Rejected(f"unknown hook {name!r}.{did_you_mean(name, known)}")
        for parameter in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
            if parameter.default is not inspect.Parameter.empty:
                raise Rejected(
                    f"hook {name!r}: parameter {parameter.name!r} has a default, and pluggy never fills such parameters"
                )


def foreign(manager: pluggy.PluginManager, objects: Mapping[str, object], homes: Mapping[str, str]) -> dict[str, str]:
    """Plugins that hold a hook implementation which belongs to another plugin.

    `from other_plugin import ddfw_register_models` would register that function a second time, and would also bring
    back a plugin that the user has disabled.

    Args:
        manager: pluggy's manager.
        objects: plugin objects by identity.
        homes: the module of every plugin by identity, disabled and broken ones included.

    Returns:
        What is wrong, by identity.
    """
    functions: dict[int, list[tuple[str, object]]] = defaultdict(list)
    for identity, obj in objects.items():
        if isinstance(obj, ModuleType):  # methods of an object are its own, wherever their class was written
            with suppress(Exception):  # an object that cannot be inspected is turned down when it is registered
                for _, _, function in implementations(manager, obj):
                    functions[id(function)].append((identity, function))
    wrong: dict[str, str] = {}
    for holders in functions.values():
        for identity, function in holders:
            home, name = getattr(function, "__module__", None), getattr(function, "__name__", "")
            if home is None or home == getattr(objects[identity], "__name__", None):
                continue
            owners = [owner for owner, module in homes.items() if module == home and owner != identity]
            owned = bool(owners) and getattr(sys.modules.get(home), name, None) is function
            if owned or len(holders) > 1:
                owner = f" (plugin {owners[0]})" if owned else ""
                wrong[identity] = f"it imported another plugin's hook implementation: {name!r} of {home}{owner}"
    return wrong


def remove(manager: pluggy.PluginManager, identity: str) -> None:
    """Take a plugin out of the manager, together with the callers of hooks that only it knew."""
    with suppress(Exception):  # pluggy compares plugin objects, whose __eq__ may be anything
        if manager.has_plugin(identity):
            manager.unregister(name=identity)
    for name, caller in list(vars(manager.hook).items()):
        if isinstance(caller, pluggy.HookCaller) and not caller.has_spec() and not caller.get_hookimpls():
            delattr(manager.hook, name)


def _is_specified(caller: object) -> bool:
    return isinstance(caller, pluggy.HookCaller) and caller.has_spec()
