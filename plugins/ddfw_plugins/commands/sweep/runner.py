"""Runs sweeps: one file names the values to try; each trial is an ordinary run in a directory of its own.

Trials are ranked by the validation accuracy of their selected step, never by the test split: the best of many test
accuracies would be no fair test accuracy.
"""

from __future__ import annotations

import math
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

import ddfw
from ddfw import ConfigError, DivergedError, OptionError, ResumeError, UnknownComponentError, config_error
from ddfw_plugins.commands.sweep import files
from ddfw_plugins.commands.sweep.files import Sweep, words
from ddfw_plugins.commands.sweep.study import Study, require_optuna
from ddfw_plugins.commands.sweep.tables import markdown, ranked
from ddfw_plugins.commands.sweep.trials import Trial, folder_of, grid, probe

#: Import string of the function that an executor calls for each trial, in this or another process.
TASK = "ddfw_plugins.commands.sweep.runner:run_trial"
#: The fields of `ddfw.Places` that are sent with a trial.
_PLACES = ("out", "experts", "data_root")

#: Of sweep.json, which seals itself since 2.
RECORD_SCHEMA = 2

#: How a trial ended, as it stands in sweep.json: `status`, accuracies, seconds, and a `reason` if it did not finish.
Outcome = Mapping[str, Any]


def run_trial(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Runs one trial, in the process that it was sent to.

    Args:
        payload: `config` (the tables of a whole configuration), the folders `out`, `experts` and `data_root`, and
            `quiet` (show no progress).

    Returns:
        The outcome of the trial, also if the run diverges or turns out to be impossible.
    """
    config = ddfw.configure(payload["config"], {}, ()).config
    places = ddfw.structured({key: payload[key] for key in _PLACES}, ddfw.Places)
    try:
        try:
            result = ddfw.run(config, places, quiet=payload["quiet"])
        except ResumeError:  # begun with other threads or versions, perhaps on another node: start it over
            shutil.rmtree(Path(payload["out"]) / "checkpoints", ignore_errors=True)
            result = ddfw.run(config, places, quiet=payload["quiet"])
        return _finished(result.summary)
    except DivergedError as error:
        return _without_figures("diverged", str(error))
    except (ConfigError, OptionError) as error:
        return _without_figures("impossible", str(error))


def _payload(trial: Trial, *, quiet: bool) -> dict[str, Any]:
    assert trial.config is not None
    places: dict[str, Path | None] = {key: getattr(trial.places, key) for key in _PLACES}
    return {
        "config": tomllib.loads(ddfw.config_text(trial.config)),
        **{key: None if path is None else str(path.resolve()) for key, path in places.items()},
        "quiet": quiet,
    }


def _finished(summary: Any) -> dict[str, Any]:
    row = next(row for row in summary["rows"] if row["subject"] == "distilled")
    return {
        "status": "finished",
        "validation_accuracy": summary["selected_accuracy"],
        "selected_step": summary["selected_step"],
        "test": {key: row[key] for key in ("mean", "std", "n")} | {"used_for_choosing": False},
        "seconds": round(sum(summary["seconds"].values()), 3),
    }


def _without_figures(status: str, reason: str = "") -> dict[str, Any]:
    """The outcome of a trial that did not finish."""
    figures = {"validation_accuracy": None, "selected_step": None, "test": None, "seconds": None}
    return {"status": status, **({"reason": " ".join(reason.split())} if reason else {}), **figures}


def ended(trial: Trial) -> Outcome | None:
    """How a trial ended in an earlier call, read from its directory; None if it has not ended.

    Raises:
        DataError: the trial is finished, but its files were changed afterwards.
        DirectoryInUseError: the trial's directory holds another run, or something else.
        ResumeError: the trial was made of other data.
    """
    if trial.config is None:
        return _without_figures("impossible", trial.reason)
    if (result := ddfw.finished(trial.config, trial.places)) is not None:
        if not (trial.directory / "report.html").exists():  # its process was killed before it wrote the page
            ddfw.write_page(trial.directory)
        return _finished(result.summary)
    config = trial.directory / "config.toml"
    facts = ddfw.read_run(trial.directory).manifest if config.is_file() else {}
    if facts.get("status") == "diverged" and config.read_text(encoding="utf-8") == ddfw.config_text(trial.config):
        ddfw.require_same_sources(trial.config, trial.places, trial.directory)
        return _without_figures("diverged", str(facts.get("reason", "")))  # another run of it would diverge again
    return None


def run(
    sweep: Sweep | str | Path,
    places: ddfw.Places | None = None,
    *,
    on: str = "",
    workers: int = 1,
    say: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Runs all trials that have not ended yet, and writes sweep.json and sweep.md after each.

    Args:
        sweep: the sweep, or the path of its file.
        places: folders to read and write; `out` is the sweep's folder.
        on: name of the executor that sends out whole trials; "" runs them one after another in this process.
        workers: number of trials that a study proposes at a time; above 1 only with `on`.
        say: called with a line of text before and after each trial.
        quiet: show no progress of single runs.

    Returns:
        The sweep's folder, and the content of its sweep.json.

    Raises:
        ConfigError: the file, or a trial of a grid, is wrong; nothing was run.
        DataError: the data set is missing or damaged, or the files of a finished trial were changed.
        DirectoryInUseError: another process runs this sweep, or the folder holds another one.
    """
    places = places or ddfw.Places()
    sweep = sweep if isinstance(sweep, Sweep) else files.read(Path(sweep))
    if workers < 1 or (workers > 1 and (not on or sweep.method == "grid")):
        raise config_error(
            "--workers", "is for an optuna study --on an executor, and at least 1; a grid sends all at once"
        )
    executor = _executor(on)
    root = folder_of(sweep, places)
    trials = grid(sweep, places) if sweep.method == "grid" else []
    if sweep.method == "optuna":
        require_optuna()
        probe(sweep, places)
    root.mkdir(parents=True, exist_ok=True)
    with ddfw.locked(root, "the sweep's folder", wait=False):
        ddfw.warn_if_damaged(root / "sweep.json", RECORD_SCHEMA)
        study = Study(sweep, places, root / "study.journal") if sweep.method == "optuna" else None
        running = _Running(sweep=sweep, root=root, study=study, executor=executor, say=say, quiet=quiet)
        return root, running.run(trials if study is None else study.trials(), workers)


def _executor(name: str) -> ddfw.AbstractExecutor | None:
    if not name:
        return None
    try:
        found: ddfw.AbstractExecutor = ddfw.component("executor", name)
        with found.assemble() as crew:
            if crew.size > 1:
                raise OptionError("every process would run every trial; --on is for an executor that sends them out")
    except UnknownComponentError as error:
        raise error.at("--on") from None
    except OptionError as error:
        raise config_error("--on", str(error)) from error
    return found


@frozen(kw_only=True)
class _Running:
    """A sweep that is being run; writes its sweep.json and sweep.md.

    Args:
        sweep: the sweep.
        root: the sweep's folder.
        study: the study that proposes trials and learns from their outcomes, None for a grid.
        executor: the executor that sends out whole trials, None to run them in this process.
        say: called with a line of text before and after each trial.
        quiet: show no progress of single runs.
        rows: the rows of sweep.json so far, by the trial's number.
    """

    sweep: Sweep
    root: Path
    study: Study | None
    executor: ddfw.AbstractExecutor | None
    say: Callable[[str], None]
    quiet: bool
    rows: dict[int, dict[str, Any]] = field(factory=dict)

    def run(self, trials: Sequence[Trial], workers: int) -> dict[str, Any]:
        """Runs the trials that have not ended, then those that the study proposes; returns what sweep.json says."""
        waiting: list[Trial] = []
        for trial in trials:
            outcome = ended(trial)
            self._put(trial, outcome)
            if outcome is None:
                waiting.append(trial)
        if before := len(trials) - len(waiting):
            self.say(f"{before} of {self.sweep.count} trials ended before, and are not run again")
        while waiting or (self.study is not None and (waiting := self.study.ask(workers))):
            for trial in waiting:
                self._put(trial, None)
            self._write()
            for trial, outcome in self._outcomes(waiting):
                self._put(trial, outcome)
                self._write()
                here = self.executor is None and trial.config is not None  # its title was shown before it ran
                self.say(f"{' ' if here else self._title(trial)}  {_outcome_words(outcome)}")
            waiting = []
        return self._write()

    def _outcomes(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome]]:
        """Runs trials, and yields each with its outcome as soon as it ends."""
        possible = [trial for trial in trials if trial.config is not None]
        yield from ((trial, _without_figures("impossible", trial.reason)) for trial in trials if trial.config is None)
        if self.executor is None:
            for trial in possible:
                self.say(f"\n{self._title(trial)}")
                yield trial, run_trial(_payload(trial, quiet=self.quiet))
            return
        # Quiet, since the progress of several runs at a time would be mixed up.
        results = self.executor.scatter(TASK, [_payload(trial, quiet=True) for trial in possible])
        try:
            for position, outcome in results:
                yield possible[position], outcome
        finally:
            getattr(results, "close", lambda: None)()  # so that an interrupt stops the trials on other machines, too

    def _title(self, trial: Trial) -> str:
        return f"── {trial.number + 1}/{self.sweep.count}  {words(trial.parameters)}"

    def _put(self, trial: Trial, outcome: Outcome | None) -> None:
        """Records how a trial ended, in the rows and in the study; None means that it still has to run."""
        if self.study is not None and outcome is not None:
            self.study.tell(trial.number, outcome)
        self.rows[trial.number] = {
            "number": trial.number,
            "parameters": plain(trial.parameters),
            **(_without_figures("waiting") if outcome is None else outcome),
            "directory": str(trial.directory.relative_to(self.root)),
        }

    def _write(self) -> dict[str, Any]:
        """Writes sweep.json and sweep.md, and returns the content of sweep.json."""
        sweep, settings = self.sweep, self.sweep.settings
        rows = [self.rows[number] for number in sorted(self.rows)]
        best = ranked(rows)[:1]
        record = {
            "schema": RECORD_SCHEMA,
            "sweep": sweep.name,
            "summary": settings.summary,
            "method": sweep.method,
            **({"sampler": settings.sampler, "seed": settings.seed} if sweep.method == "optuna" else {}),
            "recipe": settings.recipe or None,
            "objective": "validation accuracy of the selected step",
            "note": "test accuracies were not used for choosing",
            "paths": list(sweep.axes),
            "count": sweep.count,
            "best": best[0]["number"] if best and best[0]["status"] == "finished" else None,
            "trials": rows,
        }
        record = ddfw.sealed(record)
        ddfw.write_json(self.root / "sweep.json", record)
        ddfw.write_text(self.root / "sweep.md", markdown(record))
        return record


def _outcome_words(outcome: Outcome) -> str:
    if outcome["status"] == "finished":
        return f"validation {ddfw.percent(outcome['validation_accuracy'])} %"
    return f"{outcome['status']}: {outcome['reason']}" if outcome.get("reason") else str(outcome["status"])


def plain(value: Any) -> Any:
    """A TOML value in a form that JSON can hold: infinities and NaN become text."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value
