"""What the card of a set, or the config.toml of a directory that somebody else made, may choose.

A card says what its images are; its network and its augmentation belong to that. A configuration that was not run here
also gives a data set that opens nothing but the user's data root, and a protocol of bounded cost. Nobody from outside
chooses an executor, an observer, a path, an address, or how much work is done.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
from attrs import frozen

from ddfw.config.catalog import catalog, from_table
from ddfw.config.files import read_toml
from ddfw.config.own_runs import is_own_run
from ddfw.contracts.dataset import AbstractDataset
from ddfw.contracts.settings import Budget, EvalSettings
from ddfw.errors import ConfigError, DataError, config_error

#: Largest number that an option of a network or an augmentation from outside may have.
LARGEST = 1024
#: Most values in a list of such an option.
_MOST_VALUES = 64
#: A text that names something and leads nowhere: no path, no address.
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]{0,63}(\.[A-Za-z0-9_+-]{1,16}){0,2}")
#: Upper bounds of what a configuration from outside may ask for, by its place; recipes of papers lie below.
BOUNDS = {
    "eval.networks": 20,
    "eval.epochs": 2000,
    "eval.full_epochs": 200,
    "eval.batch_size": 4096,
    "budget.ipc": 1000,
}
_MOST_RATES = 16
#: Largest config.toml of a run directory.
_MOST_BYTES = 1_000_000
#: Tables of a configuration in which texts can lead out of this machine or to other files.
_REACHING = ("data", "executor", "observers", "experts", "outer", "model", "augment", "cross")
#: Texts of a configuration's own tables that lead nowhere.
_HARMLESS = {
    "experts.optimiser",
    "outer.images",
    "executor.workers",
    *(f"data.{field.name}" for field in attrs.fields(AbstractDataset)),
}
#: Tables whose texts lead nowhere if they are plain words, such as the name of a normalisation.
_WORDY = ("model.", "augment.", "cross.")


@frozen(kw_only=True)
class RunFile:
    """The config.toml of a run directory.

    Args:
        path: the file.
        tables: its tables.
        own: whether the user has run exactly this configuration, or has said that it is to be trusted.
    """

    path: Path
    tables: Mapping[str, Any]
    own: bool


def read_run_file(path: Path, *, trust: bool) -> RunFile:
    """Reads the config.toml of a run directory.

    Args:
        path: the file.
        trust: whether the user has said that it is to be trusted.

    Raises:
        DataError: it is not TOML, or too large. The file is ddfw's, so that this is no slip of the user's.
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise DataError(f"{path} has {size:,} bytes, expected {_MOST_BYTES:,} at most; it is no run's configuration")
    try:
        tables = read_toml(path)
    except ConfigError as error:
        raise DataError(" ".join(problem.message for problem in error.problems).join((f"{path} is ", ""))) from error
    return RunFile(path=path, tables=tables, own=trust or is_own_run(path.read_bytes().decode(errors="replace")))


def of_card(card: Mapping[str, Mapping[str, Any] | None], where: Path) -> dict[str, Any]:
    """The tables that a card chooses: the network and the augmentation.

    Args:
        card: the card's tables, by their kinds; None where it has none.
        where: the card's file, for messages.

    Raises:
        ConfigError: a component that no plugin offers.
        DataError: options that are wrong, or beyond what a card may say.
    """
    return {kind: _component(kind, table, where) for kind, table in card.items() if table is not None}


def component_of_card(kind: str, table: object, where: Path) -> dict[str, Any]:
    """A network, an augmentation or a data set that a card describes, after a check of its options.

    Args:
        kind: `model`, `augment` or `data`.
        table: its name and options.
        where: the card's file, for messages.

    Raises:
        ConfigError: a data set with a path or an address, or a component that no plugin offers.
        DataError: options that are wrong, or beyond what a card may say.
    """
    return _data(table, where, ()) if kind == "data" else _component(kind, table, where)


def of_run(file: RunFile, said: Collection[str]) -> dict[str, Any]:
    """The tables that a configuration from outside chooses: data, network, augmentation, protocol and precision.

    Args:
        file: the configuration.
        said: paths of settings that the user gave, which are not taken from it.

    Raises:
        ConfigError: its data set has a path or an address, and the user named none; or a component is unknown.
        DataError: options that are wrong, or beyond what it may say.
    """
    tables, where = file.tables, file.path
    taken = {kind: _component(kind, tables.get(kind), where) for kind in ("model", "augment") if not _in(said, kind)}
    if not _in(said, "data"):
        taken["data"] = _data(tables.get("data"), where, said)
    for table, cls in (("eval", EvalSettings), ("budget", Budget)):
        taken[table] = _plain(table, tables.get(table, {}), cls, where, said)
    run = tables.get("run", {})
    if not isinstance(run, Mapping):
        raise DataError(f"{where}: expected a table [run]")
    precision = run.get("precision", "float32")
    if precision not in ("float32", "float64"):
        raise DataError(f"{where}: run.precision is {short_repr(precision)}, expected float32 or float64")
    return {**taken, "run": {"precision": precision, "quick": run.get("quick") is True}}


def reaching(tables: Mapping[str, Any]) -> list[str]:
    """The settings of a configuration that could lead to other files, programs or machines: `data.path = 'x.npz'`.

    Args:
        tables: the tables of a configuration.
    """
    return [
        f"{path} = {short_repr(value)}"
        for path, value in _leaves({table: tables.get(table) for table in _REACHING})
        if isinstance(value, str) and value and not path.endswith(".name") and path not in _HARMLESS
        if not (path.startswith(_WORDY) and _WORD.fullmatch(value))
    ]


def _in(said: Collection[str], kind: str) -> bool:
    """Whether the user has named a component of a kind."""
    return kind in said or f"{kind}.name" in said


def _table(kind: str, table: object, where: Path) -> tuple[type, Mapping[str, Any]]:
    """The class that a table of a component names, and the table."""
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise DataError(f"{where} lacks or garbles the table {kind!r}; expected a component's name and its options")
    return catalog().get(kind, table["name"], f"{where}: {kind}").cls, table


def _component(kind: str, table: object, where: Path) -> dict[str, Any]:
    """A network or an augmentation, after a check of its options."""
    cls, table = _table(kind, table, where)
    for path, value in _leaves(table):
        least = f"{where}: {kind}.{path} = {short_repr(value)}"
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise DataError(f"{least}, a file from outside may say {LARGEST} at most; {_ways(kind, path)}")
        if isinstance(value, str) and not _WORD.fullmatch(value):
            raise DataError(f"{least}, a file from outside may say a plain word; {_ways(kind, path)}")
    for key, value in table.items():
        if isinstance(value, list | tuple | Mapping) and len(value) > _MOST_VALUES:
            raise DataError(f"{where}: {kind}.{key} has {len(value)} values, expected {_MOST_VALUES} at most")
        if _leads_to_files(cls, key):
            raise DataError(f"{where}: {kind}.{key} is a path, which no file from outside may say; {_ways(kind, key)}")
    return _structured(kind, table, catalog().base(kind), where)


def _data(table: object, where: Path, said: Collection[str]) -> dict[str, Any]:
    """A data set that reads nothing but what lies in the user's data root."""
    cls, table = _table("data", table, where)
    inherited = {field.name for field in attrs.fields(AbstractDataset)}
    defaults = {field.name: field.default for field in attrs.fields(cls)}
    for key, value in table.items():
        if key in {*inherited, "name"} or f"data.{key}" in said or value == defaults.get(key, attrs.NOTHING):
            continue
        if key in defaults and _is_free(_forms(cls).get(key, str)):
            raise config_error(
                f"data.{key}",
                f"{where} was not run by you here, so that {short_repr(value)} is not taken from it; name the data by "
                f"--data and --set data.{key}=… or by --like, or trust the file by --trust-config",
            )
    return _structured("data", table, catalog().base("data"), where)


def _plain(table: str, given: object, cls: type, where: Path, said: Collection[str]) -> dict[str, Any]:
    """A table that is no component, whose numbers have to lie within bounds unless the user said them."""
    if not isinstance(given, Mapping):
        raise DataError(f"{where}: expected a table [{table}]")
    for key, value in given.items():
        path = f"{table}.{key}"
        if path in said:
            continue
        if path in BOUNDS and isinstance(value, int | float) and value > BOUNDS[path]:
            raise DataError(
                f"{where}: {path} = {short_repr(value)}, a file from outside may say {BOUNDS[path]} at most; say it "
                f"yourself by --set {path}=…, or trust the file by --trust-config"
            )
        if isinstance(value, list) and len(value) > _MOST_RATES:
            raise DataError(f"{where}: {path} has {len(value)} values, expected {_MOST_RATES} at most")
    return _structured(table, {k: v for k, v in given.items() if f"{table}.{k}" not in said}, cls, where)


def _structured(path: str, table: Mapping[str, Any], cls: type, where: Path) -> dict[str, Any]:
    """The table as it is, after an object was made of it."""
    for place, value in _leaves(table, path):
        if isinstance(value, int) and value.bit_length() > 63:
            raise DataError(f"{where}: {place} = {short_repr(value)}, expected a number of 64 bits")
    try:
        from_table(table, cls, path)
    except ConfigError as error:
        raise DataError(f"{where}: {'; '.join(str(problem) for problem in error.problems[:3])}") from error
    return dict(table)


def _ways(kind: str, path: str) -> str:
    return f"name it yourself by --{kind} and --set {kind}.{path}=…, or by --like"


def _leaves(table: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested tables and lists, with its dotted path."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(table, list | tuple):
        for value in table:
            yield from _leaves(value, path)
    else:
        yield path, table


def _forms(cls: type) -> dict[str, Any]:
    """The types of a component's options, {} where they cannot be resolved."""
    try:
        return typing.get_type_hints(cls)
    except Exception:  # annotations of a plugin can raise anything
        return {}


def _is_free(form: Any) -> bool:
    """Whether a type takes a text that could be a path or an address."""
    if isinstance(form, type) and issubclass(form, Enum):
        return False
    if get_origin(form) is Literal or form in (bool, int, float, type(None)):
        return False
    return not get_args(form) or any(_is_free(part) for part in get_args(form) if part is not Ellipsis)


def _leads_to_files(cls: type, key: str) -> bool:
    """Whether an option takes a path."""
    form = _forms(cls).get(key)
    return form is Path or Path in get_args(form)


def short_repr(value: object) -> str:
    """A value as at most 60 characters for a message; Python writes no integers of very many digits."""
    text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) and value >> 256 else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
