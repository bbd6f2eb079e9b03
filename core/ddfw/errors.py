"""The errors that users can meet; each knows the exit code of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from ddfw_registry import (
    ConfigError,
    ConfigProblem,
    DuplicateComponentError,
    RegistryError,
    UnknownComponentError,
    did_you_mean,
)

__all__ = [
    "ConfigError",
    "ConfigProblem",
    "DataError",
    "DdfwError",
    "DirectoryInUseError",
    "DivergedError",
    "DuplicateComponentError",
    "OptionError",
    "PluginError",
    "RegistryError",
    "ResumeError",
    "StoppedError",
    "UnknownComponentError",
    "config_error",
    "did_you_mean",
    "option_errors_at",
]


class DdfwError(Exception):
    """A run could not do what was asked; the text says what came, what was expected and the way out."""

    exit_code: ClassVar[int] = 1


class DirectoryInUseError(DdfwError):
    """Another process is writing this run directory, or it holds something that is not this run."""


class PluginError(DdfwError):
    """A plugin broke its contract."""

    exit_code = 3


class DataError(DdfwError):
    """A data set or stored artefact is missing, refused or corrupt."""

    exit_code = 4


class DivergedError(DdfwError):
    """A loss, parameter or image stopped being finite.

    Args:
        message: what stopped being finite, and at which step.
        step: the outer step (0-based) at which it happened, or None outside the outer loop.
    """

    exit_code = 5

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class ResumeError(DdfwError):
    """An unfinished run cannot go on here bit for bit: something that its result depends on is not what it was."""


class StoppedError(DdfwError):
    """A run stopped in order because its time is over; the same command goes on from there."""

    exit_code = 75


class OptionError(ValueError):
    """A value that is well-formed on its own but impossible with this data, budget or network.

    Args:
        message: what is wrong and what would work.
        option: the config path below the component's table (`"rank"`), or "" for the table itself.
    """

    def __init__(self, message: str, option: str = "") -> None:
        super().__init__(message)
        self.option = option


def config_error(path: str, message: str) -> ConfigError:
    """An error about one place in a configuration or in another file that users write.

    Args:
        path: the place, `param.rank` or a file's name.
        message: what is wrong there, and what would be right.
    """
    return ConfigError((ConfigProblem(path=path, message=message),))


@contextmanager
def option_errors_at(table: str) -> Iterator[None]:
    """Turns an OptionError that arises in the block into a ConfigError at its place in the configuration.

    Args:
        table: the configuration table of the component at work, `param`.
    """
    try:
        yield
    except OptionError as error:
        raise config_error(f"{table}.{error.option}" if error.option else table, str(error)) from error
