"""Problems on their way up: each level of a document adds its own step to their paths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import evolve, frozen

from ddfw_registry.errors import DuplicateComponentError, UnknownComponentError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@frozen
class Issue:
    """One problem, its path counted from the level that reports it.

    Args:
        path: "" for the level itself.
        message: as in Problem.
        cause: the error behind it, if it is about a component.
    """

    path: str
    message: str
    cause: UnknownComponentError | DuplicateComponentError | None = None

    def below(self, path: str) -> Issue:
        """The same problem as the next level up sees it."""
        if not path or not self.path:
            return evolve(self, path=path or self.path)
        return evolve(self, path=f"{path}{'' if self.path.startswith('[') else '.'}{self.path}")


class Invalid(Exception):
    """A value cannot be built, for one reason or several.

    Args:
        issues: the reasons.
    """

    def __init__(self, issues: Iterable[Issue]) -> None:
        super().__init__()
        self.issues = tuple(issues)

    @classmethod
    def because(cls, message: str, path: str = "") -> Invalid:
        """A value with a single reason."""
        return cls([Issue(path, message)])


class Collector:
    """Builds the parts of a value one after another and goes on after a part that cannot be built."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.issues: list[Issue] = []

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """Collect the problems of a part that stands at this path."""
        try:
            yield
        except Invalid as invalid:
            self.issues.extend(issue.below(path) for issue in invalid.issues)

    def finish(self) -> dict[Any, Any]:
        """The parts, by what they were filed under.

        Raises:
            Invalid: a part could not be built.
        """
        if self.issues:
            raise Invalid(self.issues)
        return self.values


def step(key: str) -> str:
    """A table's key as a step of a path, in quotes where a config file would need them."""
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key)
