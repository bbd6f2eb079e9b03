"""Which settings differ between two configurations, or two other nested tables."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen


class Missing:
    """Stands for a value that a table does not have."""

    def __repr__(self) -> str:
        return "–"


MISSING = Missing()


@frozen
class Difference:
    """A value that two tables do not share.

    Args:
        path: keys from the outermost table on, with dots between them.
        left: the value of the first table, `MISSING` where it has none.
        right: the value of the second table, likewise.
    """

    path: str
    left: Any
    right: Any


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The values in which two nested tables differ, in the order of the first table, then of the second.

    Numbers are equal where Python calls them so, except that true and 1 differ. A table that only one of the two has is
    taken apart, so that every difference is a single value.
    """
    ones, others = dict(_values(left, "")), dict(_values(right, ""))
    found = []
    for path in dict.fromkeys([*ones, *others]):
        one, other = ones.get(path, MISSING), others.get(path, MISSING)
        if isinstance(one, bool) != isinstance(other, bool) or one != other:
            found.append(Difference(path, one, other))
    return tuple(found)


def differing_texts(left: str, right: str) -> tuple[Difference, ...]:
    """As `differing`, of two texts of config.toml.

    Raises:
        TOMLDecodeError: a text is no TOML.
    """
    return differing(tomllib.loads(left), tomllib.loads(right))


def _values(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _values(value, f"{path}.")
        else:
            yield path, value
