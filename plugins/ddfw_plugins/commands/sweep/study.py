"""Studies by optuna: a study proposes trials, learns from their outcomes, and keeps both in a journal file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ddfw
from ddfw import DataError, DirectoryInUseError, config_error
from ddfw_plugins.commands.sweep.files import Choice, Range, Sweep
from ddfw_plugins.commands.sweep.trials import Trial, probe, trial_if_possible

#: Number of trials that the sampler tpe draws at random before it learns from outcomes.
STARTUP = 10
#: Name of the attribute in which a study keeps its space, seed and sampler.
_IDENTITY = "ddfw"
#: Name of the attribute that says that a study has a seal.
_SEALED = "ddfw_sealed"
#: The file beside the journal that seals it as far as it was written, and its schema.
SEAL_FILE, SEAL_SCHEMA = "study.json", 1

Axes = Mapping[str, Choice | Range]


def require_optuna() -> Any:
    """Imports and returns the package optuna.

    Raises:
        ConfigError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        words = 'optuna is not installed: `pip install "ddfw[sweep]"`, or name values in a [grid]'
        raise config_error("sweep.method", words) from None
    return optuna


@contextmanager
def _quietly() -> Iterator[Any]:
    """The package optuna, which in the block neither logs each trial nor warns about experimental features."""
    optuna = require_optuna()
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            yield optuna
        finally:
            optuna.logging.set_verbosity(before)


def _labels(axis: Choice) -> tuple[Any, ...]:
    """A label for each value of a choice: JSON text if some are lists or tables, which a journal cannot hold."""
    scalars = all(isinstance(value, str | int | float) for value in axis.values)
    return axis.values if scalars else tuple(json.dumps(value) for value in axis.values)


def _distributions(optuna: Any, axes: Axes) -> dict[str, Any]:
    kinds = optuna.distributions
    found: dict[str, Any] = {}
    for path, axis in axes.items():
        if isinstance(axis, Choice):
            found[path] = kinds.CategoricalDistribution(_labels(axis))
        elif axis.whole:
            found[path] = kinds.IntDistribution(axis.low, axis.high, axis.log, axis.step or 1)
        else:
            found[path] = kinds.FloatDistribution(axis.low, axis.high, axis.log, axis.step)
    return found


def _parameters(axes: Axes, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the values drawn by optuna stand for, by their paths."""
    return {
        path: axis.values[_labels(axis).index(drawn[path])] if isinstance(axis, Choice) else drawn[path]
        for path, axis in axes.items()
    }


def _next_trial(optuna: Any, sweep: Sweep, history: Sequence[Any]) -> Any:
    """The trial that follows those in `history`; it depends only on the sweep, their number and their outcomes.

    It is drawn in a temporary study in memory. The journal gets the whole trial at once, and never a part of one.
    """
    seed = ddfw.derive_seed(sweep.settings.seed, ddfw.Stream.SWEEP, len(history)) % 2**32
    samplers, distributions = optuna.samplers, _distributions(optuna, sweep.axes)
    if sweep.settings.sampler == "random":
        sampler = samplers.RandomSampler(seed=seed)
    else:
        sampler = samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
    beside = optuna.create_study(direction="maximize", sampler=sampler)
    beside.add_trials(history)
    drawn = beside.ask(fixed_distributions=distributions).params
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING, params=dict(drawn), distributions=distributions
    )


def preview(sweep: Sweep, places: ddfw.Places) -> list[Trial]:
    """The trials that do not depend on outcomes: all trials of a random study, the first ones of the sampler tpe.

    Raises:
        ConfigError: optuna is not installed, or a value of the space is impossible.
    """
    history, trials = list[Any](), list[Trial]()
    with _quietly() as optuna:
        probe(sweep, places)
        for number in range(sweep.count if sweep.settings.sampler == "random" else min(sweep.count, STARTUP)):
            history.append(_next_trial(optuna, sweep, history))
            trials.append(trial_if_possible(sweep, number, _parameters(sweep.axes, history[-1].params), places))
    return trials


class Study:
    """A study by optuna that is kept in a journal file.

    Args:
        sweep: the values to try, the number of trials and the sampler.
        places: folders of the sweep; `out` is the sweep's folder.
        journal: the journal file; made if it is missing.

    Raises:
        ConfigError: optuna is not installed.
        DataError: the journal was damaged or edited, or its seal was.
        DirectoryInUseError: the journal holds another study.
    """

    def __init__(self, sweep: Sweep, places: ddfw.Places, journal: Path) -> None:
        self._sweep, self._places, self._journal = sweep, places, journal
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        with _quietly() as optuna:
            self._require_seal()
            storage = JournalStorage(JournalFileBackend(str(journal)))
            self._study = optuna.create_study(
                study_name=sweep.name, storage=storage, direction="maximize", load_if_exists=True
            )
            there = self._study.user_attrs.get(_IDENTITY)
            if there is None:
                self._study.set_user_attr(_IDENTITY, _identity(sweep))
                self._study.set_user_attr(_SEALED, True)
            if self._study.user_attrs.get(_SEALED) and not self._seal.is_file():
                raise DataError(f"{self._seal} is missing, by which {journal} is checked; remove both to start over")
            self._put_seal()
        if there is not None and there != _identity(sweep):
            raise DirectoryInUseError(
                f"{journal} holds a study of another [space], seed or sampler; choose another --out, or remove it"
            )

    @property
    def _seal(self) -> Path:
        return self._journal.with_name(SEAL_FILE)

    def _require_seal(self) -> None:
        """Checks the journal as far as it was sealed; a process that died may have written more."""
        if not self._journal.exists():
            ddfw.write_sealed(self._seal, {"schema": SEAL_SCHEMA, "journal": ddfw.EMPTY_PART})
        elif self._seal.exists():
            part = ddfw.read_sealed(self._seal, since=SEAL_SCHEMA, newest=SEAL_SCHEMA)["journal"]
            ddfw.require_part(self._journal, part, whole=False)

    def _put_seal(self) -> None:
        ddfw.write_sealed(self._seal, {"schema": SEAL_SCHEMA, "journal": ddfw.part_of(self._journal)})

    def _history(self) -> list[Any]:
        return list(self._study.get_trials(deepcopy=False))

    def _trial(self, entry: Any) -> Trial:
        return trial_if_possible(self._sweep, entry.number, _parameters(self._sweep.axes, entry.params), self._places)

    def trials(self) -> list[Trial]:
        """All trials that the study has proposed so far, in their order."""
        with _quietly():
            return [self._trial(entry) for entry in self._history()]

    def ask(self, count: int) -> list[Trial]:
        """Proposes `count` new trials; fewer, or none, if the sweep has no more."""
        made = []
        with _quietly() as optuna:
            for _ in range(min(count, self._sweep.count - len(self._history()))):
                self._study.add_trial(_next_trial(optuna, self._sweep, self._history()))
                self._put_seal()
                made.append(self._trial(self._history()[-1]))
        return made

    def tell(self, number: int, outcome: Mapping[str, Any]) -> None:
        """Tells the study how a trial ended; a second call for the same trial changes nothing.

        A finished trial counts by its validation accuracy, any other as worse than all finished ones.

        Args:
            number: number of the trial, from 0.
            outcome: `status`, and `validation_accuracy` (a fraction) if the status is "finished".
        """
        with _quietly() as optuna:
            states = optuna.trial.TrialState
            if self._history()[number].state != states.RUNNING:
                return
            if outcome["status"] == "finished":
                self._study.tell(number, outcome["validation_accuracy"])
            else:
                self._study.tell(number, state=states.PRUNED)
            self._put_seal()


def _identity(sweep: Sweep) -> dict[str, Any]:
    """The space, seed and sampler of a study, which may not change; its number of trials may."""
    space = [
        {"path": path, "values": [json.dumps(value) for value in axis.values]}
        if isinstance(axis, Choice)
        else {"path": path, "low": axis.low, "high": axis.high, "log": axis.log, "step": axis.step}
        for path, axis in sweep.axes.items()
    ]
    return {"space": space, "seed": sweep.settings.seed, "sampler": sweep.settings.sampler}
