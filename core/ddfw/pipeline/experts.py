"""Trains the experts of a run that are missing in their store."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ddfw.artifacts.expert_store import ExpertStore
from ddfw.artifacts.stored_experts import StoredExperts
from ddfw.config.load import resolve
from ddfw.contracts.executor import Crew, LabelledImages, TrainedExpert
from ddfw.contracts.observer import ExpertReport
from ddfw.engine.finite import stands_still
from ddfw.engine.interruption import stop_if_wanted
from ddfw.errors import ConfigError, ConfigProblem, DivergedError, Interrupted, StoppedError, option_errors_at
from ddfw.pipeline.limits import require_room_for_experts
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import ExpertSet, Setup, select_experts, set_up
from ddfw.pipeline.stopping import Stopping
from ddfw.process.isolation import isolated

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig
    from ddfw.contracts.executor import ExecutorSession

#: Seconds between two looks whether an expert is there that another run trains.
_WAIT_S = 0.5

logger = logging.getLogger(__name__)


def ensure_experts(
    setup: Setup,
    expert_set: ExpertSet,
    session: ExecutorSession,
    announce: Announcer,
    train: LabelledImages,
    validation: LabelledImages,
    stopping: Stopping | None = None,
    crew: Crew | None = None,
) -> StoredExperts:
    """Trains the experts that are missing in the store, adds them to it, and returns all of them.

    Args:
        setup: configuration, data and network.
        expert_set: the store, and the seeds of the experts that are needed.
        session: trains the experts; in a crew of several processes, it yields those that this process trained.
        announce: called with a report for each expert.
        train: the training split in training space.
        validation: the validation split in training space.
        stopping: says whether the time limit is reached; asked after each batch of experts. None for no limit.
        crew: the processes that train experts together; None for this process alone.

    Raises:
        StoppedError: the time limit is reached; the experts that were trained are in the store.
    """
    crew = crew or Crew()
    training = _Training(
        setup=setup,
        expert_set=expert_set,
        session=session,
        announce=announce,
        stopping=stopping or Stopping(crew),
        crew=crew,
    )
    seeds, index = expert_set.seeds, expert_set.store.index()
    if crew.rank == 0:
        expert_set.store.tidy()
    # Rank 0 decides for all, since a rank that reads the index late may find experts that another has just stored.
    missing = crew.share([seed for seed in seeds if seed not in index])
    for seed in seeds:
        if seed in index and seed not in missing:
            training.report(seed, True, index[seed].validation_accuracy)
    reported, over = training.run(missing, train, validation)
    if missing:
        index = expert_set.store.index()
    for seed in missing if crew.size > 1 else ():
        if seed not in reported and seed in index:
            training.report(seed, False, index[seed].validation_accuracy)
    if over and (absent := crew.share([seed for seed in missing if seed not in index])):
        raise StoppedError(
            f"time is over: stopped after {len(seeds) - len(absent)} of {len(seeds)} experts; "
            "the same command goes on from there"
        )
    if crew.rank == 0 and (
        words := _no_better_than_chance([index[seed].validation_accuracy for seed in seeds], validation)
    ):
        logger.warning("%s", words)
    return expert_set.store.source(seeds, setup.network, session.device, setup.dtype)


def _no_better_than_chance(accuracies: Iterable[Sequence[float]], validation: LabelledImages) -> str:
    """What is to be said of experts that guess; "" if they do not, or if nothing is known of them.

    Args:
        accuracies: the validation accuracies of each expert, after each epoch.
        validation: the images on which they were measured.
    """
    last = [each[-1] for each in accuracies if each]
    chance = float(validation.targets.bincount().max()) / len(validation.targets)
    if not last or (mean := sum(last) / len(last)) > chance:
        return ""
    return (
        f"the experts are no better than chance on the validation split: right on {100 * mean:.1f} %, always naming "
        f"the largest class on {100 * chance:.1f} %; raise experts.epochs or experts.lr"
    )


@frozen(kw_only=True)
class _Training:
    """Trains missing experts, stores them and reports each; holds arguments of `ensure_experts`."""

    setup: Setup
    expert_set: ExpertSet
    session: ExecutorSession
    announce: Announcer
    stopping: Stopping
    crew: Crew
    _said: set[str] = field(init=False, factory=set)

    def report(self, seed: int, cached: bool, accuracies: Sequence[float]) -> None:
        """Tells observers that an expert is in the store."""
        seeds = self.expert_set.seeds
        self.announce(
            ExpertReport(
                index=seeds.index(seed),
                count=len(seeds),
                seed=seed,
                cached=cached,
                validation_accuracy=accuracies[-1] if accuracies else None,
                location=self.expert_set.store.folder,
            )
        )

    def run(self, missing: Sequence[int], train: LabelledImages, validation: LabelledImages) -> tuple[set[int], bool]:
        """Trains experts, or waits for those that other runs train at this moment.

        Returns:
            The seeds that were reported, those trained in this process or by another run, and whether the time limit
            is reached.
        """
        settings, crew, executor = self.setup.config.experts, self.crew, self.setup.config.executor
        epochs, counter = len(missing) * settings.epochs, itertools.count(1)
        reported, waiting, over = set[int](), list(missing), False

        def told(position: int, epoch: int) -> None:
            # Epochs of all experts are counted, since several may be trained at once; each rank trains an equal share.
            self.announce.tick("experts", min(epochs, next(counter) * crew.size), epochs)

        # The deadline is checked after each batch of experts: the ranks of a crew can only stop together, and experts
        # that are trained at the same time are finished at the same time.
        together = crew.size * executor.experts_at_once
        in_batches = any(crew.gather(self.stopping.timed)) and together > 1
        at_once = together if in_batches else crew.size * (executor.experts_per_call or max(1, len(missing)))
        while waiting and not over:
            with ExitStack() as claims, suppress(Interrupted), self.stopping.interrupting():
                batch, elsewhere = self._claimed(waiting, at_once, claims)
                for seed, accuracies in elsewhere.items():
                    waiting.remove(seed)
                    self.report(seed, True, accuracies)
                    reported.add(seed)
                    for _ in range(settings.epochs):
                        told(0, 0)
                if not batch and not elsewhere:
                    self._wait(waiting)
                # No session is asked for no experts, which not every executor can give.
                ask = partial(self.session.train_experts, settings.training, train, validation, batch, told)
                for expert in ask() if batch else ():
                    _require_movement(expert)
                    stored = self.expert_set.store.add(expert, self.setup.network)
                    self.report(expert.seed, False, stored.validation_accuracy)
                    reported.add(expert.seed)
                    self.stopping.progressed()
                    if together == 1 and self.stopping.time_is_over:
                        break
                waiting = [seed for seed in waiting if seed not in batch]
            # Once every rank has answered, all experts of the batch are in the store.
            over = any(crew.gather(self.stopping.time_is_over))
        return reported, over

    def _claimed(
        self, waiting: Sequence[int], most: int, claims: ExitStack
    ) -> tuple[list[int], dict[int, tuple[float, ...]]]:
        """Some experts for this run to train, claimed until `claims` closes.

        Returns:
            Their seeds, and the accuracies of those that other runs have trained meanwhile, by seed.
        """
        batch, elsewhere = list[int](), dict[int, tuple[float, ...]]()
        store, most = self.expert_set.store, min(most, _most_claims())
        if self.crew.rank == 0:
            there = store.index()
            for seed in waiting:
                if len(batch) == most:
                    break
                if seed in there:
                    elsewhere[seed] = there[seed].validation_accuracy
                    continue
                with ExitStack() as claim:  # what is not for this run is not held open
                    if claim.enter_context(store.claimed(seed)):
                        batch.append(seed)
                        claims.enter_context(claim.pop_all())
        shared = self.crew.share([batch, [[seed, list(curve)] for seed, curve in elsewhere.items()]])
        return list(shared[0]), {seed: tuple(curve) for seed, curve in shared[1]}

    def _wait(self, waiting: Sequence[int]) -> None:
        """Waits a moment for experts that other runs train."""
        if self.crew.rank == 0:
            words = (
                f"waiting for the expert of seed {waiting[0]}, which {self.expert_set.store.trainer(waiting[0])} trains"
            )
            self._say_once(words)
        stop_if_wanted()
        time.sleep(_WAIT_S)

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            logger.warning("%s", words)


def _most_claims() -> int:
    """How many experts may be claimed at a time: each claim keeps a file open, of half of those that a process may."""
    import resource  # not on Windows, where there are no claims either

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(1, limit // 2)


def _require_movement(expert: TrainedExpert) -> None:
    """Refuses an expert that no epoch changed: its path has no length, which matching losses divide by.

    Raises:
        DivergedError: its parameters are those that it began with.
    """
    if stands_still(expert.snapshots[0], expert.snapshots[-1]):
        raise DivergedError(
            f"the expert of seed {expert.seed} stands still: {len(expert.snapshots) - 1} epochs did not change its "
            "parameters; raise experts.lr"
        )


@isolated
def train_experts(config: RunConfig, experts_dir: Path, data_root: Path | None, *, quiet: bool = False) -> ExpertStore:
    """Trains the experts of a configuration that are not in their store yet.

    Raises:
        ConfigError: `experts.store` names imported experts, or options do not fit the data or this machine's memory.
        DataError: the data set is missing or damaged.
        DivergedError: a loss or parameter of an expert is not finite.
    """
    if config.experts.store:
        raise ConfigError((ConfigProblem(path="experts.store", message="imported experts are there already"),))
    with ExitStack() as stack:
        with option_errors_at("executor"):
            crew = stack.enter_context(config.executor.assemble())
        setup = set_up(resolve(config), data_root)
        expert_set = select_experts(setup, experts_dir)
        announcer = Announcer()
        observers = observers_for_people(config, quiet) if crew.rank == 0 else []
        stack.enter_context(announcer.opened(observers, experts_dir))
        with option_errors_at("executor"):
            session = stack.enter_context(config.executor.open(setup.context()))
        require_room_for_experts(setup, session.device)
        real, held = (setup.encode(s, session.device) for s in (setup.splits.train, setup.splits.validation))
        ensure_experts(setup, expert_set, session, announcer, real, held, crew=crew)
    return expert_set.store


def observers_for_people(config: RunConfig, quiet: bool) -> list[tuple[str, Any]]:
    """The configured observers that show progress to people, with their keys, for work outside a run.

    Args:
        config: the configuration.
        quiet: show no progress: return none.
    """
    return [(k, o) for k, o in config.observers.items() if o.for_people and not quiet]
