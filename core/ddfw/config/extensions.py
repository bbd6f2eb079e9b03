"""Commands, formats and folders of recipes that plugins offer; plugins are asked once, on first use."""

from __future__ import annotations

import pkgutil
from functools import cache, partial
from inspect import isfunction
from pathlib import Path
from typing import Any, TypeVar

from ddfw.config.catalog import catalog, plugins
from ddfw.contracts.command import Command
from ddfw.contracts.format import Format
from ddfw.contracts.watch import watched_function
from ddfw.errors import PluginError
from ddfw_registry import Offers, collect, prints_to_stderr

Extension = TypeVar("Extension", Command, Format)


@cache
def commands() -> Offers[Command]:
    """The commands that plugins offer, by name."""
    return collect(plugins(), "ddfw_register_commands", "command", "command", partial(_named, Command), "commands")


@cache
def formats() -> Offers[Format]:
    """The formats of learned sets that plugins offer, by name."""
    return collect(plugins(), "ddfw_register_formats", "format", "format", partial(_named, Format), "formats")


@cache
def recipe_folders() -> Offers[Path]:
    """The folders of recipes that plugins offer, by path."""
    return collect(plugins(), "ddfw_register_recipes", "recipes", "folder of recipes", _folder, "folders")


def owner_of(kind: str, name: str) -> str | None:
    """The identity `distribution:entry-point` of the plugin that offers something; None if no single plugin does.

    Args:
        kind: id of a kind of components, `command` or `format`.
        name: the word that users type.
    """
    if kind == "command":
        owners = {command.name: command.plugin for command in commands().entries.values()}
    elif kind == "format":
        owners = {form.name: form.plugin for form in formats().entries.values()}
    else:
        owners = {entry.name: entry.plugin for entry in catalog().entries(kind)}
    return owners.get(name)


def imported(target: str, owner: str, what: str = "") -> Any:
    """Imports the object that a string `module:attribute` names.

    A function of a third party's plugin is watched: what it prints goes to standard error, and what it raises becomes
    a PluginError that names the plugin.

    Args:
        target: the string; the attribute may have dots.
        owner: identity of the plugin that named it, for the message.
        what: what the plugin offers by it, such as `format csv`, for the message.

    Raises:
        PluginError: the module fails to import, or has no such attribute.
    """
    try:
        with prints_to_stderr():
            found = pkgutil.resolve_name(target)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may call sys.exit()
        raise PluginError(
            f"plugin {owner} names {target}, which cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    ours = owner.partition(":")[0] == "ddfw"
    if ours or not isfunction(found):
        return found
    return watched_function(found, f"{owner} ({what})" if what else owner, target)


def _named(cls: type[Extension], item: object) -> tuple[str, Extension]:
    if not isinstance(item, cls):
        raise ValueError(f"{item!r}: it is no ddfw.{cls.__name__}")
    return item.name, item


def _folder(item: object) -> tuple[str, Path]:
    if not isinstance(item, str | Path) or not Path(item).is_dir():
        raise ValueError(f"{item!r}: it is no folder")
    return str(item), Path(item)
