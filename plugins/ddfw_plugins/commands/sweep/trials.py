"""The trials of a sweep: makes the configuration of each, and checks whether it can be run."""

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

#: Largest number of combinations of values that are checked before a study starts.
_MOST_PROBED = 256


@frozen(kw_only=True)
class Trial:
    """One trial of a sweep.

    Args:
        number: number of the trial, from 0; its directory is named after it.
        parameters: the values that this trial tries, by the path of the setting.
        config: the configuration, None if the parameters do not go together.
        recipe: name of the recipe whose settings lie below.
        places: folders of the trial; `out` is its run directory.
        reason: why the parameters do not go together, "" if they do.
    """

    number: int
    parameters: Mapping[str, Any]
    config: ddfw.RunConfig | None
    recipe: str = ""
    places: ddfw.Places
    reason: str = ""

    @property
    def directory(self) -> Path:
        """The run directory of the trial."""
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
    """Makes a trial with its configuration.

    Args:
        sweep: the sweep; its base holds the settings that all trials share.
        number: number of the trial, from 0.
        parameters: the values that this trial tries, by the path of the setting.
        places: folders of the sweep; `out` is the sweep's folder.
        fits: also check that the configuration fits its data and budget, for which the data set is loaded.

    Raises:
        ConfigError: the settings are wrong, or do not fit the data or the budget.
        DataError: the data set is missing or damaged.
    """
    layers: list[Any] = [sweep.base]
    for path in sorted(parameters, key=lambda p: p.count(".")):  # options override the whole table
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
    """Makes a trial; if its parameters do not go together, one that has the reason instead of a configuration."""
    try:
        return make_trial(sweep, number, parameters, places)
    except ConfigError as error:
        reason, own = "; ".join(map(str, error.problems)), _places_of(sweep, number, places)
        return Trial(number=number, parameters=parameters, config=None, places=own, reason=reason)


def grid(sweep: Sweep, places: ddfw.Places) -> list[Trial]:
    """A trial for every combination of values; the file's last setting varies fastest.

    Raises:
        ConfigError: settings of some trials are wrong, or two trials are the same; all problems at once, with the
            numbers of the trials.
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
    """Checks configurations with the ends of a study's ranges and with all of its choices, before anything runs.

    A combination of values may be impossible: it becomes a failed trial. A value that is impossible in every
    combination is an error.

    Raises:
        ConfigError: a value is impossible in every combination; with the path of its setting.
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
    if not possible:  # every combination fails, so no single value is the cause
        raise first
    message = f"{shown(probes[k][index])} is impossible: {'; '.join(map(str, first.problems))}"
    raise ConfigError((ConfigProblem(path=f"space.{paths[k]}", message=message),), first.causes)
