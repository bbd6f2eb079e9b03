"""A sweep's file: what all trials share, and what differs between them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from ddfw.config.files import read_toml
from ddfw.config.recipes import recipes
from ddfw.errors import config_error, did_you_mean

_TABLES = ("sweep", "base", "grid", "space")
_HEAD = ("recipe", "summary", "method", "trials", "seed", "sampler")
_OF_OPTUNA = ("trials", "seed", "sampler")
_METHODS, _SAMPLERS = ("grid", "optuna"), ("tpe", "random")
_RANGE, _CHOICE = ("low", "high", "log", "step"), ("values",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@frozen(kw_only=True)
class Axis:
    """A setting and the values that it takes.

    Args:
        path: the setting, `param.rank`; or a whole table, `param`.
        values: TOML values.
    """

    path: str
    values: tuple[Any, ...]

    @property
    def edges(self) -> tuple[Any, ...]:
        """Values that stand for all of them: all."""
        return self.values

    def words(self) -> str:
        """The values, for people."""
        return ", ".join(shown(value) for value in self.values)


@frozen(kw_only=True)
class Range:
    """A setting and the numbers that it takes; whole ones, if all of these are.

    Args:
        path: the setting.
        low: the least.
        high: the most, included.
        log: whether equal ratios are equally likely, and not equal differences.
        step: the distance between two neighbours, None for none.
    """

    path: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    @property
    def edges(self) -> tuple[Any, ...]:
        """Values that stand for all of them: the least and the most."""
        return (self.low, self.high)

    def words(self) -> str:
        """The numbers, for people."""
        step = f", step {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{step}{', log' if self.log else ''}"


@frozen(kw_only=True)
class Sweep:
    """A sweep's file.

    Args:
        name: the file's name without the ending; `run.recipe` of every trial.
        summary: one line.
        method: every combination, or a study that learns from its trials.
        recipe: what the base lies over; "" lets every trial's settings choose one, as `ddfw run` does.
        base: settings that all trials share.
        grid: what differs, in the order of the file; the last varies fastest.
        space: what differs in a study.
        trials: how many a study has.
        seed: of the study's sampler.
        sampler: of the study.
    """

    name: str
    method: Literal["grid", "optuna"]
    summary: str = ""
    recipe: str = ""
    base: Mapping[str, Any]
    grid: tuple[Axis, ...] = ()
    space: tuple[Axis | Range, ...] = ()
    trials: int = 20
    seed: int = 0
    sampler: Literal["tpe", "random"] = "tpe"

    @property
    def paths(self) -> tuple[str, ...]:
        """The settings that differ."""
        return tuple(part.path for part in self.grid or self.space)

    @property
    def count(self) -> int:
        """How many trials there will be."""
        if self.method == "optuna":
            return self.trials
        count = 1
        for axis in self.grid:
            count *= len(axis.values)
        return count


def read(path: Path) -> Sweep:
    """A sweep from its file.

    Raises:
        ConfigError: unreadable, or not a sweep; with the place.
    """
    tables = read_toml(path)
    if not _NAME.fullmatch(path.stem):
        raise config_error(
            str(path), f"the file's name is the name of its runs, too; {path.stem!r} is none: use A-Z 0-9 . _ -"
        )
    for key in tables:
        if key not in _TABLES:
            hint = did_you_mean(key, _TABLES) or " What all trials share stands in [base]."
            raise config_error(key, f"unknown table {key!r}.{hint} Known: {', '.join(_TABLES)}")
        if not isinstance(tables[key], Mapping):
            raise config_error(key, f"expected a table, got {tables[key]!r}")
    head = tables.get("sweep", {})
    require_known(head, _HEAD, "sweep", "key")
    method = _method(head, tables)
    run = tables.get("base", {}).get("run", {})
    if isinstance(run, Mapping) and "recipe" in run:
        raise config_error(
            "base.run.recipe", "is the file's name; name the recipe that the base lies over in sweep.recipe"
        )
    sweep = Sweep(
        name=path.stem,
        method=method,
        summary=_text(head, "summary"),
        recipe=_recipe(head),
        base=tables.get("base", {}),
        grid=tuple(_axes(tables["grid"], "grid", "")) if method == "grid" else (),
        space=tuple(_parts(tables["space"], "space", "")) if method == "optuna" else (),
        trials=_count(head, "trials", 1, 20),
        seed=_count(head, "seed", 0, 0),
        sampler=_one_of(head, "sampler", _SAMPLERS, "tpe"),
    )
    table = "grid" if method == "grid" else "space"
    if not sweep.paths:
        raise config_error(table, "names nothing that differs between trials")
    for path_ in sweep.paths:
        if sweep.paths.count(path_) > 1:
            raise config_error(f"{table}.{path_}", "stands there twice; keep one")
        if path_ == "run.recipe":
            raise config_error(f"{table}.{path_}", "is the file's name in every trial; leave it out")
    return sweep


def _method(head: Mapping[str, Any], tables: Mapping[str, Any]) -> Any:
    """The head's, or the one whose table is there."""
    if "grid" in tables and "space" in tables:
        raise config_error("space", "a sweep has a [grid] or a [space], not both; leave one of them out")
    if "grid" not in tables and "space" not in tables:
        raise config_error("grid", "missing: name what differs in a [grid] of values, or in a [space] for optuna")
    there = "grid" if "grid" in tables else "optuna"
    method = _one_of(head, "method", _METHODS, there)
    if method != there:
        table = "grid" if method == "grid" else "space"
        raise config_error(
            "sweep.method",
            f"{method!r} needs a table [{table}], and there is [{next(iter({'grid', 'space'} & set(tables)))}]",
        )
    if method == "grid":
        for key in _OF_OPTUNA:
            if key in head:
                words = "a grid has as many as combinations" if key == "trials" else "nothing is drawn in a grid"
                raise config_error(f"sweep.{key}", f"is optuna's; {words}: leave it out, or write a [space]")
    return method


def _one_of(head: Mapping[str, Any], key: str, offered: tuple[str, ...], default: str) -> Any:
    value = head.get(key, default)
    if value not in offered:
        hint = did_you_mean(value, offered) if isinstance(value, str) else ""
        raise config_error(f"sweep.{key}", f"expected {' or '.join(map(repr, offered))}, got {value!r}.{hint}")
    return value


def _recipe(head: Mapping[str, Any]) -> str:
    given = head.get("recipe", "")
    if "recipe" in head and given not in (known := recipes()):
        hint = (isinstance(given, str) and did_you_mean(given, known)) or " `ddfw recipes list` lists all."
        raise config_error("sweep.recipe", f"unknown recipe {given!r}.{hint}")
    return str(given)


def _text(head: Mapping[str, Any], key: str) -> str:
    given = head.get(key, "")
    if not isinstance(given, str):
        raise config_error(f"sweep.{key}", f"expected a text, got {given!r}")
    return given


def _count(head: Mapping[str, Any], key: str, least: int, default: int) -> int:
    given = head.get(key, default)
    if type(given) is not int or given < least:
        raise config_error(f"sweep.{key}", f"expected a whole number >= {least}, got {given!r}")
    return given


def _axes(table: Mapping[str, Any], place: str, path: str) -> Iterator[Axis]:
    """Lists below a table, whatever way their paths are written."""
    for key, value in table.items():
        at, here = f"{place}.{key}", f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _axes(value, at, here)
        elif not isinstance(value, list):
            raise config_error(at, f"expected a list of values, got {value!r}; what all trials share stands in [base]")
        else:
            yield _axis(value, at, here)


def _axis(values: list[Any], place: str, path: str) -> Axis:
    _require_path(path, place)
    if not values:
        raise config_error(place, "needs at least one value")
    for index, value in enumerate(values):
        if any(value == other and type(value) is type(other) for other in values[:index]):
            raise config_error(place, f"{shown(value)} stands there twice")
    return Axis(path=path, values=tuple(values))


def _parts(table: Mapping[str, Any], place: str, path: str) -> Iterator[Axis | Range]:
    """Ranges and choices below a table, whatever way their paths are written."""
    for key, value in table.items():
        at, here = f"{place}.{key}", f"{path}.{key}" if path else key
        if not isinstance(value, Mapping):
            raise config_error(at, f"expected {{low = …, high = …}} or {{values = […]}}, got {value!r}")
        if not {"low", "high", "values"} & set(value):
            yield from _parts(value, at, here)
        elif "values" in value:
            require_known(value, _CHOICE, at, "key")
            if not isinstance(value["values"], list):
                raise config_error(f"{at}.values", f"expected a list of values, got {value['values']!r}")
            yield _axis(value["values"], at, here)
        else:
            yield _range(value, at, here)


def _range(given: Mapping[str, Any], place: str, path: str) -> Range:
    _require_path(path, place)
    require_known(given, _RANGE, place, "key")
    for key in ("low", "high", "step"):
        value = given.get(key)
        if value is None and key != "step":
            raise config_error(f"{place}.{key}", "missing, expected a number")
        if value is not None and (type(value) not in (int, float) or not abs(value) < float("inf")):
            raise config_error(f"{place}.{key}", f"expected a finite number, got {value!r}")
    if type(given.get("log", False)) is not bool:
        raise config_error(f"{place}.log", f"expected true or false, got {given['log']!r}")
    made = Range(path=path, low=given["low"], high=given["high"], log=given.get("log", False), step=given.get("step"))
    if made.low > made.high:
        raise config_error(place, f"low is {made.low:g} and high is {made.high:g}; exchange them")
    if made.log and made.low <= 0:
        raise config_error(f"{place}.low", f"log = true needs numbers > 0, got {made.low:g}")
    if made.step is not None:
        if made.log:
            raise config_error(f"{place}.step", "log = true has no step; leave one of them out")
        if made.step <= 0:
            raise config_error(f"{place}.step", f"expected a number > 0, got {made.step:g}")
        if (Decimal(str(made.high)) - Decimal(str(made.low))) % Decimal(str(made.step)):
            raise config_error(
                f"{place}.high", f"{made.high:g} is not reached from {made.low:g} in steps of {made.step:g}"
            )
    return made


def _require_path(path: str, place: str) -> None:
    if not all(key.strip() == key and key for key in path.split(".")):
        raise config_error(place, f"{path!r} is no path of a setting, such as param.rank")


def require_known(given: Iterable[str], offered: Iterable[str], path: str, what: str) -> None:
    """Refuses a key that nobody reads, with the nearest one that somebody does.

    Args:
        given: the keys of a table.
        offered: those that it may have.
        path: where the table stands, "" for the whole file.
        what: what a key is called.

    Raises:
        ConfigError: a key is not among them.
    """
    names = tuple(offered)
    for key in given:
        if key not in names:
            hint = did_you_mean(key, names)
            place = f"{path}.{key}" if path else key
            raise config_error(place, f"unknown {what} {key!r}.{hint} Known: {', '.join(names)}")


def shown(value: Any) -> str:
    """A value in few words; figures are rounded."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        options = ", ".join(f"{key}={shown(inner)}" for key, inner in value.items() if key != "name")
        if "name" in value:  # a component
            return f"{shown(value['name'])}({options})" if options else shown(value["name"])
        return f"{{{options}}}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def words(parameters: Mapping[str, Any]) -> str:
    """A trial's parameters in a line."""
    return " ".join(f"{path}={shown(value)}" for path, value in parameters.items())
