"""Continues a finished run to more outer steps, as if it had been asked for them in the first place."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from ddfw.artifacts import atomic, checkpoint, run_seals
from ddfw.artifacts.run_dir import SUMMARY, RunDirectory
from ddfw.config.foreign import RunFile, reaching, read_run_file, short_repr
from ddfw.config.load import configure
from ddfw.errors import ConfigError, DataError, DirectoryInUseError, config_error
from ddfw.pipeline.runner import Places, run
from ddfw.process.isolation import isolated

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig
    from ddfw.contracts.observer import AbstractObserver
    from ddfw.pipeline.stages import RunResult

logger = logging.getLogger(__name__)

#: How many settings that lead elsewhere a message names.
_SHOWN = 4


@isolated
def extend(
    directory: str | Path,
    steps: int,
    places: Places | None = None,
    extra_observers: Sequence[tuple[str, AbstractObserver]] = (),
    *,
    quiet: bool = False,
    max_seconds: float | None = None,
    trust: bool = False,
    say: Callable[[str], None] = logger.info,
) -> RunResult:
    """Continues a finished run with the state of its optimisers until it has made `steps` outer steps.

    What it learns, the step that is selected and its figures on the validation split are those of a run that was asked
    for `steps` from the start. The test split is read once more, which the rows say; what the shorter run said and
    learned stays in `earlier/step-…` of its directory. An extension that was stopped goes on by the same call.

    Args:
        directory: the directory of a finished run.
        steps: outer steps that the run shall have in all, those that are done included.
        places: folders to read; `out` is not used.
        extra_observers: as for `run`.
        quiet: as for `run`.
        max_seconds: as for `run`.
        trust: continue it also if this user has not run its configuration here; all that its config.toml says is done.
        say: called once with what the configuration asks for, before anything is loaded.

    Raises:
        ConfigError: the run has made as many steps already, or more; or it is of somebody else, and `trust` is not set.
        DataError: no run there, or its files were changed.
        DirectoryInUseError: the run is not finished, keeps no checkpoint, or is in use.
        ResumeError: the run was made with other versions, threads, data or experts.
    """
    folder = RunDirectory(Path(directory))
    if not folder.config.is_file():
        raise DataError(f"{folder.path} is no run directory: it has no config.toml")
    file = read_run_file(folder.config, trust=trust)
    run_seals.require_figures(folder.path)
    if not file.own:
        raise _not_trusted(file, steps)
    config = configure(str(folder.config), {}, ()).config
    say(f"as {folder.config} says: {_work(config, steps)}")
    places = evolve(places or Places(), out=folder.path)
    longer = evolve(config, outer=evolve(config.outer, steps=steps))
    done, name = config.outer.steps, shlex.quote(str(folder.path))
    summary = folder.path / SUMMARY
    finished = summary.is_file() and atomic.read_json(summary).get("outer_steps") == done
    if steps == done and not finished and (folder.path / "earlier").is_dir():  # an extension that was stopped
        return run(config, places, extra_observers, quiet=quiet, max_seconds=max_seconds)
    if not finished:
        raise DirectoryInUseError(
            f"{folder.path} is a run of {done} outer steps that is not finished: "
            f"`ddfw run {name}/config.toml --out {name}` finishes it first"
        )
    if steps <= done:
        raise config_error(
            "--steps",
            f"{folder.path} has made {done} outer steps, which --steps counts too: ask for more, got {steps}",
        )
    pointer = checkpoint.latest(folder.checkpoints)
    if pointer is None or pointer.step != done:
        raise DirectoryInUseError(
            f"{folder.path} keeps no checkpoint of its last step (run.keep_checkpoint = false, or an earlier "
            f"version of ddfw made it); a new run can start from its set: `ddfw run … --init-from {name} --out …`"
        )
    origins = {**_origins(folder), "outer.steps": "extend"}
    return run(longer, places, extra_observers, quiet=quiet, max_seconds=max_seconds, origins=origins, extends=config)


def _work(config: RunConfig, steps: int) -> str:
    """What an extension does, in a few words."""
    return (
        f"{config.title()}, executor {config.executor.name}, {config.experts.count} experts of {config.experts.epochs} "
        f"epochs, {steps} outer steps, {config.eval.networks} networks × {config.eval.epochs} epochs"
    )


def _not_trusted(file: RunFile, steps: int) -> ConfigError:
    """The refusal of a configuration that the user has not run here; it names what would be run."""

    def of(table: str, key: str) -> str:
        found = file.tables.get(table)
        return short_repr(found.get(key) if isinstance(found, Mapping) else None)

    leads = reaching(file.tables)
    more = f"; it leads to {', '.join(leads[:_SHOWN])}{', …' if len(leads) > _SHOWN else ''}" if leads else ""
    return config_error(
        str(file.path),
        f"it was not run by you here. It would run data {of('data', 'name')}, network {of('model', 'name')}, executor "
        f"{of('executor', 'name')}, {of('experts', 'count')} experts of {of('experts', 'epochs')} epochs, {steps} "
        f"outer steps, {of('eval', 'networks')} networks × {of('eval', 'epochs')} epochs{more}. If that is what you "
        "want, add --trust-config",
    )


def _origins(folder: RunDirectory) -> dict[str, str]:
    """Where the finished run's settings came from, as its manifest says."""
    origins = run_seals.read_manifest(folder.path).get("origins", {})
    return {str(key): str(value) for key, value in origins.items()} if isinstance(origins, dict) else {}
