"""The trials of a sweep: what each one's configuration is, and whether it can be run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from ddfw.config.layers import gather
from ddfw.config.load import config_text, structured_config
from ddfw.config.merge import merge
from ddfw.errors import ConfigError, ConfigProblem, config_error
from ddfw.pipeline import runner
from ddfw.pipeline.prepare import fits
from ddfw_plugins.commands.sweep.files import Sweep, shown, words

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig

#: So many trials of a study are looked at before it starts, to see whether its ranges can be right at all.
_PROBES = 256


@frozen(kw_only=True)
class Trial:
    """One trial.

    Args:
        number: from 0; its directory's name.
        parameters: what differs, by path.
        config: its configuration, None if there can be none.
        recipe: what its settings lie over.
        places: where it runs.
        reason: why there is no configuration.
    """

    number: int
    parameters: Mapping[str, Any]
    config: RunConfig | None
    recipe: str = ""
    places: runner.Places
    reason: str = ""

    @property
    def directory(self) -> Path:
        """Its run directory."""
        assert self.places.out is not None
        return self.places.out


def folder_of(sweep: Sweep, places: runner.Places) -> Path:
    """Where a sweep's trials and tables lie."""
    return places.out or Path("runs") / sweep.name


def trial(sweep: Sweep, number: int, parameters: Mapping[str, Any], places: runner.Places) -> Trial:
    """A trial that can be run: its configuration is whole and fits its data and budget.

    Raises:
        ConfigError: it is not, or does not.
        DataError: the data set is missing or damaged.
    """
    made = _structured(sweep, number, parameters, places)
    assert made.config is not None
    fits(made.config, places.data_root)
    return made


def _structured(sweep: Sweep, number: int, parameters: Mapping[str, Any], places: runner.Places) -> Trial:
    """A trial whose configuration is whole; whether it fits the data is not looked at."""
    flags: dict[str, Any] = {}
    merge(flags, sweep.base, "", "", {})
    for path in sorted(parameters, key=lambda p: p.count(".")):  # a whole table first, then what is below it
        value: Any = parameters[path]
        for key in reversed(path.split(".")):
            value = {key: value}
        merge(flags, value, "", "", {})
    settings = gather(sweep.recipe or None, flags, ())
    run = settings.tables["run"]
    tables = {**settings.tables, "run": {**run, "recipe": sweep.name} if isinstance(run, Mapping) else run}
    return Trial(
        number=number,
        parameters=parameters,
        config=structured_config(evolve(settings, tables=tables)),
        recipe=settings.recipe,
        places=evolve(places, out=folder_of(sweep, places) / "trials" / f"{number:04d}"),
    )


def trial_if_possible(sweep: Sweep, number: int, parameters: Mapping[str, Any], places: runner.Places) -> Trial:
    """A trial; without a configuration, but with the reason, where these parameters do not go together."""
    try:
        return trial(sweep, number, parameters, places)
    except ConfigError as error:
        directory = folder_of(sweep, places) / "trials" / f"{number:04d}"
        reason = "; ".join(map(str, error.problems))
        return Trial(
            number=number, parameters=parameters, config=None, places=evolve(places, out=directory), reason=reason
        )


def grid(sweep: Sweep, places: runner.Places) -> list[Trial]:
    """Every combination, the file's last setting varying fastest.

    Raises:
        ConfigError: everything that is wrong with any trial, with its number.
        DataError: the data set is missing or damaged.
    """
    made: list[Trial] = []
    wrong: dict[tuple[str, str], list[str]] = {}
    causes: list[Any] = []
    for number, values in enumerate(itertools.product(*(axis.values for axis in sweep.grid))):
        parameters = dict(zip(sweep.paths, values, strict=True))
        try:
            made.append(trial(sweep, number, parameters, places))
        except ConfigError as error:
            causes += error.causes
            for found in error.problems:
                wrong.setdefault((found.path, found.message), []).append(f"trial {number} ({words(parameters)})")
    if wrong:
        raise ConfigError(
            tuple(
                ConfigProblem(
                    path=f"{path} in {who[0]}{f' and {len(who) - 1} more' if len(who) > 1 else ''}", message=message
                )
                for (path, message), who in wrong.items()
            ),
            tuple(causes),
        )
    there: dict[str, Trial] = {}
    for one in made:
        assert one.config is not None
        twin = there.setdefault(config_text(one.config), one)
        if twin is not one:
            both = f"trials {twin.number} ({words(twin.parameters)}) and {one.number} ({words(one.parameters)})"
            raise config_error("grid", f"{both} are the same run; leave one of them out")
    return made


def probe(sweep: Sweep, places: runner.Places) -> None:
    """Tries the ends of a study's ranges and all of its choices, before anything runs.

    A combination may be impossible, and is a failed trial then. A value that is impossible in every combination is a
    mistake.

    Raises:
        ConfigError: such a value, with its path.
    """
    edges = [part.edges for part in sweep.space]
    if math.prod(len(values) for values in edges) <= _PROBES:
        combinations = list(itertools.product(*edges))
    else:  # each value at least once, beside others that change, too
        longest = max(len(values) for values in edges)
        combinations = [
            tuple(values[(i + shift * k) % len(values)] for k, values in enumerate(edges))
            for shift in range(4)
            for i in range(longest)
        ]
    failed: dict[tuple[int, int], ConfigError] = {}
    fine: set[tuple[int, int]] = set()
    for values in combinations:
        keys = [(k, edges[k].index(value)) for k, value in enumerate(values)]
        try:
            _structured(sweep, 0, dict(zip(sweep.paths, values, strict=True)), places)
            fine.update(keys)
        except ConfigError as error:
            for key in keys:
                failed.setdefault(key, error)
    bad = [key for key in failed if key not in fine]
    if not bad:
        return
    first = failed[bad[0]]
    if not fine:  # it is no value in particular
        raise first
    k, index = bad[0]
    message = f"{shown(edges[k][index])} is impossible: {'; '.join(map(str, first.problems))}"
    raise ConfigError((ConfigProblem(path=f"space.{sweep.paths[k]}", message=message),), first.causes)
