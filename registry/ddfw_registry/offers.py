"""Collects what plugins offer through one hook; every implementation is called by itself and its faults recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import pluggy
from attrs import frozen

from ddfw_registry._hooks import Rejected
from ddfw_registry._words import show
from ddfw_registry.discovery import Discovery, PluginFailure, disable_variable, recorded
from ddfw_registry.errors import DuplicateComponentError, UnknownComponentError

T = TypeVar("T")


@frozen
class Offer(Generic[T]):
    """One thing that a plugin offers.

    Args:
        name: the word that users type.
        item: the offered object.
        plugin: identity (`distribution:entry-point`) of the plugin.
        distribution: name of the plugin's distribution.
        version: version of the plugin's distribution; "" if it has none.
    """

    name: str
    item: T
    plugin: str
    distribution: str
    version: str


@frozen
class Offers(Generic[T]):
    """All that plugins offer through one hook.

    Args:
        kind: short name of the kind of things that the hook offers.
        title: name of the kind in messages.
        entries: the offers by name, without names that are offered more than once.
        duplicates: the names that are offered more than once, each with the identities of the plugins that offer it.
        failures: the plugins and single items that do not work.
        disable_variable: name of the environment variable that disables plugins.
    """

    kind: str
    title: str
    entries: Mapping[str, Offer[T]]
    duplicates: Mapping[str, tuple[str, ...]]
    failures: tuple[PluginFailure, ...]
    disable_variable: str

    def get(self, name: str, path: str = "") -> Offer[T]:
        """The offer of this name.

        Args:
            name: the name that the user typed.
            path: where in the configuration the name stands, for error messages; "" if it stands in none.

        Raises:
            UnknownComponentError: no plugin offers the name.
            DuplicateComponentError: the name is offered more than once.
        """
        if name in self.entries:
            return self.entries[name]
        if name in self.duplicates:
            raise DuplicateComponentError(
                self.kind, name, self.duplicates[name], path, self.title, self.disable_variable
            )
        known = tuple(sorted([*self.entries, *self.duplicates]))
        raise UnknownComponentError(self.kind, self.title, name, known, path)


def collect(
    discovery: Discovery, hook: str, kind: str, title: str, named: Callable[[object], tuple[str, T]], what: str
) -> Offers[T]:
    """Calls every implementation of a hook and collects what the plugins offer.

    A plugin whose hook raises, and an item that is not acceptable, are left out and recorded; everything else works.

    Args:
        discovery: the loaded plugins.
        hook: name of the hook; its implementations take no arguments and return a list.
        kind: short name of the kind of things that the hook offers.
        title: name of the kind in messages.
        named: returns an item's name and the item, or raises a ValueError that says what is wrong with the item.
        what: word for the items of the hook's list in messages, for example "classes".
    """
    plugins = {plugin.identity: plugin for plugin in discovery.plugins}
    offered: dict[str, list[Offer[T]]] = defaultdict(list)
    failures: list[PluginFailure] = []
    caller: pluggy.HookCaller = getattr(discovery.manager.hook, hook)
    # Implementations are called one by one: in a call of the whole hook, one exception would end all others.
    for implementation in sorted(caller.get_hookimpls(), key=lambda impl: impl.plugin_name):
        plugin = plugins[implementation.plugin_name]
        items: list[object] = []
        with recorded(failures, plugin, "hook", f"{hook}: ", kind):
            items = _items(implementation, what)
        for item in items:
            try:
                name, accepted = named(item)
            except ValueError as error:
                failures.append(PluginFailure(*plugin.place, "component", f"{title} {error}", kind))
                continue
            offer = Offer(name, accepted, plugin.identity, plugin.distribution, plugin.version)
            if offer not in offered[name]:
                offered[name].append(offer)
    return Offers(
        kind=kind,
        title=title,
        entries={name: found[0] for name, found in sorted(offered.items()) if len(found) == 1},
        duplicates={
            name: tuple(dict.fromkeys(offer.plugin for offer in found))
            for name, found in sorted(offered.items())
            if len(found) > 1
        },
        failures=tuple(failures),
        disable_variable=disable_variable(discovery.manager.project_name),
    )


def _items(implementation: pluggy.HookImpl, what: str) -> list[object]:
    if implementation.hookwrapper or implementation.wrapper:
        raise Rejected(f"this hook collects {what} and cannot be wrapped")
    returned: object = implementation.function()
    if not isinstance(returned, Iterable) or isinstance(returned, type | str):
        raise Rejected(f"returned {show(returned)} instead of a list of {what}")
    return list(returned)
