"""Checks that the files of sweeps and comparisons share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import ddfw

#: Settings as in a configuration file: each is a table, or the name of a component.
Tables: TypeAlias = Mapping[str, Mapping[str, Any] | str]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def require_name(name: str, place: str) -> None:
    """Refuses a name that cannot be the name of a folder.

    Args:
        name: the name to check.
        place: for the message: where the name stands in its file, or the file itself.

    Raises:
        ConfigError: the name has other characters than letters, digits, `.`, `_` and `-`, or does not start with a
            letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise ddfw.config_error(place, f"{name!r} names a folder, too: use A-Z a-z 0-9 . _ -, a letter or digit first")


def known_recipe(instance: object, attribute: object, value: str) -> None:
    """An attrs validator that refuses a text which is not the name of a recipe; "", for no recipe, is allowed."""
    if value and value not in (known := ddfw.recipes()):
        hint = ddfw.did_you_mean(value, known) or " `ddfw recipes list` lists all."
        raise ValueError(f"unknown recipe {value!r}.{hint}")
