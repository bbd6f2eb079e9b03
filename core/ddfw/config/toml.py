"""Writes TOML, which the standard library can only read, and reads the values of `--set`."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

#: Bits of an integer in a TOML document; the standard asks for 64, and Python writes no more than 14,000 in decimal.
_MOST_BITS = 1024


def toml_text(tables: Mapping[str, Any], comment: Callable[[str], str] = lambda path: "") -> str:
    """The text of a TOML document.

    Args:
        tables: str, bool, int, float, lists of these, and mappings.
        comment: called with the dotted path of each value; returns the comment to write behind it, "" for none.

    Raises:
        TypeError: a value has another type.
    """
    lines: list[str] = []
    _table(lines, "", tables, comment)
    return "\n".join(lines).strip() + "\n"


def read_tables(text: str) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises:
        ValueError: it is no TOML, or holds an integer that Python does not write in decimal.
        RecursionError: tables or lists are nested too deep.
    """
    tables = tomllib.loads(text)
    _require_writable(tables)
    return tables


def _require_writable(value: Any) -> None:
    if isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            _require_writable(part)
    elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"an integer of {value.bit_length():,} bits, expected {_MOST_BITS} at most")


def parse_value(text: str) -> Any:
    """The value of a TOML literal, or the text itself if it is not one: `--set param.name=lss` needs no quotes."""
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
    # JSON's escapes are valid in TOML, except pairs of surrogates; TOML also demands that DEL is escaped.
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
