"""Options that several commands have in common, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import evolve

from ddfw.cli.completion_words import complete_components, complete_settings
from ddfw.errors import ConfigError
from ddfw.kinds import KINDS

F = TypeVar("F", bound=Callable[..., Any])

#: The flag of each setting that has one, by the setting's path; `setting_option` adds to it.
_FLAGS: dict[str, str] = {}

#: `--experts-dir`; the command gets `experts_dir`, a path.
experts_dir_option = click.option(
    "--experts-dir",
    type=click.Path(path_type=Path),
    default=Path("experts"),
    show_default=True,
    help="The folder of expert stores.",
)
#: `--data-root`, or DDFW_DATA; the command gets `data_root`, a path or None.
data_root_option = click.option(
    "--data-root", type=click.Path(path_type=Path), envvar="DDFW_DATA", show_envvar=True, help="Where data sets lie."
)
download_option = click.option(
    "--download", is_flag=True, help="Fetch the data set's official files into the data root first."
)
#: `--cross`, several times; the command gets `cross`, a tuple of names for `flag_tables`.
cross_option = click.option(
    "--cross",
    "cross",
    multiple=True,
    metavar="MODEL",
    shell_complete=complete_components("model"),
    help="Another network to evaluate on, besides --model (may be given several times; [cross] in a file).",
)


def _name_plugins(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> None:
    if values:
        from ddfw.config.named_plugins import name_plugins

        name_plugins(values)


#: `--plugin`, several times; acts before other options are read, so that the command gets nothing.
plugin_option = click.option(
    "--plugin",
    metavar="FILE.py|MODULE",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_name_plugins,
    help="A plugin that is not installed, in addition to those in DDFW_PLUGINS (may be given several times).",
)
#: `--quiet`; the command gets `quiet`.
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress, only the table.")
#: `--trust-config`; the command gets `trust`.
trust_option = click.option(
    "--trust-config",
    "trust",
    is_flag=True,
    help="Take all that the config.toml of a directory says, also if it was not run by you on this machine: executor, "
    "paths, cost.",
)
#: `--no-cache`; the command gets `cached`, whether known rows are taken.
cache_option = click.option(
    "--cache/--no-cache",
    "cached",
    default=True,
    show_default=True,
    help="Take rows of baselines that another run measured under the same conditions (`ddfw cache list`).",
)
#: `--set`, several times; the command gets `assignments`, a tuple of texts for `configure`.
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY.PATH=VALUE",
    shell_complete=complete_settings,
    help="One setting; wins over all else.",
)


def component_flags(*kinds: str) -> Callable[[F], F]:
    """Command-line flags, one for each of the given kinds of components; each takes the name of a component."""

    def decorate(function: F) -> F:
        for kind in reversed([k for k in KINDS if k.id in kinds]):
            several = kind.id == "observer"
            text = f"The {kind.title}{' (may be given several times; adds to the recipe)' if several else ''}."
            words = complete_components(kind.id)
            flag = click.option(
                f"--{kind.id}", kind.id, metavar="NAME", multiple=several, shell_complete=words, help=text
            )
            function = flag(function)
        return function

    return decorate


def setting_option(flag: str, path: str, least: int | None = None, **how: Any) -> Callable[[F], F]:
    """A flag for one setting of the configuration; the command hands its value to `flag_tables`.

    Args:
        flag: as users type it, `--ipc`.
        path: the setting's place, `budget.ipc`; a table alone for the name of its component.
        least: the smallest number allowed, for a setting that is a whole number; None for others.
        how: arguments of `click.option`.
    """
    _FLAGS[path] = flag
    if least is not None:
        how["type"] = click.IntRange(min=least)
    return click.option(flag, path.replace(".", "__"), **how)


@contextmanager
def flags_named() -> Iterator[None]:
    """Names beside the settings that errors of the block suggest the flags that set them.

    Raises:
        ConfigError: one was raised in the block.
    """
    try:
        yield
    except ConfigError as error:
        problems = []
        for problem in error.problems:
            message = problem.message
            for path, flag in _FLAGS.items():
                message = message.replace(f"{path!r}", f"{path!r} ({flag})")
            problems.append(evolve(problem, message=message))
        raise evolve(error, problems=problems) from error


def flag_tables(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration tables that flags of components and of settings stand for; a flag that was not given is None.

    Args:
        flags: what a command got from `component_flags` and `setting_option`.
    """
    tables: dict[str, Any] = {}
    for flag, value in flags.items():
        table, _, key = flag.partition("__")
        if value is None or value == ():
            continue
        if flag in ("observer", "cross"):
            tables["cross" if flag == "cross" else "observers"] = {name: {} for name in value}
        else:
            tables.setdefault(table, {})[key or "name"] = list(value) if isinstance(value, tuple) else value
    return tables


def seed_numbers(text: str | None) -> list[int]:
    """`1,2,3` as numbers, [] for None.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return []
    parts = [p.strip() for p in text.split(",")]
    if not all(p.isascii() and p.isdigit() for p in parts) or len({int(p) for p in parts}) != len(parts):
        raise click.UsageError(f"--seeds wants different whole numbers such as 0,1,2; got {text!r}")
    return [int(p) for p in parts]
