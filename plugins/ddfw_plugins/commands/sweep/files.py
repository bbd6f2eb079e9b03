"""Reads the file of a sweep: the settings that all trials share, and those that differ between them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import ge, gt, optional

from ddfw import OptionError, config_error, errors_in, read_toml, structured
from ddfw_plugins.commands._files import Tables, known_recipe, require_name

#: Keys of the table [sweep] that only a study by optuna uses.
_STUDY_ONLY = ("trials", "seed", "sampler")


@frozen(kw_only=True)
class Choice:
    """The values of a setting that a sweep tries.

    Args:
        values: the TOML values, all different.
    """

    values: tuple[Any, ...]

    def __attrs_post_init__(self) -> None:
        if not self.values:
            raise OptionError("needs at least one value")
        for index, value in enumerate(self.values):
            if any(value == other and type(value) is type(other) for other in self.values[:index]):
                raise OptionError(f"{shown(value)} stands there twice")

    @property
    def probes(self) -> tuple[Any, ...]:
        """Every value of the list; configurations with them are checked before a study starts."""
        return self.values


def _finite(instance: object, attribute: object, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")


@frozen(kw_only=True)
class Range:
    """The range of numbers that a study tries for a setting: whole ones if `low`, `high` and `step` are whole.

    Args:
        low: the smallest number.
        high: the largest number, included.
        log: whether the logarithm of the number is drawn uniformly, instead of the number.
        step: distance between two neighbouring numbers, None for any number in between.
    """

    low: int | float = field(validator=_finite)
    high: int | float = field(validator=_finite)
    log: bool = False
    step: int | float | None = field(default=None, validator=optional(gt(0)))

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise OptionError(f"low is {self.low:g} and high is {self.high:g}; exchange them")
        if self.log and self.low <= 0:
            raise OptionError(f"log = true needs numbers > 0, got {self.low:g}", "low")
        if self.step is None:
            return
        if self.log:
            raise OptionError("log = true has no step; leave one of them out", "step")
        # Computed in decimals, since in floats 0.7 - 0.1 is not a multiple of 0.2.
        if (Decimal(str(self.high)) - Decimal(str(self.low))) % Decimal(str(self.step)):
            raise OptionError(f"{self.high:g} is not reached from {self.low:g} in steps of {self.step:g}", "high")

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    @property
    def probes(self) -> tuple[Any, ...]:
        """The smallest and the largest number; configurations with them are checked before a study starts."""
        return (self.low, self.high)


@frozen(kw_only=True)
class SweepSettings:
    """The table [sweep] of a sweep's file.

    Args:
        recipe: name of the recipe whose settings lie below [base]; "" chooses one by each trial's settings.
        summary: one line about the sweep.
        method: "grid" runs every combination, "optuna" a study; None is "grid" for a [grid], "optuna" for a [space].
        trials: number of trials of a study.
        seed: seed of the study's sampler.
        sampler: how a study proposes trials: "tpe" learns from the outcomes, "random" does not.
    """

    recipe: str = field(default="", validator=known_recipe)
    summary: str = ""
    method: Literal["grid", "optuna"] | None = None
    trials: int = field(default=20, validator=ge(1))
    seed: int = field(default=0, validator=ge(0))
    sampler: Literal["tpe", "random"] = "tpe"


@frozen(kw_only=True)
class _File:
    """The tables of a sweep's file."""

    sweep: SweepSettings = field(factory=SweepSettings)
    base: Tables = field(factory=dict)
    grid: Mapping[str, Any] | None = None
    space: Mapping[str, Any] | None = None

    def __attrs_post_init__(self) -> None:
        if self.grid is not None and self.space is not None:
            raise OptionError("a sweep has a [grid] or a [space], not both; leave one of them out", "space")
        if self.grid is None and self.space is None:
            raise OptionError("missing: name what differs in a [grid] of values, or in a [space] for optuna", "grid")
        table, other = ("grid", "space") if self.space is None else ("space", "grid")
        if self.sweep.method not in (None, "grid" if table == "grid" else "optuna"):
            raise OptionError(f"{self.sweep.method!r} needs a table [{other}], and there is [{table}]", "sweep.method")
        if "recipe" in self.base.get("run", {}):
            raise OptionError("is the file's name; what [base] lies over is sweep.recipe", "base.run.recipe")


@frozen(kw_only=True)
class Sweep:
    """A sweep as its file describes it.

    Args:
        name: the file's name without the ending; `run.recipe` of every trial.
        method: "grid" runs every combination, "optuna" a study.
        settings: the table [sweep].
        base: the table [base]: settings that all trials share.
        axes: the values to try, by the path of a setting (`param.rank`) or of a whole table (`param`), in the order of
            the file. In a grid the last one varies fastest.
    """

    name: str
    method: Literal["grid", "optuna"]
    settings: SweepSettings
    base: Tables
    axes: Mapping[str, Choice | Range]

    @property
    def count(self) -> int:
        """Number of trials of the whole sweep."""
        if self.method == "optuna":
            return self.settings.trials
        return math.prod(len(axis.probes) for axis in self.axes.values())


def read(path: Path) -> Sweep:
    """Reads a sweep from its file.

    Raises:
        ConfigError: the file is missing, unreadable or wrong; with the place in it.
    """
    with errors_in(str(path)):
        return _read(path)


def _read(path: Path) -> Sweep:
    tables = read_toml(path)
    require_name(path.stem, str(path))
    file = structured(tables, _File)
    table, varied = ("space", file.space) if file.space is not None else ("grid", file.grid or {})
    if table == "grid" and (stray := [key for key in _STUDY_ONLY if key in tables.get("sweep", {})]):
        words = "a grid has as many as combinations" if stray[0] == "trials" else "nothing is drawn in a grid"
        raise config_error(f"sweep.{stray[0]}", f"is optuna's; {words}: leave it out, or write a [space]")
    axes: dict[str, Choice | Range] = {}
    for path_, axis in _axes(varied, table, ""):
        place = f"{table}.{path_}"
        if not all(key.strip() == key and key for key in path_.split(".")):
            raise config_error(place, f"{path_!r} is no path of a setting, such as param.rank")
        if path_ in axes:
            raise config_error(place, "stands there twice; keep one")
        if path_ == "run.recipe":
            raise config_error(place, "is the file's name in every trial; leave it out")
        axes[path_] = axis
    if not axes:
        raise config_error(table, "names nothing that differs between trials")
    method: Literal["grid", "optuna"] = "grid" if table == "grid" else "optuna"
    return Sweep(name=path.stem, method=method, settings=file.sweep, base=file.base, axes=axes)


def _axes(given: Mapping[str, Any], place: str, path: str) -> Iterator[tuple[str, Choice | Range]]:
    """Paths below [grid] or [space], dotted or nested, with the values of each."""
    grid = place.split(".")[0] == "grid"
    for key, value in given.items():
        at, here = f"{place}.{key}", f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and (grid or not {"low", "high", "values"} & set(value)):
            yield from _axes(value, at, here)
        elif isinstance(value, Mapping):
            cls: type[Choice | Range] = Choice if "values" in value else Range
            yield here, structured(value, cls, at)
        elif not grid:
            raise config_error(at, f"expected {{low = …, high = …}} or {{values = […]}}, got {value!r}")
        elif not isinstance(value, list):
            raise config_error(at, f"expected a list of values, got {value!r}; what all trials share stands in [base]")
        else:
            yield here, structured({"values": value}, Choice, at)


def shown(value: Any) -> str:
    """A value as short text; numbers are rounded to four digits."""
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
    """The parameters of a trial in one line: `param.rank=4 outer.steps=100`."""
    return " ".join(f"{path}={shown(value)}" for path, value in parameters.items())
