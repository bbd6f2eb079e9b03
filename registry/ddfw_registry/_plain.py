"""Turns objects into values that a config file can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import attrs

from ddfw_registry._types import option_name
from ddfw_registry.errors import RegistryError


def plain(value: object, is_component: Callable[[object], bool]) -> object:
    """Turns a value into tables, lists, texts, numbers and booleans.

    Options that are None are left out, because TOML has no null; a component's table starts with its name.

    Args:
        value: an option's value, or an instance of an attrs class.
        is_component: tells whether an attrs instance is a component, which has a name that users type.

    Raises:
        RegistryError: the value, or a part of it, cannot be written to a config file.
    """
    match value:
        case Enum():
            return value.value
        case bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case list() | tuple():
            return [plain(item, is_component) for item in value]
        case Mapping():
            return {str(key): plain(item, is_component) for key, item in value.items() if item is not None}
    item: Any = value
    cls = type(item)
    if not attrs.has(cls):
        raise RegistryError(f"a config file cannot hold a value of type {cls.__name__}")
    table: dict[str, object] = {"name": item.name} if is_component(value) else {}
    for field in attrs.fields(cls):
        option = getattr(item, field.name)
        if field.init and option is not None:
            table[option_name(field)] = plain(option, is_component)
    return table
