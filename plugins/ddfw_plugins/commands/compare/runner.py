"""Runs comparisons: several ways to distil, named in one file, over several seeds and at equal cost.

What is finished stands in comparison.json. Several processes may run the same comparison: each takes a run that none of
the others has.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from attrs import define, field

import ddfw
from ddfw import ConfigError, DirectoryInUseError, DivergedError, StoppedError
from ddfw_plugins.commands.compare.files import Comparison, Variant
from ddfw_plugins.commands.compare.finished import (
    FinishedRun,
    Trial,
    finished_run,
    kept_before,
    settings_sha256,
    sources_of,
)
from ddfw_plugins.commands.compare.jobs import Job, folder_of, jobs, planned, seeded, trials
from ddfw_plugins.commands.compare.record import record_of
from ddfw_plugins.commands.compare.written import write_all

#: Of comparison.json, which seals itself since 2 and keeps runs since 3.
RECORD_SCHEMA = 3
#: Seconds between two looks at what other processes have finished.
WAIT = 2.0


def run(
    whole: Comparison,
    comparison: Comparison,
    places: ddfw.Places,
    *,
    say: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
    max_seconds: float | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Runs what is not finished yet, and writes the comparison's files after every run.

    Args:
        whole: the comparison with all of its variants; all finished runs of it stand in the tables.
        comparison: the comparison with the variants and seeds to run now.
        places: folders to read and write; `out` is the comparison's folder.
        say: called with a line of text before each run.
        quiet: show no progress of single runs.
        max_seconds: time limit for all runs in seconds, None for none.

    Returns:
        The comparison's folder, and the content of its comparison.json.

    Raises:
        ConfigError: settings of a variant are wrong, or do not fit its data.
        DataError: the data set, or a file of a run, is missing or damaged.
        ResumeError: a finished run was made of other data.
        StoppedError: the time limit is reached; the same call continues the comparison.
    """
    jobs(comparison, places)  # every variant is checked before anything is run
    tried = [job for variant in _tuned(whole, comparison) for job in trials(whole, variant, places)]
    ddfw.warn_if_damaged(folder_of(whole, places) / "comparison.json", RECORD_SCHEMA)
    running = _Running(whole=whole, places=places, say=say, quiet=quiet, max_seconds=max_seconds)
    running.read()
    running.do(tried)
    chosen = running.chosen()
    running.do(jobs(comparison, places, chosen))
    return running.root, running.write()


def _tuned(whole: Comparison, comparison: Comparison) -> list[Variant]:
    """The variants whose trials have to be known to run some variants."""
    names = dict.fromkeys(variant.tuned_as or variant.name for variant in comparison.variants)
    return [whole.variant(name) for name in names]


@define(kw_only=True)
class _Running:
    """A comparison that is being run.

    Args:
        whole: the comparison with all of its variants.
        places: folders to read and write.
        say: called with a line of text before each run.
        quiet: show no progress of single runs.
        max_seconds: time limit for all runs in seconds, None for none.
        runs: finished runs, by the variant's name and the seed.
        tried: finished trials, by the variant's name and their number.
        began: when it began, in seconds of the monotonic clock.
        first: whether no run has made a step yet.
        wanted: the trials that the file asks for, by the variant's name and their number; made when first needed.
    """

    whole: Comparison
    places: ddfw.Places
    say: Callable[[str], None]
    quiet: bool
    max_seconds: float | None
    runs: dict[tuple[str, int], FinishedRun] = field(factory=dict)
    tried: dict[tuple[str, int], Trial] = field(factory=dict)
    began: float = field(factory=lambda: monotonic())
    first: bool = True
    wanted: dict[str, dict[int, Job]] = field(factory=dict)

    @property
    def root(self) -> Path:
        """The comparison's folder."""
        return folder_of(self.whole, self.places)

    def chosen(self) -> dict[str, Mapping[str, Any]]:
        """The settings that the trials of each variant chose, as far as all of its trials are finished.

        Raises:
            DivergedError: every trial of a variant diverged.
        """
        found = {}
        for variant in self.whole.variants:
            source = self.whole.variant(variant.tuned_as or variant.name)
            keys = [(source.name, number) for number in range(len(source.tune))]
            if not keys or not all(key in self.tried for key in keys):
                continue
            there = [self.tried[key] for key in keys]
            best = max(there, key=lambda trial: -1.0 if trial.accuracy is None else trial.accuracy)
            if best.accuracy is None:
                raise DivergedError(f"variants.{source.name}: every trial diverged; list smaller rates in its `tune`")
            found[variant.name] = best.values
        return found

    def do(self, asked: Sequence[Job]) -> None:
        """Runs the jobs that nobody has finished, and waits for those that other processes run."""
        left, waited = list(enumerate(asked, start=1)), False
        while left:
            before = len(left)
            for number, job in list(left):
                if not self._stands(job):
                    self.root.mkdir(parents=True, exist_ok=True)
                    with ddfw.claimed(self.root / f"{job.variant.name}-{job.places.out.name}.claim") as mine:  # type: ignore[union-attr]
                        if not mine:
                            continue
                        self._run(job, f"{number}/{len(asked)}")
                left.remove((number, job))
            if len(left) == before:
                if not waited:
                    self.say(f"\n{len(left)} of {len(asked)} are being run by other processes; waiting for them")
                waited = True
                if self.max_seconds is not None and monotonic() - self.began >= self.max_seconds:
                    raise StoppedError(
                        "time is over: other processes run what is left; the same command goes on from there"
                    )
                time.sleep(WAIT)
            if left:
                self.read(finished_elsewhere=True)

    def _stands(self, job: Job) -> bool:
        """Whether a job's outcome stands in comparison.json; a run's directory has to agree where it is there."""
        if job.trial is None and (job.places.out / "config.toml").exists():  # type: ignore[operator]
            return False
        key = (job.variant.name, job.config.run.seed if job.trial is None else job.trial)
        known = self.runs.get(key) if job.trial is None else self.tried.get(key)
        return known is not None and known.settings == settings_sha256(job.config)

    def _run(self, job: Job, number: str) -> None:
        """Runs one job, or reads it if it is finished, and writes the comparison's files."""
        self.say(f"\n── {number}  {job.words}")
        left = None if self.max_seconds is None else self.max_seconds - (monotonic() - self.began)
        if left is not None and self.first:
            left = max(left, 1e-3)  # however short the time is, the first unfinished run makes a step
        name, directory = job.variant.name, job.places.out
        assert directory is not None
        try:
            result = ddfw.run(job.config, job.places, quiet=self.quiet, max_seconds=left)
        except DivergedError:
            if job.trial is None:
                raise
            accuracy = None
        else:
            self.first = self.first and result.already_finished
            accuracy = None if job.trial is None else result.summary.selected_accuracy
            if job.trial is None:
                self.runs[name, job.config.run.seed] = finished_run(name, job.config, result, job.step_gradients)
        if job.trial is not None:
            self.tried[name, job.trial] = Trial(
                variant=name,
                number=job.trial,
                values=job.variant.tune[job.trial],
                settings=settings_sha256(job.config),
                sources=sources_of(directory),
                accuracy=accuracy,
            )
        self.write()

    def read(self, *, finished_elsewhere: bool = False) -> None:
        """Takes up what stands in comparison.json, and the finished runs in the comparison's folder.

        Args:
            finished_elsewhere: take up comparison.json alone, which other processes write.
        """
        runs, tried = kept_before(self.root / "comparison.json", RECORD_SCHEMA)
        for trial in tried:
            if (trial.variant, trial.number) not in self.tried and self._is_asked(trial):
                self.tried[trial.variant, trial.number] = trial
        chosen = self.chosen()
        for variant in self.whole.variants:
            if variant.name in chosen or not (variant.tune or variant.tuned_as):
                own = [run for run in runs if run.variant == variant.name]
                self._read(variant, own, chosen.get(variant.name), directories=not finished_elsewhere)

    def _is_asked(self, trial: Trial) -> bool:
        """Whether a trial is one of the file's, with the settings that it would have now."""
        if trial.variant not in self.wanted:
            self.wanted[trial.variant] = {}
            with contextlib.suppress(ConfigError, StopIteration):  # of a variant that is not run now, or was removed
                there = trials(self.whole, self.whole.variant(trial.variant), self.places)
                self.wanted[trial.variant] = dict(enumerate(there))
        job = self.wanted[trial.variant].get(trial.number)
        if job is None or trial.settings != settings_sha256(job.config):
            return False
        ddfw.require_same_sources(job.config, self.places, self.root / "comparison.json", trial.sources)
        return True

    def _read(
        self, variant: Variant, runs: Sequence[FinishedRun], chosen: Mapping[str, Any] | None, *, directories: bool
    ) -> None:
        """Takes up the finished runs of a variant, except those with other settings."""
        finished = (self.root / variant.name).glob("seed-*/summary.json") if directories else ()
        names = [path.parent.name.removeprefix("seed-") for path in finished]
        seeds = sorted(int(name) for name in names if name.isascii() and name.isdigit())
        wanted = [run for run in runs if (variant.name, run.seed) not in self.runs]
        if not (wanted or seeds):
            return
        with contextlib.suppress(ConfigError):  # of a variant that is not run now; the others were checked before
            plan = planned(self.whole, variant, self.places, chosen)
            for run in wanted:
                job = seeded(self.whole, variant, plan, run.seed, self.places)
                if run.settings == settings_sha256(job.config):
                    ddfw.require_same_sources(job.config, self.places, self.root / "comparison.json", run.sources)
                    self.runs[variant.name, run.seed] = run
            for seed in seeds:
                job = seeded(self.whole, variant, plan, seed, self.places)
                with contextlib.suppress(DirectoryInUseError):  # a run with other settings
                    if (result := ddfw.finished(job.config, job.places)) is not None:
                        found = finished_run(variant.name, job.config, result, job.step_gradients)
                        self.runs[variant.name, seed] = found

    def write(self) -> dict[str, Any]:
        """Writes comparison.json, with what other processes have finished meanwhile, and the files made of it."""
        with ddfw.locked(self.root, "the comparison's folder", wait=True):
            self.read(finished_elsewhere=True)
            record = ddfw.sealed(record_of(self.whole, RECORD_SCHEMA, self.runs, self.tried, self.chosen()))
            write_all(self.root, record, self.whole.charts)
        return record
