"""Reads TOML files that users write, and reports their mistakes with the place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ddfw.artifacts.opening import MAX_TEXT, read_whole
from ddfw.config.catalog import from_table
from ddfw.config.toml import read_tables
from ddfw.errors import DataError, config_error

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ConfigError: the file is missing, unreadable or not TOML.
    """
    if path.is_dir():
        words = "is a folder, expected a TOML file; a run's settings are in its config.toml"
        raise config_error(str(path), words)
    if not path.exists():
        raise config_error(str(path), "no such file")
    try:
        return read_tables(read_whole(path, MAX_TEXT).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise config_error(str(path), "not a readable TOML file: it is no text in UTF-8") from None
    except DataError as error:
        raise config_error(str(path), str(error).removeprefix(f"{path} ")) from None
    except (ValueError, RecursionError) as error:
        raise config_error(str(path), f"not a readable TOML file: {error}") from error


def structured(given: str | Mapping[str, Any], cls: type[T], place: str = "") -> T:
    """Builds an object of an attrs class from TOML; unknown keys are errors, and all problems are reported at once.

    Args:
        given: TOML text, or tables that were read from TOML; the keys are the fields of the class.
        cls: an attrs class with typed, validated fields; a field may be another such class, a list, a mapping, or a
            component. An OptionError of its `__attrs_post_init__` is reported at the field that it names.
        place: for messages: the file's name if a text is given, otherwise the path of the tables in their file.

    Raises:
        ConfigError: invalid TOML, unknown or missing keys, or values of the wrong type; each problem with its path,
            and for an unknown key the nearest known one.
    """
    if not isinstance(given, str):
        return from_table(given, cls, place)
    try:
        tables = read_tables(given)
    except (ValueError, RecursionError) as error:
        raise config_error(place, f"not a readable TOML file: {error}") from error
    return from_table(tables, cls)
