"""Sweeps: one file that says what differs between trials; each trial is an ordinary run in a directory of its own.

Trials are ranked by the validation accuracy of the step that was selected, and never by the test split: the best of
many test accuracies is no test accuracy any more.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from ddfw.artifacts import atomic, checkpoint
from ddfw.artifacts.run_dir import MANIFEST, RunDirectory
from ddfw.config.catalog import component
from ddfw.config.layers import Settings
from ddfw.config.load import config_text, structured_config
from ddfw.contracts.records import Summary
from ddfw.errors import ConfigError, DivergedError, OptionError, ResumeError, UnknownComponentError, config_error
from ddfw.pipeline import runner
from ddfw.pipeline.report.tables import percent
from ddfw_plugins.commands.sweep import files
from ddfw_plugins.commands.sweep.files import Sweep, words
from ddfw_plugins.commands.sweep.tables import markdown
from ddfw_plugins.commands.sweep.trials import Trial, folder_of, grid, probe

if TYPE_CHECKING:
    from ddfw.contracts.executor import AbstractExecutor

SWEEP_SCHEMA = 1
#: What an executor is asked to scatter.
TASK = "ddfw_plugins.commands.sweep.runner:run_trial"
OBJECTIVE = "validation accuracy of the selected step"
NOTE = "test accuracies were not used for choosing"

Outcome = Mapping[str, Any]


def run_trial(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Runs one trial wherever it was sent.

    Args:
        payload: `config` (a whole configuration's tables), `out`, `experts`, `data_root`, `quiet`.

    Returns:
        Its outcome. A run that diverges or turns out to be impossible has one, too.
    """
    config = structured_config(Settings(tables=payload["config"]))
    places = runner.Places(
        out=Path(payload["out"]),
        experts=Path(payload["experts"]),
        data_root=None if payload["data_root"] is None else Path(payload["data_root"]),
    )
    try:
        try:
            result = runner.run(config, places, quiet=payload["quiet"])
        except ResumeError:  # begun with other threads or versions, on another node perhaps: from the start, then
            checkpoint.remove(RunDirectory(Path(payload["out"])).checkpoints)
            result = runner.run(config, places, quiet=payload["quiet"])
        return _finished(result.summary)
    except DivergedError as error:
        return _without("diverged", str(error))
    except (ConfigError, OptionError) as error:
        return _without("impossible", str(error))


def _payload(one: Trial, *, quiet: bool) -> dict[str, Any]:
    assert one.config is not None
    root = one.places.data_root
    return {
        "config": tomllib.loads(config_text(one.config)),
        "out": str(one.directory.resolve()),
        "experts": str(one.places.experts.resolve()),
        "data_root": None if root is None else str(root.resolve()),
        "quiet": quiet,
    }


def _finished(summary: Summary) -> dict[str, Any]:
    row = next(row for row in summary["rows"] if row["subject"] == "distilled")
    return {
        "status": "finished",
        "validation_accuracy": summary["selected_accuracy"],
        "selected_step": summary["selected_step"],
        "test": {key: row[key] for key in ("mean", "std", "n")} | {"used_for_choosing": False},
        "seconds": round(sum(summary["seconds"].values()), 3),
    }


def _without(status: str, reason: str = "") -> dict[str, Any]:
    """The outcome of a trial that has no figures."""
    figures = {"validation_accuracy": None, "selected_step": None, "test": None, "seconds": None}
    return {"status": status, **({"reason": " ".join(reason.split())} if reason else {}), **figures}


def ended(one: Trial) -> Outcome | None:
    """How a trial ended before, as its directory tells it; None if it did not.

    Raises:
        DataError: it is finished, but what it wrote was changed.
        DirectoryInUseError: its directory holds something else.
    """
    if one.config is None:
        return _without("impossible", one.reason)
    if (result := runner.finished(one.config, one.places)) is not None:
        return _finished(result.summary)
    directory = RunDirectory(one.directory)
    if (directory.path / MANIFEST).is_file() and directory.config.is_file():
        manifest = atomic.read_json(directory.path / MANIFEST)
        same = directory.config.read_text(encoding="utf-8") == config_text(one.config)
        if same and manifest.get("status") == "diverged":  # it would again
            return _without("diverged", str(manifest.get("reason", "")))
    return None


class Source(Protocol):
    """Where trials come from."""

    def known(self) -> list[Trial]:
        """Those that were asked for before, in their order."""
        ...

    def ask(self, count: int) -> list[Trial]:
        """As many new ones, or fewer, or none: then all are there."""
        ...

    def tell(self, number: int, outcome: Outcome) -> None:
        """How one ended; telling it twice changes nothing."""
        ...


@frozen
class _Grid:
    """All trials at once."""

    trials: list[Trial]

    def known(self) -> list[Trial]:
        return self.trials

    def ask(self, count: int) -> list[Trial]:
        return []

    def tell(self, number: int, outcome: Outcome) -> None:
        return None


def run(
    sweep: Sweep | str | Path,
    places: runner.Places | None = None,
    *,
    on: str = "",
    workers: int = 1,
    say: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Runs all trials that have not ended yet; sweep.json and sweep.md are written anew after each.

    Args:
        sweep: what to run, or its file.
        places: where; `out` is the sweep's folder.
        on: the executor that scatters whole trials; "" runs one after another, here.
        workers: how many trials a study asks for at a time, with `on`.
        say: told what happens, in lines.
        quiet: no progress of single runs.

    Returns:
        The folder and what its sweep.json says.

    Raises:
        ConfigError: the file, or a trial of a grid, is wrong; nothing was run then.
        DataError, DirectoryInUseError: see there.
    """
    places = places or runner.Places()
    sweep = sweep if isinstance(sweep, Sweep) else files.read(Path(sweep))
    if workers < 1 or (workers > 1 and (not on or sweep.method == "grid")):
        raise config_error(
            "--workers", "is for an optuna study --on an executor, and at least 1; a grid sends all at once"
        )
    executor = _executor(on)
    root = folder_of(sweep, places)
    source: Source
    if sweep.method == "grid":
        source = _Grid(grid(sweep, places))
    else:
        from ddfw_plugins.commands.sweep.study import Study, require_optuna

        require_optuna()
        probe(sweep, places)
    root.mkdir(parents=True, exist_ok=True)
    with atomic.locked(root, "the sweep's folder", wait=False):
        if sweep.method == "optuna":
            source = Study(sweep, places, root / "study.journal")
        return root, _Board(sweep, root).filled(source, executor, workers, say, quiet=quiet)


def _executor(name: str) -> AbstractExecutor | None:
    if not name:
        return None
    try:
        found: AbstractExecutor = component("executor", name)
    except UnknownComponentError as error:
        raise error.at("--on") from None
    try:
        with found.assemble() as crew:
            if crew.size > 1:
                raise OptionError("every process would run every trial; --on is for an executor that sends them out")
    except OptionError as error:
        raise config_error("--on", str(error)) from error
    return found


def _each(
    executor: AbstractExecutor | None,
    trials: Sequence[Trial],
    count: int,
    say: Callable[[str], None],
    *,
    quiet: bool,
) -> Iterator[tuple[Trial, Outcome]]:
    """Trials with their outcomes, as they end."""
    if executor is None:
        for one in trials:
            say(f"\n{_title(one, count)}")
            yield one, run_trial(_payload(one, quiet=quiet))
        return
    # Progress of several runs at a time could not be read.
    results = executor.scatter(TASK, [_payload(one, quiet=True) for one in trials])
    try:
        for position, outcome in results:
            yield trials[position], outcome
    finally:
        close = getattr(results, "close", None)  # an interrupt has to reach the other machines
        if close is not None:
            close()


def _title(one: Trial, count: int) -> str:
    return f"── {one.number + 1}/{count}  {words(one.parameters)}"


def _verdict(outcome: Outcome) -> str:
    if outcome["status"] == "finished":
        return f"validation {percent(outcome['validation_accuracy'])} %"
    return f"{outcome['status']}: {outcome['reason']}" if outcome.get("reason") else str(outcome["status"])


class _Board:
    """What is known of all trials; keeps sweep.json and sweep.md."""

    def __init__(self, sweep: Sweep, root: Path) -> None:
        self._sweep, self._root = sweep, root
        self._rows: dict[int, dict[str, Any]] = {}

    def filled(
        self,
        source: Source,
        executor: AbstractExecutor | None,
        workers: int,
        say: Callable[[str], None],
        *,
        quiet: bool,
    ) -> dict[str, Any]:
        """Runs what has not ended; returns the record."""
        count, todo = self._sweep.count, list[Trial]()
        for one in source.known():
            outcome = ended(one)
            self._put(one, outcome)
            if outcome is None:
                todo.append(one)
            else:
                source.tell(one.number, outcome)
        if before := len(self._rows) - len(todo):
            say(f"{before} of {count} trials ended before, and are not run again")
        while todo or (todo := source.ask(workers)):
            for one in todo:
                self._put(one, None)
            self._write()
            impossible = [(one, _without("impossible", one.reason)) for one in todo if one.config is None]
            possible = [one for one in todo if one.config is not None]
            outcomes = _each(executor, possible, count, say, quiet=quiet)
            for one, outcome in itertools.chain(impossible, outcomes):
                source.tell(one.number, outcome)
                self._put(one, outcome)
                self._write()
                here = executor is None and one.config is not None  # then its title was said before it ran
                say(f"   {_verdict(outcome)}" if here else f"{_title(one, count)}  {_verdict(outcome)}")
            todo = []
        return self._write()

    def _put(self, one: Trial, outcome: Outcome | None) -> None:
        self._rows[one.number] = {
            "number": one.number,
            "parameters": plain(one.parameters),
            **(_without("waiting") if outcome is None else outcome),
            "directory": str(one.directory.relative_to(self._root)),
        }

    def _write(self) -> dict[str, Any]:
        sweep = self._sweep
        rows = [self._rows[number] for number in sorted(self._rows)]
        done = [row for row in rows if row["status"] == "finished"]
        best = max(done, key=lambda row: (row["validation_accuracy"], -row["number"]), default=None)
        drawn = {"sampler": sweep.sampler, "seed": sweep.seed} if sweep.method == "optuna" else {}
        record = {
            "schema": SWEEP_SCHEMA,
            "sweep": sweep.name,
            "summary": sweep.summary,
            "method": sweep.method,
            **drawn,
            "recipe": sweep.recipe or None,
            "objective": OBJECTIVE,
            "note": NOTE,
            "paths": list(sweep.paths),
            "count": sweep.count,
            "best": None if best is None else best["number"],
            "trials": rows,
        }
        atomic.write_json(self._root / "sweep.json", record)
        atomic.write_text(self._root / "sweep.md", markdown(record))
        return record


def plain(value: Any) -> Any:
    """A TOML value as JSON has it: no infinities."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
