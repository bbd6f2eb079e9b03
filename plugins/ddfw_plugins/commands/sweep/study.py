"""A study of optuna's: it proposes trials, learns from their outcomes, and keeps both in a journal."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfw.errors import DirectoryInUseError, config_error
from ddfw.randomness import Stream, derive_seed
from ddfw_plugins.commands.sweep.files import Axis, Range, Sweep
from ddfw_plugins.commands.sweep.trials import Trial, trial_if_possible

if TYPE_CHECKING:
    from ddfw.pipeline.runner import Places

#: So many trials are drawn at random before a study of tpe learns.
STARTUP = 10
_KEY = "ddfw"


def require_optuna() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        words = 'optuna is not installed: `pip install "ddfw[sweep]"`, or name values in a [grid]'
        raise config_error("sweep.method", words) from None
    return optuna


@contextmanager
def _quietly(optuna: Any) -> Iterator[None]:
    """Without optuna's lines about each trial and its warnings that something is new; both come back afterwards."""
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


def _labels(axis: Axis) -> tuple[Any, ...]:
    """What stands for an axis's values in a journal, which has no lists and tables."""
    plain = all(isinstance(value, str | int | float) for value in axis.values)
    return axis.values if plain else tuple(json.dumps(value) for value in axis.values)


def _distributions(optuna: Any, space: Sequence[Axis | Range]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in space:
        if isinstance(part, Axis):
            found[part.path] = optuna.distributions.CategoricalDistribution(_labels(part))
        elif part.whole:
            found[part.path] = optuna.distributions.IntDistribution(part.low, part.high, part.log, part.step or 1)
        else:
            found[part.path] = optuna.distributions.FloatDistribution(part.low, part.high, part.log, part.step)
    return found


def _parameters(space: Sequence[Axis | Range], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from what a journal holds."""
    return {
        part.path: part.values[_labels(part).index(drawn[part.path])] if isinstance(part, Axis) else drawn[part.path]
        for part in space
    }


def _draw(optuna: Any, sweep: Sweep, history: Sequence[Any]) -> dict[str, Any]:
    """What the next trial after these should be: a function of the sweep's seed, their number and their outcomes.

    It is drawn beside the journal, which gets the whole trial at once; so whatever stands there is whole.
    """
    seed = derive_seed(sweep.seed, Stream.SWEEP, len(history)) % 2**32
    if sweep.sampler == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
    beside = optuna.create_study(direction="maximize", sampler=sampler)
    beside.add_trials(history)
    drawn: dict[str, Any] = beside.ask(fixed_distributions=_distributions(optuna, sweep.space)).params
    return drawn


def preview(sweep: Sweep, places: Places) -> list[Trial]:
    """The trials that do not depend on the outcomes of others: all of a random study, the first ones of tpe."""
    optuna = require_optuna()
    count = sweep.trials if sweep.sampler == "random" else min(sweep.trials, STARTUP)
    distributions, history = _distributions(optuna, sweep.space), list[Any]()
    with _quietly(optuna):
        for _ in range(count):
            drawn = _draw(optuna, sweep, history)
            history.append(_running(optuna, drawn, distributions))
    return [
        trial_if_possible(sweep, number, _parameters(sweep.space, one.params), places)
        for number, one in enumerate(history)
    ]


def _running(optuna: Any, drawn: Mapping[str, Any], distributions: Mapping[str, Any]) -> Any:
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, params=dict(drawn), distributions=dict(distributions)
    )


class Study:
    """A study in a journal file; see `ddfw_plugins.commands.sweep.runner.Source`.

    Args:
        sweep: what differs, how many trials, which sampler.
        places: where trials run.
        journal: the file; made if it is not there.

    Raises:
        ConfigError: optuna is not installed.
        DirectoryInUseError: the journal holds another study.
    """

    def __init__(self, sweep: Sweep, places: Places, journal: Path) -> None:
        self._optuna, self._sweep, self._places = require_optuna(), sweep, places
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        with _quietly(self._optuna):
            storage = JournalStorage(JournalFileBackend(str(journal)))
            self._study = self._optuna.create_study(
                study_name=sweep.name, storage=storage, direction="maximize", load_if_exists=True
            )
            there = self._study.user_attrs.get(_KEY)
            if there is None:
                self._study.set_user_attr(_KEY, _identity(sweep))
        if there is not None and there != _identity(sweep):
            raise DirectoryInUseError(
                f"{journal} holds a study of another [space], seed or sampler; choose another --out, or remove it"
            )

    def _all(self) -> list[Any]:
        return list(self._study.get_trials(deepcopy=False))

    def _trial(self, frozen_trial: Any) -> Trial:
        parameters = _parameters(self._sweep.space, frozen_trial.params)
        return trial_if_possible(self._sweep, frozen_trial.number, parameters, self._places)

    def known(self) -> list[Trial]:
        """The journal's."""
        with _quietly(self._optuna):
            return [self._trial(one) for one in self._all()]

    def ask(self, count: int) -> list[Trial]:
        """New ones, until there are as many as the sweep has."""
        made = []
        with _quietly(self._optuna):
            for _ in range(count):
                there = self._all()
                if len(there) >= self._sweep.trials:
                    break
                drawn = _draw(self._optuna, self._sweep, there)
                self._study.add_trial(_running(self._optuna, drawn, _distributions(self._optuna, self._sweep.space)))
                made.append(self._trial(self._all()[-1]))
        return made

    def tell(self, number: int, outcome: Mapping[str, Any]) -> None:
        """Finished trials count by their validation accuracy; the others as worse than all of these."""
        states = self._optuna.trial.TrialState
        with _quietly(self._optuna):
            if self._all()[number].state != states.RUNNING:
                return
            if outcome["status"] == "finished":
                self._study.tell(number, outcome["validation_accuracy"])
            else:
                self._study.tell(number, state=states.PRUNED)


def _identity(sweep: Sweep) -> dict[str, Any]:
    """What makes a study what it is; how many trials it has may grow."""
    space = [
        {"path": part.path, "values": [json.dumps(value) for value in part.values]}
        if isinstance(part, Axis)
        else {"path": part.path, "low": part.low, "high": part.high, "log": part.log, "step": part.step}
        for part in sweep.space
    ]
    return {"space": space, "seed": sweep.seed, "sampler": sweep.sampler}
