"""The errors that users can meet, each with the exit code of the command line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from attrs import evolve

from ddfw_registry import (
    ConfigError,
    ConfigProblem,
    DuplicateComponentError,
    RegistryError,
    UnknownComponentError,
    did_you_mean,
    prints_to_stderr,
)

__all__ = [
    "ConfigError",
    "ConfigProblem",
    "DataError",
    "DdfwError",
    "DirectoryInUseError",
    "DivergedError",
    "DuplicateComponentError",
    "Interrupted",
    "OptionError",
    "PluginError",
    "RegistryError",
    "ResumeError",
    "StoppedError",
    "UnknownComponentError",
    "config_error",
    "did_you_mean",
    "errors_in",
    "is_disk_error",
    "option_errors_at",
    "prints_to_stderr",
]


#: What the system says when a disk takes no more: full, over a quota or a limit, failing, or only to be read.
_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS))


def is_disk_error(error: BaseException) -> bool:
    """Whether an error says that a disk takes nothing more, which is no fault of whoever wrote."""
    return isinstance(error, OSError) and error.errno in _DISK


class DdfwError(Exception):
    """Base class of ddfw's errors. The text says what was found, what was expected and the way out.

    Args:
        lines: the lines of the text, at most six; nearly always one.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class DirectoryInUseError(DdfwError):
    """Another process is writing the run directory, or the directory holds something else than this run."""


class PluginError(DdfwError):
    """A plugin does not do what the contract of its kind demands, or cannot be loaded."""

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
    """An unfinished run cannot be resumed bit for bit: its code, data, experts, machine or threads have changed."""


class StoppedError(DdfwError):
    """A run reached its time limit, saved its work and stopped; the same command resumes it."""

    exit_code = 75


class Interrupted(BaseException):
    """A computation ended early because a stop was asked for; no error, so `except Exception` lets it pass."""


class OptionError(ValueError):
    """An option's value is valid by itself, but impossible with this data, budget or network.

    Args:
        message: what is wrong and what would work.
        option: the option's name in the component's table, such as "rank"; "" for the table itself.
    """

    def __init__(self, message: str, option: str = "") -> None:
        super().__init__(message)
        self.option = option


def config_error(path: str, message: str) -> ConfigError:
    """An error about one place in a configuration or in another file that users write.

    Args:
        path: the setting, such as `param.rank`, or the name of a file.
        message: what is wrong there, and what would be right.
    """
    return ConfigError((ConfigProblem(path=path, message=message),))


@contextmanager
def option_errors_at(table: str) -> Iterator[None]:
    """Turns an OptionError that is raised in the block into a ConfigError with the path of the setting.

    Args:
        table: the configuration table of the component that is called in the block, such as `param`.

    Raises:
        ConfigError: an OptionError was raised in the block.
    """
    try:
        yield
    except OptionError as error:
        raise config_error(f"{table}.{error.option}" if error.option else table, str(error)) from error


@contextmanager
def errors_in(file: str) -> Iterator[None]:
    """Puts a file's name in front of the places in it that errors raised in the block name.

    Args:
        file: the name; "" changes nothing, and errors about flags are left as they are.

    Raises:
        ConfigError: one was raised in the block.
    """
    try:
        yield
    except ConfigError as error:
        problems = []
        for problem in error.problems:
            said = not file or problem.path == file or problem.path.startswith((f"{file}: ", "--"))
            problems.append(problem if said else evolve(problem, path=f"{file}: {problem.path}".removesuffix(": ")))
        raise evolve(error, problems=problems) from error
