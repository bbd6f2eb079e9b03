"""The errors of turning a config into objects; each error's text is made from its attributes."""

from __future__ import annotations

from attrs import frozen

from ddfw_registry._words import either, suggest

#: Largest number of problems in the text of a ConfigError, so that the user's command stays visible above it.
_MOST_LINES = 6


class RegistryError(Exception):
    """Base class of this package's errors."""


class UnknownComponentError(RegistryError):
    """No plugin offers a component of the given name.

    Args:
        kind: id of the kind.
        title: name of the kind in messages.
        name: the name that was asked for.
        known: the names that plugins offer.
        path: where in the config the name stands; "" if it stands in none.
    """

    def __init__(self, kind: str, title: str, name: str, known: tuple[str, ...] = (), path: str = "") -> None:
        super().__init__(kind, title, name, known, path)
        self.kind = kind
        self.title = title
        self.name = name
        self.known = tuple(known)
        self.suggestion = suggest(name, self.known)
        self.path = path

    @property
    def message(self) -> str:
        """The text without the path."""
        text = f"unknown {self.title} {self.name!r}."
        if self.suggestion is not None:
            text += f" Did you mean {self.suggestion!r}?"
        return text + (f" Known: {', '.join(self.known)}." if self.known else " No plugin offers one.")

    def at(self, path: str) -> UnknownComponentError:
        """The same error at another path."""
        return UnknownComponentError(self.kind, self.title, self.name, self.known, path)

    def __str__(self) -> str:
        return _located(self.message, self.path)


class DuplicateComponentError(RegistryError):
    """The name of a component is offered more than once.

    Args:
        kind: id of the kind.
        name: the name that was asked for.
        owners: identities of the plugins that offer it; only one if a plugin offers two classes of this name.
        path: where in the config the name stands; "" if it stands in none.
        title: name of the kind in messages; "" to use the id.
        variable: name of the environment variable that disables plugins.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        owners: tuple[str, ...],
        path: str = "",
        title: str = "",
        variable: str = "DDFW_DISABLE_PLUGINS",
    ) -> None:
        super().__init__(kind, name, owners, path, title, variable)
        self.kind = kind
        self.name = name
        self.owners = tuple(owners)
        self.path = path
        self.title = title or kind
        self.variable = variable

    @property
    def message(self) -> str:
        """The text without the path."""
        what = f"{self.title} {self.name!r}"
        if len(self.owners) == 1:
            return f"{what} is offered twice by {self.owners[0]}. Disable it: {self.variable}={self.owners[0]}."
        ways = either([f"{self.variable}={owner}" for owner in self.owners])
        return f"{what} is offered by {either(self.owners, 'and')}. Keep one of them by disabling the rest: {ways}."

    def at(self, path: str) -> DuplicateComponentError:
        """The same error at another path."""
        return DuplicateComponentError(self.kind, self.name, self.owners, path, self.title, self.variable)

    def __str__(self) -> str:
        return _located(self.message, self.path)


@frozen
class ConfigProblem:
    """One thing that is wrong in a config.

    Args:
        path: dotted path in the config with list positions in brackets (`param.ranks[1]`); "" for the whole document.
        message: what came, what was expected and, if there is one, the way out.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(RegistryError):
    """A config cannot be turned into objects.

    Args:
        problems: everything that is wrong, in the order of the document's fields.
        causes: the errors about unknown or duplicate components among the problems.
    """

    def __init__(self, problems: tuple[ConfigProblem, ...], causes: tuple[RegistryError, ...] = ()) -> None:
        super().__init__(problems, causes)
        self.problems = tuple(problems)
        self.causes = tuple(causes)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if len(lines) > _MOST_LINES:
            hidden = len(lines) - (_MOST_LINES - 1)
            lines = [*lines[: _MOST_LINES - 1], f"... and {hidden} more"]
        return "\n".join(lines)


def _located(message: str, path: str) -> str:
    return f"{message} (at {path})" if path else message
