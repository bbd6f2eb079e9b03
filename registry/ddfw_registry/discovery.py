"""Finds and loads plugins one by one, so that a broken plugin is reported and all others work.

pluggy's own loader is not used: it stops at the first broken plugin, ignores the second of two distributions with the
same entry-point name, and does not report misspelt hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeAlias, cast

import pluggy
from attrs import field, frozen

from ddfw_registry._hooks import Rejected, check, foreign, remove
from ddfw_registry._output import prints_to_stderr
from ddfw_registry._sources import Source, candidates, normalise
from ddfw_registry._words import error_line, one_line

#: The stage at which a plugin failed: its import, its registration, a call of its hook, or a class that it offers.
Stage: TypeAlias = Literal["load", "register", "hook", "component"]


#: Called with the identity of a plugin whenever code of that plugin is about to run.
_watcher: ContextVar[Callable[[str], None] | None] = ContextVar("watcher", default=None)


def disable_variable(project: str) -> str:
    """Name of the environment variable that lists a project's disabled plugins: `DDFW_DISABLE_PLUGINS` for `ddfw`."""
    return f"{project.upper()}_DISABLE_PLUGINS"


@frozen
class Plugin(Source):
    """A loaded plugin.

    Args:
        obj: the loaded object, usually a module.
    """

    obj: object


@frozen
class PluginFailure(Source):
    """A plugin, or a part of one, that does not work.

    Args:
        stage: where it failed: `load`, `register`, `hook` or `component`.
        error: what happened, on one line of at most 300 characters.
        kind: the kind of things that the hook offers; "" for a failure at `load` or `register`, which may hide
            anything.
    """

    stage: Stage
    error: str = field(converter=one_line)
    kind: str = ""


@frozen
class DisabledPlugin(Source):
    """A plugin that was found but not imported, because the user has disabled it."""


@frozen
class Discovery:
    """All plugins that were found; the tuples of plugins are sorted by identity.

    Args:
        manager: pluggy's manager, in which each working plugin is registered under its identity.
        plugins: the plugins that work.
        failures: the plugins that do not work.
        disabled: the plugins that the user has disabled.
        unknown_disabled: the words in the user's list of disabled plugins that match no plugin, in the user's order.
    """

    manager: pluggy.PluginManager
    plugins: tuple[Plugin, ...]
    failures: tuple[PluginFailure, ...]
    disabled: tuple[DisabledPlugin, ...]
    unknown_disabled: tuple[str, ...] = ()


def discover(
    *,
    project: str,
    group: str,
    hookspecs: object,
    environ: Mapping[str, str],
    validate: Callable[[Plugin], None] | None = None,
    harmful: Callable[[Sequence[Source]], Mapping[str, str]] | None = None,
) -> Discovery:
    """Finds, loads and registers all plugins.

    The environment variable `<PROJECT>_PLUGINS` adds modules and `.py` files, separated by commas.
    `<PROJECT>_DISABLE_PLUGINS` lists identities, entry-point names or distributions that are not imported.

    Args:
        project: pluggy's project name, which the hook markers of plugins carry.
        group: name of the entry-point group.
        hookspecs: module or class that holds the hook specifications.
        environ: the environment variables.
        validate: called with each loaded plugin before it is registered; an exception rejects the plugin.
        harmful: called with all plugins that are about to be imported; returns, by identity, those that would end or
            hang this process, each with what happened. They are not imported and count as failures.

    Returns:
        The plugins that work and those that do not. No exception of a plugin is passed on, except KeyboardInterrupt.
    """
    manager = pluggy.PluginManager(project)
    manager.add_hookspecs(cast(type, hookspecs))  # pluggy accepts modules too, but its annotation does not
    extra = listed_in(environ, f"{project.upper()}_PLUGINS")
    wanted = listed_in(environ, disable_variable(project))

    found = candidates(project, group, extra)
    matched: set[str] = set()
    disabled: list[DisabledPlugin] = []
    loaded: list[Plugin] = []
    failures: list[PluginFailure] = []
    chosen = [source for source in found if not any(is_named(word, source) for word in wanted)]
    reasons = {} if harmful is None else harmful(chosen)
    for source in found:
        words = [word for word in wanted if is_named(word, source)]
        matched.update(words)
        if words:
            disabled.append(DisabledPlugin(*source.place))
            continue
        if source.identity in reasons:
            failures.append(PluginFailure(*source.place, "load", reasons[source.identity]))
            continue
        with recorded(failures, source, "load"):  # a plugin may call sys.exit() while it is imported
            if any(source.identity == plugin.identity for plugin in loaded):
                raise Rejected("a plugin of the same identity has already been loaded")
            loaded.append(Plugin(*source.place, source.load()))

    homes = {source.identity: source.module for source in found}
    strangers = foreign(manager, {plugin.identity: plugin.obj for plugin in loaded}, homes)
    return Discovery(
        manager=manager,
        plugins=tuple(_registered(manager, loaded, strangers, validate, failures)),
        failures=tuple(sorted(failures, key=lambda failure: failure.identity)),
        disabled=tuple(disabled),
        unknown_disabled=tuple(word for word in wanted if word not in matched),
    )


def _registered(
    manager: pluggy.PluginManager,
    loaded: list[Plugin],
    strangers: Mapping[str, str],
    validate: Callable[[Plugin], None] | None,
    failures: list[PluginFailure],
) -> Iterator[Plugin]:
    """The plugins that can be registered; the others are added to the failures."""
    for plugin in loaded:
        with recorded(failures, plugin, "register"):
            try:
                _register(manager, plugin, strangers, validate)
            except BaseException:
                remove(manager, plugin.identity)
                raise
            yield plugin


@contextmanager
def watching(told: Callable[[str], None]) -> Iterator[None]:
    """Tells a function which plugin's code is about to run, inside a `with` block.

    Args:
        told: called with the plugin's identity before the plugin is imported, registered, or its hook called.
    """
    token = _watcher.set(told)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def recorded(
    failures: list[PluginFailure], source: Source, stage: Stage, prefix: str = "", kind: str = ""
) -> Iterator[None]:
    """Records any exception of a `with` block as a failure of a plugin, except KeyboardInterrupt.

    What the plugin prints goes to standard error, because standard output belongs to what the user asked for.

    Args:
        failures: the list to which the failure is added.
        source: the plugin.
        stage: what the block does.
        prefix: start of the failure's text.
        kind: the kind of things that the block asks for; "" for none.
    """
    if (told := _watcher.get()) is not None:
        told(source.identity)
    try:
        with prints_to_stderr():
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = str(error) if isinstance(error, Rejected) else error_line(error)
        failures.append(PluginFailure(*source.place, stage, f"{prefix}{text}", kind))


def _register(
    manager: pluggy.PluginManager,
    plugin: Plugin,
    strangers: Mapping[str, str],
    validate: Callable[[Plugin], None] | None,
) -> None:
    if plugin.identity in strangers:
        raise Rejected(strangers[plugin.identity])
    for name, known in manager.list_name_plugin():
        if known is plugin.obj:
            raise Rejected(f"it points to the same object as {name}, which is registered already")
    check(manager, plugin.obj)
    if validate is not None:
        validate(plugin)
    manager.register(plugin.obj, name=plugin.identity)
    # pluggy reports implementations of unknown hooks only in check_pending. All plugins registered before have passed
    # it, so an error now belongs to this plugin.
    manager.check_pending()


def is_named(word: str, source: Source) -> bool:
    """Whether a word of the list of disabled plugins means this plugin: its identity, name or distribution."""
    distribution, colon, name = word.partition(":")
    if colon:
        return name == source.name and normalise(distribution) == normalise(source.distribution)
    return word == source.name or normalise(word) == normalise(source.distribution)


def listed_in(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The non-empty words of a comma-separated environment variable, without repetitions."""
    words = (word.strip() for word in environ.get(name, "").split(","))
    return tuple(dict.fromkeys(word for word in words if word))
