"""Writing TOML, and reading the values of `--set`; the standard library only reads."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from typing import Any


def dumps(tables: Mapping[str, Any], comment: Callable[[str], str] = lambda path: "") -> str:
    """A TOML document.

    Args:
        tables: str, bool, int, float, lists of these, and mappings.
        comment: gives the comment behind a value from its dotted path, "" for none.
    """
    lines: list[str] = []
    _table(lines, "", tables, comment)
    return "\n".join(lines).strip() + "\n"


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none (`--set param.name=lss` needs no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (ValueError, RecursionError):
        return text


def _table(lines: list[str], path: str, table: Mapping[str, Any], comment: Callable[[str], str]) -> None:
    plain = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    nested = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    if path and (plain or not nested):
        lines += ["", f"[{path}]"]
    for key, value in plain.items():
        said = "".join(c if c.isprintable() else " " for c in comment(f"{path}.{key}" if path else key))
        lines.append(f"{_key(key)} = {_value(value)}" + (f"  # {said}" if said else ""))
    for key, value in nested.items():
        _table(lines, f"{path}.{_key(key)}" if path else _key(key), value, comment)


def _key(key: str) -> str:
    return key if key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key) else _text(key)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but TOML wants DEL escaped too and knows no surrogates.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "nan"
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        text = repr(value)
        return text if "." in text or "e" in text else f"{text}.0"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    raise TypeError(f"TOML has no {type(value).__name__}")
