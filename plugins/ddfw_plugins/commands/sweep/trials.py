"""The trials of a sweep: what each one's configuration is, and whether it can be run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

import ddfw
from ddfw import ConfigError, ConfigProblem, config_error
from ddfw_plugins.commands.sweep.files import Sweep, shown, words

#: At most so many combinations of a study's probes are tried before it starts.
_MOST_PROBED = 256


@frozen(kw_only=True)
class Trial:
    """One trial.

    Args:
        number: from 0; its directory's name.
        parameters: the values that differ, by the path of the setting.
        config: its configuration, None if these parameters do not go together.
        recipe: the recipe below its settings.
        places: where it runs.
        reason: why there is no configuration.
    """

    number: int
    parameters: Mapping[str, Any]
    config: ddfw.RunConfig | None
    recipe: str = ""
    places: ddfw.Places
    reason: str = ""

    @property
    def directory(self) -> Path:
        """Its run directory."""
        assert self.places.out is not None
        return self.places.out


def folder_of(sweep: Sweep, places: ddfw.Places) -> Path:
    """The folder of a sweep's trials and tables."""
    return places.out or Path("runs") / sweep.name


def _places_of(sweep: Sweep, number: int, places: ddfw.Places) -> ddfw.Places:
    return evolve(places, out=folder_of(sweep, places) / "trials" / f"{number:04d}")


def make_trial(
    sweep: Sweep, number: int, parameters: Mapping[str, Any], places: ddfw.Places, *, fits: bool = True
) -> Trial:
    """A trial whose configuration is whole.

    Args:
        sweep: what all trials share.
        number: from 0.
        parameters: the values that differ, by the path of the setting.
        places: the sweep's.
        fits: check, too, that it fits its data and its budget, for which the data set is loaded.

    Raises:
        ConfigError: the settings are wrong, or do not fit.
        DataError: the data set is missing or damaged.
    """
    layers: list[Any] = [sweep.base]
    for path in sorted(parameters, key=lambda p: p.count(".")):  # a whole table first, then what is below it
        value: Any = parameters[path]
        for key in reversed(path.split(".")):
            value = {key: value}
        layers.append(value)
    made = ddfw.configure(sweep.settings.recipe or None, layers, ())
    config = evolve(made.config, run=evolve(made.config.run, recipe=sweep.name))
    if fits:
        ddfw.fits(config, places.data_root)
    own = _places_of(sweep, number, places)
    return Trial(number=number, parameters=parameters, config=config, recipe=made.settings.recipe, places=own)


def trial_if_possible(sweep: Sweep, number: int, parameters: Mapping[str, Any], places: ddfw.Places) -> Trial:
    """A trial; without a configuration, but with the reason, where these parameters do not go together."""
    try:
        return make_trial(sweep, number, parameters, places)
    except ConfigError as error:
        reason, own = "; ".join(map(str, error.problems)), _places_of(sweep, number, places)
        return Trial(number=number, parameters=parameters, config=None, places=own, reason=reason)


def grid(sweep: Sweep, places: ddfw.Places) -> list[Trial]:
    """Every combination, the file's last setting varying fastest.

    Raises:
        ConfigError: everything that is wrong with any trial, with its number.
        DataError: the data set is missing or damaged.
    """
    made: dict[str, Trial] = {}
    wrong: dict[tuple[str, str], list[str]] = {}
    causes: list[Any] = []
    twins = ""
    for number, values in enumerate(itertools.product(*(axis.probes for axis in sweep.axes.values()))):
        parameters = dict(zip(sweep.axes, values, strict=True))
        try:
            one = make_trial(sweep, number, parameters, places)
        except ConfigError as error:
            causes += error.causes
            for found in error.problems:
                wrong.setdefault((found.path, found.message), []).append(f"trial {number} ({words(parameters)})")
            continue
        assert one.config is not None
        twin = made.setdefault(ddfw.config_text(one.config), one)
        if twin is not one:
            twins = twins or f"trials {twin.number} ({words(twin.parameters)}) and {number} ({words(parameters)})"
    if wrong:
        problems = []
        for (path, message), trials in wrong.items():
            others = f" and {len(trials) - 1} more" if len(trials) > 1 else ""
            problems.append(ConfigProblem(path=f"{path} in {trials[0]}{others}", message=message))
        raise ConfigError(tuple(problems), tuple(causes))
    if twins:
        raise config_error("grid", f"{twins} are the same run; leave one of them out")
    return list(made.values())


def probe(sweep: Sweep, places: ddfw.Places) -> None:
    """Tries the ends of a study's ranges and all of its choices, before anything runs.

    A combination may be impossible, and is a failed trial then. A value that is impossible in every combination is a
    mistake.

    Raises:
        ConfigError: such a value, with its path.
    """
    paths, probes = list(sweep.axes), [axis.probes for axis in sweep.axes.values()]
    if math.prod(len(values) for values in probes) <= _MOST_PROBED:
        combinations = list(itertools.product(*probes))
    else:  # each value several times, beside different values of the other settings
        longest = max(len(values) for values in probes)
        combinations = [
            tuple(values[(i + shift * k) % len(values)] for k, values in enumerate(probes))
            for shift in range(4)
            for i in range(longest)
        ]
    failed: dict[tuple[int, int], ConfigError] = {}
    possible: set[tuple[int, int]] = set()
    for combination in combinations:
        keys = [(k, probes[k].index(value)) for k, value in enumerate(combination)]
        try:
            make_trial(sweep, 0, dict(zip(paths, combination, strict=True)), places, fits=False)
            possible.update(keys)
        except ConfigError as error:
            for key in keys:
                failed.setdefault(key, error)
    bad = [key for key in failed if key not in possible]
    if not bad:
        return
    (k, index), first = bad[0], failed[bad[0]]
    if not possible:  # it is no value in particular
        raise first
    message = f"{shown(probes[k][index])} is impossible: {'; '.join(map(str, first.problems))}"
    raise ConfigError((ConfigProblem(path=f"space.{paths[k]}", message=message),), first.causes)
