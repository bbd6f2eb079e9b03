"""Finds and loads plugins one by one: a broken one becomes a named failure and the others work.

pluggy's own loader stops at the first broken plugin, drops the second of two distributions that use the same
entry-point name, and keeps quiet about misspelt hooks; this module loads and registers without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, cast

import pluggy
from attrs import frozen

from ddfw_registry._hooks import Rejected, check, foreign, remove
from ddfw_registry._sources import Candidate, candidates, normalise
from ddfw_registry._words import error_line, one_line

#: Where a plugin stopped working: being imported, being registered, being asked, or one class it offered.
Stage: TypeAlias = Literal["load", "register", "hook", "component"]

#: Environment variables, behind the project's name in capitals and an underscore.
EXTRA_PLUGINS = "PLUGINS"
DISABLED_PLUGINS = "DISABLE_PLUGINS"


def variable(project: str, name: str) -> str:
    """The full name of one of a project's environment variables."""
    return f"{project.upper()}_{name}"


@frozen
class Plugin:
    """A loaded plugin.

    Args:
        identity: `distribution:entry-point`, unique.
        name: name of the entry point.
        distribution: name of the distribution, `local` for plugins named by the environment.
        version: of the distribution, "" if there is none.
        value: what the entry point points to, `module` or `module:attribute`.
        obj: the loaded object, usually a module.
    """

    identity: str
    name: str
    distribution: str
    version: str
    value: str
    obj: object


@frozen
class PluginFailure:
    """A plugin, or a part of one, that does not work.

    Args:
        identity: of the plugin; like the three following, as in Plugin.
        name: of the entry point.
        distribution: name of the distribution.
        version: of the distribution.
        value: what the entry point points to.
        stage: `load`, `register`, `hook` or `component`.
        error: what happened, on one line of at most 300 characters.
    """

    identity: str
    name: str
    distribution: str
    version: str
    value: str
    stage: Stage
    error: str


@frozen
class DisabledPlugin:
    """A plugin that was found and, because the user says so, not imported.

    Args:
        identity: as in Plugin, like the others.
        name: of the entry point.
        distribution: name of the distribution.
        version: of the distribution.
    """

    identity: str
    name: str
    distribution: str
    version: str


@frozen
class Discovery:
    """Everything that was found; each tuple is sorted by identity.

    Args:
        manager: pluggy's manager, in which each working plugin is registered under its identity.
        plugins: those that work.
        failures: those that do not.
        disabled: those that were left alone.
        unknown_disabled: words in the disable list that match no plugin, in the user's order.
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
    """Find, load and register every plugin.

    `<PROJECT>_PLUGINS` adds importable modules and `.py` files, separated by commas. `<PROJECT>_DISABLE_PLUGINS`
    lists identities, entry-point names or distributions that are not even imported.

    Args:
        project: pluggy's project name; hook markers of plugins carry it.
        group: the entry-point group.
        hookspecs: module or class that holds the hook specifications.
        environ: the environment variables.
        validate: called with each loaded plugin before it is registered; raises to turn the plugin down.

    Returns:
        The plugins that work and those that do not. No exception of a plugin gets out, except KeyboardInterrupt.
    """
    manager = pluggy.PluginManager(project)
    manager.add_hookspecs(cast(type, hookspecs))  # modules do as well
    extra = _listed(environ, variable(project, EXTRA_PLUGINS))
    wanted = _listed(environ, variable(project, DISABLED_PLUGINS))

    found = candidates(project, group, extra)
    matched: set[str] = set()
    disabled: list[DisabledPlugin] = []
    loaded: list[Plugin] = []
    failures: list[PluginFailure] = []
    for source in found:
        words = [word for word in wanted if _matches(word, source)]
        matched.update(words)
        if words:
            disabled.append(DisabledPlugin(source.identity, source.name, source.distribution, source.version))
        elif any(source.identity == plugin.identity for plugin in loaded):
            failures.append(_failure(source, "load", "a plugin of the same identity has already been loaded"))
        else:
            try:
                loaded.append(_plugin(source, source.load()))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin may call sys.exit() while it is imported
                failures.append(_failure(source, "load", error_line(error)))

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
            failures.append(_failure(plugin, "register", text))
    return Discovery(
        manager=manager,
        plugins=tuple(plugins),
        failures=tuple(sorted(failures, key=lambda failure: failure.identity)),
        disabled=tuple(disabled),
        unknown_disabled=tuple(word for word in wanted if word not in matched),
    )


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
    # pluggy keeps implementations of hooks it does not know until asked. Everything registered before has passed, so
    # whatever is found now is this plugin's.
    manager.check_pending()


def _matches(word: str, source: Candidate) -> bool:
    distribution, colon, name = word.partition(":")
    if colon:
        return name == source.name and normalise(distribution) == normalise(source.distribution)
    return word == source.name or normalise(word) == normalise(source.distribution)


def _plugin(source: Candidate, obj: object) -> Plugin:
    return Plugin(source.identity, source.name, source.distribution, source.version, source.value, obj)


def _failure(source: Candidate | Plugin, stage: Stage, error: str) -> PluginFailure:
    return PluginFailure(
        source.identity, source.name, source.distribution, source.version, source.value, stage, one_line(error)
    )


def _listed(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The non-empty words of a comma-separated variable, each once."""
    words = (word.strip() for word in environ.get(name, "").split(","))
    return tuple(dict.fromkeys(word for word in words if word))
