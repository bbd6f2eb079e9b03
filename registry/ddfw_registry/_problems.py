"""Problems in nested values of a config; each level of nesting puts its own step in front of a problem's path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import evolve, frozen

from ddfw_registry.errors import DuplicateComponentError, UnknownComponentError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@frozen(kw_only=True)
class Unknown:
    """A key of a table that is none of its options.

    Args:
        key: the key.
        value: what was set.
        cls: the table's class.
        known: the table's options.
    """

    key: str
    value: object
    cls: type
    known: tuple[str, ...]


@frozen
class Issue:
    """One problem in a value or in a part of it.

    Args:
        path: path of the part within the value; "" for the value itself.
        message: what came, what was expected and, if there is one, the way out; "" for an unknown key, whose message
            needs the whole document.
        cause: the error about an unknown or duplicate component that the problem comes from; None for other problems.
        unknown: the unknown key that is the problem; None for other problems.
        missing: whether the problem is that a required option was not given.
    """

    path: str
    message: str
    cause: UnknownComponentError | DuplicateComponentError | None = None
    unknown: Unknown | None = None
    missing: bool = False

    def below(self, path: str) -> Issue:
        """The same problem with `path` put in front of its path."""
        if not path or not self.path:
            return evolve(self, path=path or self.path)
        return evolve(self, path=f"{path}{'' if self.path.startswith('[') else '.'}{self.path}")


class Invalid(Exception):
    """A value cannot be built.

    Args:
        issues: everything that is wrong with it.
    """

    def __init__(self, issues: Iterable[Issue]) -> None:
        super().__init__()
        self.issues = tuple(issues)

    @classmethod
    def because(cls, message: str, path: str = "") -> Invalid:
        """The exception for a value with a single problem."""
        return cls([Issue(path, message)])


class Collector:
    """Collects the built parts of a value, and the problems of parts that cannot be built."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.issues: list[Issue] = []

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """Collects the problems that a `with` block raises for the part at this path."""
        try:
            yield
        except Invalid as invalid:
            self.issues.extend(issue.below(path) for issue in invalid.issues)

    def finish(self) -> dict[Any, Any]:
        """Returns the built parts by their keys.

        Raises:
            Invalid: a part could not be built.
        """
        if self.issues:
            raise Invalid(self.issues)
        return self.values


def step(key: str) -> str:
    """A table's key as a step of a path, in quotes if TOML needs them."""
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key)
