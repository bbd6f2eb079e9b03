"""What files that people write have in common: how they are read, and how their mistakes are named."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ddfw.errors import config_error


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
