"""A whole run, stage by stage: experts, trajectories, the outer loop, evaluation, files.

The command line and notebooks call the same functions here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from ddfw.artifacts import atomic, checkpoint, run_seals
from ddfw.artifacts.run_dir import REPORT, SUMMARY, RunDirectory
from ddfw.config.fingerprints import sha256_of
from ddfw.config.layers import gather
from ddfw.config.load import resolve, structured_config
from ddfw.config.own_runs import remember_run
from ddfw.config.run_config import RunConfig
from ddfw.contracts.records import ResolvedRun, Summary
from ddfw.errors import (
    ConfigError,
    DataError,
    DirectoryInUseError,
    DivergedError,
    ResumeError,
    StoppedError,
    config_error,
    is_disk_error,
    option_errors_at,
)
from ddfw.pipeline.evaluation.known_rows import known_rows
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Plan, make_plan
from ddfw.pipeline.report.page import write_page
from ddfw.pipeline.resume import find
from ddfw.pipeline.stages import RunResult, Stages
from ddfw.pipeline.stopping import Stopping, now
from ddfw.pipeline.warm_start import set_hashes
from ddfw.process.isolation import isolated

if TYPE_CHECKING:
    from ddfw.contracts.executor import Crew
    from ddfw.contracts.observer import AbstractObserver

logger = logging.getLogger(__name__)


@frozen(kw_only=True)
class Places:
    """The folders that a run reads and writes; they change no result.

    Args:
        out: the run directory, None for `runs/<recipe>-s<seed>-<hash8>`.
        experts: the folder of expert stores.
        data_root: folder in which data sets look for their files.
        known_rows: whether rows of baselines that other runs measured are taken from beside the experts.
    """

    out: Path | None = None
    experts: Path = Path("experts")
    data_root: Path | None = None
    known_rows: bool = True


def download_data(config: RunConfig, data_root: Path | None) -> None:
    """Downloads the data set's official files into the data root.

    Args:
        config: the configuration that names the data set.
        data_root: folder in which data sets look for their files.

    Raises:
        ConfigError: no data root is given, or the data set has nothing to download.
        DataError: a file cannot be downloaded, or is not the official one.
    """
    if data_root is None:
        raise config_error("--download", "where to? name a folder by --data-root or DDFW_DATA")
    with option_errors_at("data"):
        config.data.download(data_root)


@isolated
def plan(config: RunConfig, places: Places | None = None) -> Plan:
    """Loads the data and checks everything that can be checked before training, as `--dry-run` does.

    Args:
        config: the configuration of the run.
        places: folders to read and write; None for the defaults.

    Raises:
        ConfigError: options do not fit the data, the budget or each other.
        DataError: the data set is missing or damaged.
    """
    places = places or Places()
    return make_plan(resolve(config), places.data_root, places.experts)


def directory_for(run: ResolvedRun[RunConfig], places: Places) -> Path:
    """The run directory: `places.out`, or one below `runs` named after recipe, seed and configuration."""
    if places.out is not None:
        return places.out
    return Path("runs") / f"{run.config.run.recipe}-s{run.config.run.seed}-{run.sha256[:8]}"


def recorded_text(folder: Path, text: str) -> str:
    """The text of config.toml in a run directory, if it resolves to the configuration `text`; otherwise `text`.

    The two texts differ where an earlier version of ddfw wrote the run and an option's value had another name in it.
    """
    path = RunDirectory(folder).config
    with suppress(ConfigError, DataError):
        found = atomic.read_text(path)
        if found != text and resolve(structured_config(gather(str(path), {}, ()))).text == text:
            return found
    return text


@isolated
def finished(config: RunConfig, places: Places) -> RunResult | None:
    """The finished run of a configuration, read from its directory; None if it is not finished.

    Args:
        config: the configuration of the run.
        places: folders to read; `out` is the run directory.

    Raises:
        DataError: the run is finished, but its files were changed afterwards, or the data set cannot be read.
        DirectoryInUseError: the directory holds another run, or something else, or another process has it.
        ResumeError: the run is finished, but its data or the set that it started from were changed afterwards.
    """
    asked = resolve(config)
    RunDirectory(directory_for(asked, places)).mend()
    return _finished(asked, places)


def _finished(run: ResolvedRun[RunConfig], places: Places) -> RunResult | None:
    directory = RunDirectory(directory_for(run, places))
    record = directory.finished(recorded_text(directory.path, run.text))
    # A shorter run that is being extended leaves its summary for a moment.
    if record is None or record.get("outer_steps", run.config.outer.steps) != run.config.outer.steps:
        return None
    manifest = run_seals.read_manifest(directory.path)
    if manifest.get("sources", {}) != run.sources:
        raise DirectoryInUseError(
            f"{directory.path} is finished, but was made with other code of its plugins; "
            "put that code back, or choose another --out for a new run"
        )
    require_same_sources(run.config, places, directory.path)
    try:
        summary = Summary.from_json(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{directory.path / SUMMARY} lacks or garbles {error}") from error
    return RunResult(directory=directory.path, summary=summary, already_finished=True)


def require_same_sources(
    config: RunConfig, places: Places, run: Path, recorded: Mapping[str, Any] | None = None
) -> None:
    """Refuses to take over what a run found whose data, or whose set to start from, have changed since it ended.

    Args:
        config: the configuration of the run.
        places: folders to read.
        run: the directory of the run, which has a manifest, or the file that `recorded` stands in.
        recorded: the hashes that its manifest names, where they are kept elsewhere; None reads the manifest.

    Raises:
        ResumeError: a hash differs from that in the run's manifest.
        DataError: the data set or the set to start from cannot be read, or the manifest was changed.
    """
    manifest = run_seals.read_manifest(run) if recorded is None else recorded
    with option_errors_at("data"):
        splits = config.data.splits(places.data_root)
    here = {
        "data_sha256": ("training or validation images or labels", sha256_of(splits.train, splits.validation)),
        "test_sha256": ("test images or labels", splits.test.fingerprint(sha256_of)),
    }
    if start := config.outer.init_from:
        here |= {key: (f"set to start from, at {start},", sha256) for key, sha256 in set_hashes(Path(start)).items()}
    for key, (what, found) in here.items():
        recorded = manifest.get(key, found)
        if recorded != found:
            raise ResumeError(
                f"{run} has ended, but the {what} changed since: sha256 {found[:12]}…, the run had "
                f"{str(recorded)[:12]}…; put the old ones back, or choose another --out for a new run"
            )


@isolated
def run(
    config: RunConfig,
    places: Places | None = None,
    extra_observers: Sequence[tuple[str, AbstractObserver]] = (),
    *,
    quiet: bool = False,
    max_seconds: float | None = None,
    origins: Mapping[str, str] | None = None,
    extends: RunConfig | None = None,
) -> RunResult:
    """Runs a configuration, or returns the summary of the run that its directory already holds.

    An unfinished run is resumed from its newest checkpoint; the result is the same as without the interruption.

    Args:
        config: the configuration of the run.
        places: folders to read and write; None for the defaults.
        extra_observers: observers beside the configuration's own, each with the name that warnings call it by.
        quiet: leave out observers that show progress to people.
        max_seconds: time limit in seconds, None for none. The run stops between two inner steps or batches
            once the limit is reached; with 0 or less, before any work is done.
        origins: which layer of settings set what, as `Configured.settings.origins`, for the run's manifest.
        extends: the configuration of the finished run in `places.out` that is to be continued; it differs from `config`
            in fewer `outer.steps` alone. `pipeline.extend` checks that.

    Raises:
        ConfigError: options do not fit the data, the budget or each other.
        DataError: the data set, or a file of the run, is missing or damaged.
        DirectoryInUseError: another process writes the run directory, or it holds another run or something else.
        DivergedError: a loss, parameter or image is not finite; what was learned before is kept.
        ResumeError: the run was begun with other versions, threads, data or experts.
        StoppedError: the time limit is reached; the same call resumes the run.
    """
    began = now()
    with ExitStack() as stack:
        with option_errors_at("executor"):
            crew = stack.enter_context(config.executor.assemble())
        stopping = Stopping(crew, None if max_seconds is None else max_seconds - (now() - began))
        shown = [(key, o) for key, o in config.observers.items() if not (quiet and o.for_people)]
        observers = [*shown, *extra_observers] if crew.rank == 0 else []
        none_left = any(crew.gather(max_seconds is not None and max_seconds <= 0))
        return _run(
            resolve(config, origins),
            places or Places(),
            observers,
            crew,
            stopping,
            none_left=none_left,
            shorter=None if extends is None else resolve(extends),
        )


def _run(
    run: ResolvedRun[RunConfig],
    places: Places,
    observers: Sequence[tuple[str, AbstractObserver]],
    crew: Crew,
    stopping: Stopping,
    *,
    none_left: bool,
    shorter: ResolvedRun[RunConfig] | None,
) -> RunResult:
    """Runs on one rank of a crew; rank 0 checks the directory and locks it."""
    there = None
    if crew.rank == 0:
        RunDirectory(directory_for(run, places)).mend()
        remember_run(run.text)
        there = _finished(run if shorter is None else shorter, places)
        if shorter is not None:
            if there is None:
                raise DirectoryInUseError(f"{places.out} holds no finished run that could be extended")
            there = None
    found = {"directory": str(directory_for(run, places)), "summary": there and there.summary.to_json()}
    found = crew.share(found)
    directory = RunDirectory(Path(str(found["directory"])))
    if found["summary"] is not None:
        if crew.rank == 0:
            _finish_up(directory.path)
        if crew.rank == 0 and not run.config.run.keep_checkpoint:
            with suppress(OSError):  # left by a process that ended between finishing the run and removing them
                checkpoint.remove(directory.checkpoints)
        summary = Summary.from_json(found["summary"])
        return RunResult(directory=directory.path, summary=summary, already_finished=True)
    if none_left:
        raise StoppedError(f"time is over: stopped before {directory.path}; the same command goes on from there")
    made = make_plan(run, places.data_root, places.experts)
    with ExitStack() as stack:
        if crew.rank == 0 and shorter is None:
            stack.enter_context(directory.claimed(run.text))
            # Of a shorter run, left by a process that died while it began to extend that run.
            (directory.path / SUMMARY).unlink(missing_ok=True)
        elif crew.rank == 0 and shorter is not None:
            stack.enter_context(directory.claimed_to_extend(recorded_text(directory.path, shorter.text)))
        resumed = find(directory.checkpoints, crew)
        held = None if resumed is None else resumed.facts.held_steps
        announcer = stack.enter_context(Announcer().opened(observers, directory.path))
        with option_errors_at("executor"):
            session = stack.enter_context(run.config.executor.open(evolve(made.context(), held_steps=held)))
        stages = Stages(
            plan=made,
            directory=directory,
            session=session,
            announce=announcer,
            crew=crew,
            stopping=stopping,
            resumed=resumed,
            extends=shorter is not None,
            known=known_rows(places.experts, directory.path, session, crew) if places.known_rows else None,
        )
        return _reported(stages)


def _reported(stages: Stages) -> RunResult:
    """Runs all stages; an unexpected error is recorded in the run directory and reported to the observers."""
    try:
        result = stages.run()
    except (DivergedError, StoppedError) as stop:
        if isinstance(stop, DivergedError) and not stages.crew.rank:
            _write_page(stages.directory.path)
        raise  # A divergence is reported already; a stop is not a failure.
    except KeyboardInterrupt as stop:
        if stages.checkpoints.saved is not None:
            stop.add_note(f"the same command goes on from step {stages.checkpoints.saved}")
        raise
    except Exception as error:
        try:
            stages.report_failure(error)
        except OSError as other:
            if not is_disk_error(other):  # the first error tells where a full disk was met
                raise
        raise
    if not stages.crew.rank:
        _write_page(stages.directory.path)
    return result


def _finish_up(run: Path) -> None:
    """Does what a process left undone that was killed at the end of a run, or after it."""
    atomic.tidy_unless_locked(run)
    if not (run / REPORT).exists():
        _write_page(run)


def _write_page(run: Path) -> None:
    """Writes the page of the run; a run is what it is without its page, which can be made again.

    Raises:
        OSError: the disk takes no more.
    """
    try:
        write_page(run)
    except Exception as error:
        if is_disk_error(error):
            raise
        logger.warning("no page of %s (%s: %s); `ddfw report` makes it again", run, type(error).__name__, error)
