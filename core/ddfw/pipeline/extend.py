"""Continues a finished run to more outer steps, as if it had been asked for them in the first place."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve

from ddfw.artifacts import atomic, checkpoint
from ddfw.artifacts.run_dir import MANIFEST, SUMMARY, RunDirectory
from ddfw.config.load import configure
from ddfw.errors import DataError, DirectoryInUseError, config_error
from ddfw.pipeline.runner import Places, run

if TYPE_CHECKING:
    from ddfw.contracts.observer import AbstractObserver
    from ddfw.pipeline.stages import RunResult


def extend(
    directory: str | Path,
    steps: int,
    places: Places | None = None,
    extra_observers: Sequence[tuple[str, AbstractObserver]] = (),
    *,
    quiet: bool = False,
    max_seconds: float | None = None,
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

    Raises:
        ConfigError: the run has made as many steps already, or more.
        DataError: no run there, or its files were changed.
        DirectoryInUseError: the run is not finished, keeps no checkpoint, or is in use.
        ResumeError: the run was made with other versions, threads, data or experts.
    """
    folder = RunDirectory(Path(directory))
    if not folder.config.is_file():
        raise DataError(f"{folder.path} is no run directory: it has no config.toml")
    folder.config_text()  # it is ours: what is wrong in it is damage, and no slip of the user's
    config = configure(str(folder.config), {}, ()).config
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


def _origins(folder: RunDirectory) -> dict[str, str]:
    """Where the finished run's settings came from, as its manifest says."""
    origins = atomic.read_json(folder.path / MANIFEST).get("origins", {})
    return {str(key): str(value) for key, value in origins.items()} if isinstance(origins, dict) else {}
