"""Checks of a plugin's hook implementations before the plugin is registered."""

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
    """A plugin is not registered; the text tells its author why."""


def implementations(manager: pluggy.PluginManager, obj: object) -> Iterator[tuple[str, bool, object]]:
    """The hook implementations of a plugin object: (name of the hook, whether an unknown hook is allowed, function)."""
    for attribute in dir(obj):
        opts = manager.parse_hookimpl_opts(obj, attribute)
        if opts is not None:
            yield opts.get("specname") or attribute, bool(opts.get("optionalhook")), getattr(obj, attribute)


def check(manager: pluggy.PluginManager, obj: object) -> None:
    """Checks that a plugin implements a hook, only known hooks, and takes no arguments that are never passed.

    Args:
        manager: pluggy's manager with the hook specifications.
        obj: the plugin object.

    Raises:
        Rejected: the plugin breaks one of these rules.
    """
    known = [name for name, caller in vars(manager.hook).items() if _is_specified(caller)]
    offered = list(implementations(manager, obj))
    if not offered:
        wrong = "it offers no hook: nothing in it is marked as a hook implementation of this project"
        hooks = [name for name in dir(obj) if name.startswith(f"{manager.project_name}_")]
        forgotten = [name for name in hooks if callable(getattr(obj, name, None))]
        raise Rejected(f"{wrong}; {forgotten[0]} lacks the decorator @hookimpl" if forgotten else wrong)
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
    """Finds plugin modules that contain another plugin's hook implementation.

    `from other_plugin import ddfw_register_models` in a plugin would register that function twice, and would bring back
    a plugin that the user has disabled.

    Args:
        manager: pluggy's manager with the hook specifications.
        objects: plugin objects by identity.
        homes: name of the module of every plugin by identity, including disabled and broken plugins.

    Returns:
        For each plugin with a fault, by identity, a text that says what is wrong.
    """
    functions: dict[int, list[tuple[str, object]]] = defaultdict(list)
    for identity, obj in objects.items():
        if isinstance(obj, ModuleType):  # an object's methods are its own, whatever module its class comes from
            with suppress(Exception):  # an object that cannot be inspected is rejected when it is registered
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
    """Removes a plugin from the manager, together with unknown hooks that only this plugin implemented."""
    with suppress(Exception):  # pluggy compares plugin objects, and a plugin's __eq__ may raise anything
        if manager.has_plugin(identity):
            manager.unregister(name=identity)
    for name, caller in list(vars(manager.hook).items()):
        if isinstance(caller, pluggy.HookCaller) and not caller.has_spec() and not caller.get_hookimpls():
            delattr(manager.hook, name)


def _is_specified(caller: object) -> bool:
    return isinstance(caller, pluggy.HookCaller) and caller.has_spec()
