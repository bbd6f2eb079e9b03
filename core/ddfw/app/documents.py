"""What files that people write have in common: how they are read, and how their mistakes are named."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ddfw_registry import ConfigError, Problem, suggest


def problem(path: str, message: str) -> ConfigError:
    """An error about one place."""
    return ConfigError((Problem(path=path, message=message),))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise problem(str(path), "no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise problem(str(path), f"not a readable TOML file: {error}") from error


def require_known(given: Iterable[str], offered: Iterable[str], path: str, what: str) -> None:
    """Refuses a key that nobody reads, with the nearest one that somebody does.

    Args:
        given: the keys of a table.
        offered: those that it may have.
        path: where the table stands, "" for the whole file.
        what: what a key is called.

    Raises:
        ConfigError: a key is not among them.
    """
    names = tuple(offered)
    for key in given:
        if key not in names:
            close = suggest(key, names)
            hint = f" Did you mean {close!r}?" if close else ""
            place = f"{path}.{key}" if path else key
            raise problem(place, f"unknown {what} {key!r}.{hint} Known: {', '.join(names)}")
