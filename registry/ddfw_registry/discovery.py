"""Finds and loads plugins one by one, so that a broken plugin is reported and all others work.

pluggy's own loader is not used: it stops at the first broken plugin, ignores the second of two distributions with the
same entry-point name, and does not report misspelt hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, cast

import pluggy
from attrs import frozen

from ddfw_registry._hooks import Rejected, check, foreign, remove
from ddfw_registry._sources import Candidate, candidates, normalise
from ddfw_registry._words import error_line, one_line

#: The stage at which a plugin failed: its import, its registration, a call of its hook, or a class that it offers.
Stage: TypeAlias = Literal["load", "register", "hook", "component"]

#: Ends of the names of environment variables; they start with the project's name in capitals and an underscore.
EXTRA_PLUGINS = "PLUGINS"
DISABLED_PLUGINS = "DISABLE_PLUGINS"


def variable(project: str, name: str) -> str:
    """The full name of an environment variable of a project: `DDFW_PLUGINS` for `ddfw` and `PLUGINS`."""
    return f"{project.upper()}_{name}"


@frozen
class _Found:
    """A plugin that was found.

    Args:
        identity: the plugin's unique name `distribution:entry-point`.
        name: name of the entry point.
        distribution: name of the distribution; `local` for plugins that an environment variable names.
        version: version of the distribution; "" if it has none.
    """

    identity: str
    name: str
    distribution: str
    version: str


@frozen
class Plugin(_Found):
    """A loaded plugin.

    Args:
        identity, name, distribution, version: of the plugin.
        value: the entry point's value, `module` or `module:attribute`.
        obj: the loaded object, usually a module.
    """

    value: str
    obj: object


@frozen
class PluginFailure(_Found):
    """A plugin, or a part of one, that does not work.

    Args:
        identity, name, distribution, version: of the plugin.
        value: the entry point's value, `module` or `module:attribute`.
        stage: where it failed: `load`, `register`, `hook` or `component`.
        error: what happened, on one line of at most 300 characters.
    """

    value: str
    stage: Stage
    error: str


@frozen
class DisabledPlugin(_Found):
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

    Returns:
        The plugins that work and those that do not. No exception of a plugin is passed on, except KeyboardInterrupt.
    """
    manager = pluggy.PluginManager(project)
    manager.add_hookspecs(cast(type, hookspecs))  # pluggy accepts modules too, but its annotation does not
    extra = _listed(environ, variable(project, EXTRA_PLUGINS))
    wanted = _listed(environ, variable(project, DISABLED_PLUGINS))

    found = candidates(project, group, extra)
    disabled = [source for source in found if any(_matches(word, source) for word in wanted)]
    loaded, failures = _loaded([source for source in found if source not in disabled])
    homes = {source.identity: source.module for source in found}
    strangers = foreign(manager, {plugin.identity: plugin.obj for plugin in loaded}, homes)
    plugins: list[Plugin] = []
    for plugin in loaded:
        try:
            _register(manager, plugin, strangers, validate)
            plugins.append(plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            remove(manager, plugin.identity)
            text = str(error) if isinstance(error, Rejected) else error_line(error)
            failures.append(failure(plugin, "register", text))
    return Discovery(
        manager=manager,
        plugins=tuple(plugins),
        failures=tuple(sorted(failures, key=lambda failure: failure.identity)),
        disabled=tuple(DisabledPlugin(*_facts(source)) for source in disabled),
        unknown_disabled=tuple(word for word in wanted if not any(_matches(word, source) for source in disabled)),
    )


def _loaded(sources: Sequence[Candidate]) -> tuple[list[Plugin], list[PluginFailure]]:
    """Imports plugins one by one; gives those that could be imported, and why the others could not."""
    loaded: list[Plugin] = []
    failures: list[PluginFailure] = []
    for source in sources:
        if any(source.identity == plugin.identity for plugin in loaded):
            failures.append(failure(source, "load", "a plugin of the same identity has already been loaded"))
            continue
        try:
            loaded.append(Plugin(*_facts(source), source.value, source.load()))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may call sys.exit() while it is imported
            failures.append(failure(source, "load", error_line(error)))
    return loaded, failures


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


def _matches(word: str, source: Candidate) -> bool:
    distribution, colon, name = word.partition(":")
    if colon:
        return name == source.name and normalise(distribution) == normalise(source.distribution)
    return word == source.name or normalise(word) == normalise(source.distribution)


def _facts(source: Candidate | Plugin) -> tuple[str, str, str, str]:
    return source.identity, source.name, source.distribution, source.version


def failure(source: Candidate | Plugin, stage: Stage, error: str) -> PluginFailure:
    """A failure of this plugin; the text may have several lines and any length."""
    return PluginFailure(*_facts(source), source.value, stage, one_line(error))


def _listed(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The non-empty words of a comma-separated environment variable, without repetitions."""
    words = (word.strip() for word in environ.get(name, "").split(","))
    return tuple(dict.fromkeys(word for word in words if word))
