"""What files that people write have in common: how they are read, and how their mistakes are named."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ddfw.config.catalog import from_table
from ddfw.errors import config_error

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise config_error(str(path), "no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise config_error(str(path), f"not a readable TOML file: {error}") from error


def structured(given: str | Mapping[str, Any], cls: type[T], place: str = "") -> T:
    """A file that users write, or a table of it, as an object of an attrs class: strictly, with every problem at once.

    Args:
        given: TOML, or tables that were read from it; their keys are the fields of the class.
        cls: an attrs class with typed, validated fields; a field may be another such class, a list, a mapping, or a
            component. An OptionError of its `__attrs_post_init__` is reported at the field that it names.
        place: what the text is called in messages, the file's name; or where the tables stand in their file.

    Raises:
        ConfigError: no TOML, unknown or missing keys, values of the wrong type; each with its place, and the nearest
            known key.
    """
    if not isinstance(given, str):
        return from_table(given, cls, place)
    try:
        tables = tomllib.loads(given)
    except (ValueError, RecursionError) as error:
        raise config_error(place, f"not a readable TOML file: {error}") from error
    return from_table(tables, cls)
