"""A sweep's file: what all trials share, and what differs between them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import ge, gt, optional

from ddfw import OptionError, config_error, read_toml, structured
from ddfw_plugins.commands._files import Tables, known_recipe, require_name

#: Keys of [sweep] that mean something in a study only.
_STUDY_ONLY = ("trials", "seed", "sampler")


@frozen(kw_only=True)
class Choice:
    """A setting takes one of these values.

    Args:
        values: TOML values, each different from the others.
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
        """The values that are tried as configurations before a study starts: all of them."""
        return self.values


def _finite(instance: object, attribute: object, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")


@frozen(kw_only=True)
class Range:
    """A setting takes a number between two others; a whole one, if `low`, `high` and `step` are whole.

    Args:
        low: the least.
        high: the most, included.
        log: whether equal ratios are equally likely, instead of equal differences.
        step: the distance between two neighbours, None for none.
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
        # Decimals, since 0.7 - 0.1 is no multiple of 0.2 for floats.
        if (Decimal(str(self.high)) - Decimal(str(self.low))) % Decimal(str(self.step)):
            raise OptionError(f"{self.high:g} is not reached from {self.low:g} in steps of {self.step:g}", "high")

    @property
    def whole(self) -> bool:
        """Whether the numbers are whole ones."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    @property
    def probes(self) -> tuple[Any, ...]:
        """The values that are tried as configurations before a study starts: the least and the most."""
        return (self.low, self.high)


@frozen(kw_only=True)
class SweepSettings:
    """`[sweep]`.

    Args:
        recipe: what [base] lies over; "" lets every trial's settings choose one, as `ddfw run` does.
        summary: one line.
        method: every combination, or a study of optuna's; None follows from the table that is there.
        trials: how many a study has.
        seed: of the study's sampler.
        sampler: of the study.
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
    """A sweep.

    Args:
        name: the file's name without the ending; `run.recipe` of every trial.
        method: every combination, or a study that learns from its trials.
        settings: the table [sweep].
        base: settings that all trials share.
        axes: what differs: paths of settings, `param.rank`, or of whole tables, `param`, with what they take; in the
            order of the file. In a grid the last one varies fastest.
    """

    name: str
    method: Literal["grid", "optuna"]
    settings: SweepSettings
    base: Tables
    axes: Mapping[str, Choice | Range]

    @property
    def count(self) -> int:
        """How many trials there will be."""
        if self.method == "optuna":
            return self.settings.trials
        return math.prod(len(axis.probes) for axis in self.axes.values())


def read(path: Path) -> Sweep:
    """A sweep from its file.

    Raises:
        ConfigError: unreadable, or not a sweep; with the place.
    """
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
    """A value in few words; numbers are rounded."""
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
