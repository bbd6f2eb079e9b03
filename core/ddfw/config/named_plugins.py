"""Plugins that a command line names with `--plugin`, beside those that are installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ddfw.config import catalog, extensions
from ddfw.config.listing import listing
from ddfw.config.listing_file import forget_records
from ddfw.errors import PluginError

VARIABLE = "DDFW_PLUGINS"

#: What the variable held before plugins were named; None where nothing was named.
_before: list[str | None] = []


def name_plugins(values: Sequence[str]) -> None:
    """Adds plugins to the variable DDFW_PLUGINS, which child processes inherit, until `forget_named_plugins`.

    Args:
        values: paths of `.py` files, from the working directory or absolute, and names of modules.

    Raises:
        PluginError: one of them is missing, cannot be imported, or offers nothing.
    """
    named = [_absolute(value) for value in values]
    if wrong := [value for value in named if "," in value]:
        raise PluginError(f"{wrong[0]}: commas separate plugins, so that none may stand in a path; rename it")
    before = os.environ.get(VARIABLE)
    listed = [_absolute(word.strip()) for word in (before or "").split(",") if word.strip()]
    _before.append(before)
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*listed, *named]))
    _ask_again()
    for failure in catalog.plugins().failures:
        if failure.value in named:
            named_by = f"plugin {failure.identity} ({failure.value})"
            raise PluginError(f"{named_by} does not work: {failure.error}{_file_meant(failure.value)}")


def forget_named_plugins() -> None:
    """Sets DDFW_PLUGINS to what it was before any plugin was named."""
    if not _before:
        return
    if _before[0] is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = _before[0]
    _before.clear()
    _ask_again()


def plugins_are_named() -> bool:
    """Whether this command line has named plugins by `--plugin`."""
    return bool(_before)


def _file_meant(value: str) -> str:
    """A question after the file in this folder that has a module's name; "" if there is none."""
    return f". Did you mean ./{value}.py?" if os.sep not in value and Path(f"{value}.py").is_file() else ""


def _absolute(value: str) -> str:
    """The absolute path, where the value is the path of a file; the name of a module as it is."""
    is_path = os.sep in value or value.endswith(".py")
    return str(Path(value).expanduser().resolve()) if is_path else value


def _ask_again() -> None:
    """Forgets what plugins offered; the next question asks all of them again."""
    from ddfw.config.recipes import recipes

    for answers in (catalog.plugins, catalog.catalog, extensions.commands, extensions.formats):
        answers.cache_clear()
    extensions.recipe_folders.cache_clear()
    recipes.cache_clear()
    forget_records()
    listing.cache_clear()
