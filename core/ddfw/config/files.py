"""What files that people write have in common: how they are read, and how their mistakes are named."""

from __future__ import annotations

import tomllib
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


def structured(text: str, cls: type[T], source: str = "") -> T:
    """A file that users write, as an object of an attrs class: strictly, with every problem at once.

    Args:
        text: TOML; its tables and keys are the fields of the class.
        cls: an attrs class with typed, validated fields; a field may be another such class, a list, a mapping, or a
            component.
        source: the file's name, for messages.

    Raises:
        ConfigError: no TOML, unknown or missing keys, values of the wrong type; each with its place, and the nearest
            known key.
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise config_error(source, f"not a readable TOML file: {error}") from error
    return from_table(tables, cls)
