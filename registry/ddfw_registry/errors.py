"""The errors of turning a config into objects; each error's text is made from its attributes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Self

from attrs import define, evolve, field, frozen

from ddfw_registry._words import did_you_mean, either, suggest

#: Largest number of problems in the text of a ConfigError, so that the user's command stays visible above it.
_MOST_LINES = 6


def _tuple(items: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(items)


class RegistryError(Exception):
    """Base class of this package's errors."""


@define(slots=False)
class _ComponentError(RegistryError):
    """Base class of errors about a component's name, which have a `path` and a `message`."""

    path: str = field(default="", kw_only=True)

    @property
    @abstractmethod
    def message(self) -> str:
        """The text without the path."""

    def at(self, path: str) -> Self:
        """The same error at another path."""
        return evolve(self, path=path)

    def __str__(self) -> str:
        return f"{self.message} (at {self.path})" if self.path else self.message


@define(slots=False)
class UnknownComponentError(_ComponentError):
    """No plugin offers a component of the given name.

    Args:
        kind: id of the kind.
        title: name of the kind in messages.
        name: the name that was asked for.
        known: the names that plugins offer.
        path: where in the config the name stands; "" if it stands in none.
    """

    kind: str
    title: str
    name: str
    known: tuple[str, ...] = field(default=(), converter=_tuple)
    path: str = ""

    @property
    def suggestion(self) -> str | None:
        """The known name that was probably meant; None if none is close."""
        return suggest(self.name, self.known)

    @property
    def message(self) -> str:
        """The text without the path."""
        known = f" Known: {', '.join(self.known)}." if self.known else " No plugin offers one."
        return f"unknown {self.title} {self.name!r}.{did_you_mean(self.name, self.known)}{known}"


@define(slots=False)
class DuplicateComponentError(_ComponentError):
    """The name of a component is offered more than once.

    Args:
        kind: id of the kind.
        name: the name that was asked for.
        owners: identities of the plugins that offer it; only one if a plugin offers two classes of this name.
        path: where in the config the name stands; "" if it stands in none.
        title: name of the kind in messages; "" to use the id.
        variable: name of the environment variable that disables plugins.
    """

    kind: str
    name: str
    owners: tuple[str, ...] = field(converter=_tuple)
    path: str = ""
    title: str = ""
    variable: str = "DDFW_DISABLE_PLUGINS"

    @property
    def message(self) -> str:
        """The text without the path."""
        what = f"{self.title or self.kind} {self.name!r}"
        if len(self.owners) == 1:
            return f"{what} is offered twice by {self.owners[0]}. Disable it: {self.variable}={self.owners[0]}."
        ways = either([f"{self.variable}={owner}" for owner in self.owners])
        return f"{what} is offered by {either(self.owners, 'and')}. Keep one of them by disabling the rest: {ways}."


@frozen
class ConfigProblem:
    """One thing that is wrong in a config.

    Args:
        path: dotted path in the config with list positions in brackets (`param.ranks[1]`); "" for the whole document.
        message: what came, what was expected and, if there is one, the way out.
        missing: whether the problem is that a required option was not given.
    """

    path: str
    message: str
    missing: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


@define(slots=False)
class ConfigError(RegistryError):
    """A config cannot be turned into objects.

    Args:
        problems: everything that is wrong, in the order of the document's fields.
        causes: the errors about unknown or duplicate components among the problems.
    """

    problems: tuple[ConfigProblem, ...] = field(converter=_tuple)
    causes: tuple[RegistryError, ...] = field(default=(), converter=_tuple)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if len(lines) > _MOST_LINES:
            hidden = len(lines) - (_MOST_LINES - 1)
            lines = [*lines[: _MOST_LINES - 1], f"... and {hidden} more"]
        return "\n".join(lines)
