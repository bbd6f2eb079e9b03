"""A whole run, stage by stage: experts, trajectories, the outer loop, evaluation, files.

The command line and notebooks call the same functions here.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import evolve, frozen

from ddfw.app.announce import Announcer
from ddfw.app.catalog import catalog
from ddfw.app.config import RunConfig
from ddfw.app.going_on import find
from ddfw.app.judging import cross_contexts
from ddfw.app.plan import Plan, at, foreign_sources, make_plan
from ddfw.app.quick import changes, scaled
from ddfw.app.sources import QUICK, Settings, gather
from ddfw.app.stages import RunResult, Stages
from ddfw.app.start import set_sha256, warm_start
from ddfw.app.stopping import Stopping, now
from ddfw.app.toml import dumps
from ddfw.artifacts import atomic, checkpoint
from ddfw.artifacts.run_dir import MANIFEST, SUMMARY, RunDirectory
from ddfw.errors import DataError, DirectoryInUseError, DivergedError, StoppedError
from ddfw_registry import ConfigError, Problem, Structurer

if TYPE_CHECKING:
    from ddfw.app.prediction import Prediction
    from ddfw.contracts.executor import Crew
    from ddfw.contracts.observer import AbstractObserver


@frozen(kw_only=True)
class Places:
    """Where things are; none of it changes a result.

    Args:
        out: the run directory, None for `runs/<recipe>-s<seed>-<hash8>`.
        experts: the folder of expert caches.
        data_root: where data sets look for their files.
    """

    out: Path | None = None
    experts: Path = Path("experts")
    data_root: Path | None = None


def structure(settings: Settings) -> RunConfig:
    """The configuration that merged settings describe.

    Raises:
        ConfigError: every problem at once, each with its path.
    """
    tables = dict(settings.tables)
    observers = tables.get("observers")
    if isinstance(observers, Mapping):
        tables["observers"] = {k: v for k, v in observers.items() if not _missing_extra(k, v, settings)}
    return Structurer(catalog()).structure(tables, RunConfig)


def _missing_extra(key: str, table: object, settings: Settings) -> bool:
    """Whether an observer that only a recipe asked for is not installed; a run goes on without it."""
    said = [
        o for path, o in settings.origins.items() if path == f"observers.{key}" or path.startswith(f"observers.{key}.")
    ]
    if not said or not all(origin.startswith("recipe ") for origin in said):
        return False
    name = table.get("name", key) if isinstance(table, Mapping) else key
    if any(entry.name == name for entry in catalog().entries("observer")):
        return False
    sys.stderr.write(f"warning: the recipe's observer {name!r} is not installed or is disabled\n")
    return True


@frozen(kw_only=True)
class Configured:
    """A configuration, the settings it came from, and what `--quick` changed, a text for each value."""

    config: RunConfig
    settings: Settings
    changes: tuple[str, ...] = ()


def configure(
    start: str | Mapping[str, Any] | None,
    flags: Mapping[str, Any],
    assignments: Sequence[str],
    data_root: Path | None = None,
    *,
    quick: bool = False,
) -> Configured:
    """The configuration that a recipe or file, flags and --set describe, scaled down where asked for.

    Args:
        start: a recipe's name, a configuration file, complete tables, or None.
        flags: tables that flags set.
        assignments: texts of --set.
        data_root: where data sets look for their files; scaling down counts the images.
        quick: scale down.

    Raises:
        ConfigError, DataError: see there.
    """
    settings = gather(start, flags, assignments)
    config = structure(settings)
    if not quick:
        return Configured(config=config, settings=settings)
    settings = gather(start, flags, assignments, quick=True)
    small = scaled(structure(settings), config, settings, data_root)
    what = tuple(changes(config_document(config), config_document(small)))
    settings = evolve(settings, origins={**settings.origins, **{text.split(" ")[0]: QUICK for text in what}})
    return Configured(config=small, settings=settings, changes=what)


def download(config: RunConfig, data_root: Path | None) -> None:
    """Fetches the data set's official files into the data root.

    Raises:
        ConfigError: no data root, or nothing to download.
        DataError: a file cannot be had, or is not the official one.
    """
    if data_root is None:
        raise ConfigError((Problem(path="--download", message="where to? name a folder by --data-root or DDFW_DATA"),))
    with at("data"):
        config.data.download(data_root)


def config_document(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as tables."""
    return Structurer(catalog()).unstructure(config)


def config_text(config: RunConfig) -> str:
    """config.toml: the resolved configuration, which runs again."""
    return dumps(config_document(config))


def plan(config: RunConfig, places: Places | None = None) -> Plan:
    """Everything that can be checked before training; what `--dry-run` shows."""
    places = places or Places()
    return make_plan(config, places.data_root, places.experts)


def outline(config: RunConfig, places: Places, on_measure: Callable[[], None] | None = None) -> dict[str, Any]:
    """What a run would do, without doing it: everything is checked, nothing written, no expert trained.

    Time and memory are predicted from a few seconds of measurements; where that fails, the values are null and a note
    beside them says why.

    Args:
        config: what would be run.
        places: where things are.
        on_measure: called before the measurements start, once everything has been checked.

    Raises:
        ConfigError, DataError: see there.
    """
    return outlined(config, places, on_measure)[0]


def outlined(
    config: RunConfig, places: Places, on_measure: Callable[[], None] | None = None
) -> tuple[dict[str, Any], Prediction]:
    """The same, with the prediction as it is."""
    import torch

    from ddfw.app.prediction import predict

    made = plan(config, places)
    cross_contexts(made)
    warm_start(made)
    layout, there = made.layout, made.roster.store.index()
    if config.experts.store:  # its experts are there, so what the run will ask of them can be asked now
        source = made.roster.store.source(made.roster.seeds, made.network, torch.device("cpu"), made.dtype)
        with at("traj"):
            config.traj.prepare(source)
    cached = sum(seed in there for seed in made.roster.seeds)
    facts = {
        "schema": 1,
        "recipe": config.run.recipe,
        "run": config.title(),
        "directory": str(directory_for(config, places)),
        "data": made.splits.counts(),
        "train_images": len(made.splits.train.labels),
        "validation_images": len(made.splits.validation.labels),
        "test_images": len(made.splits.test),
        "image_shape": list(layout.spec.shape),
        "classes": layout.spec.num_classes,
        "parameters": made.network.num_parameters,
        "experts": len(made.roster.seeds),
        "experts_cached": cached,
        "expert_folder": str(made.roster.store.folder),
        "outer_steps": config.outer.steps,
        "inner_steps": config.outer.syn_steps,
        "images_per_class": layout.images_per_class,
        "samples_per_class": layout.samples_per_class,
        "budget_floats": config.budget.floats(layout.spec),
        "strict_floats": layout.strict_floats,
        "pixel_floats": layout.parameter_floats,
        "over_budget": layout.over_budget,
    }
    if on_measure is not None:
        on_measure()
    predicted = predict(made)
    return {**facts, **predicted.record()}, predicted


def directory_for(config: RunConfig, places: Places) -> Path:
    """The run directory: the user's, or one named after recipe, seed and configuration."""
    if places.out is not None:
        return places.out
    text, stem = config_text(config), f"{config.run.recipe}-s{config.run.seed}"
    directory = Path("runs") / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if not directory.exists():
        for other in sorted(directory.parent.glob(f"{stem}-{'[0-9a-f]' * 8}")):
            if (other / SUMMARY).is_file() and recorded_text(other, text) != text:
                return other
    return directory


def recorded_text(folder: Path, text: str) -> str:
    """The text of config.toml in a run directory, if it resolves to the configuration `text`; otherwise `text`.

    The two differ in runs of an earlier version of ddfw, in which an option's value may have had another name.
    """
    path = RunDirectory(folder).config
    with suppress(OSError, UnicodeDecodeError, ConfigError, DataError):
        found = path.read_text(encoding="utf-8")
        if found != text and config_text(structure(gather(str(path), {}, ()))) == text:
            return found
    return text


def finished(config: RunConfig, places: Places) -> RunResult | None:
    """The run of this configuration if its directory holds it, finished and undamaged; None if it is not finished.

    Raises:
        DataError: it is finished, but what it wrote was changed.
        DirectoryInUseError: the directory holds something else.
    """
    directory = RunDirectory(directory_for(config, places))
    summary = directory.finished(recorded_text(directory.path, config_text(config)))
    if summary is None:
        return None
    manifest = atomic.read_json(directory.path / MANIFEST)
    if manifest.get("sources", {}) != foreign_sources(config):
        raise DirectoryInUseError(
            f"{directory.path} is finished, but was made with other code of its plugins; choose another --out"
        )
    if config.outer.init_from and manifest.get("init_from_sha256") != set_sha256(Path(config.outer.init_from)):
        raise DirectoryInUseError(
            f"{directory.path} is finished, but started from another set than now lies at {config.outer.init_from}; "
            "choose another --out"
        )
    return RunResult(directory=directory.path, summary=summary, already_finished=True)


def run(
    config: RunConfig,
    places: Places | None = None,
    extra_observers: Sequence[tuple[str, AbstractObserver]] = (),
    *,
    quiet: bool = False,
    max_seconds: float | None = None,
) -> RunResult:
    """Runs a configuration, or returns the summary of the run that its directory already holds.

    An unfinished run goes on after its newest checkpoint, with the result that it would have had without a break.

    Args:
        config: what to run.
        places: where things are.
        extra_observers: sessions beside the configuration's own, which are no part of it.
        quiet: leave out the configuration's progress observer; how a run is shown is no part of its configuration.
        max_seconds: stop in order when they are over, after the next trained expert or outer step, so that each part
            of a run gets somewhere; none are left (0 or less): stop before anything is done.

    Raises:
        ConfigError, DataError, DirectoryInUseError, DivergedError, ResumeError: see there.
        StoppedError: time is over; the same call goes on.
    """
    began = now()
    with ExitStack() as stack:
        with at("executor"):
            crew = stack.enter_context(config.executor.assemble())
        stopping = Stopping(crew, None if max_seconds is None else max_seconds - (now() - began))
        shown = [(key, o) for key, o in config.observers.items() if not (quiet and o.name == "progress")]
        observers = [*shown, *extra_observers] if crew.rank == 0 else []
        none_left = any(crew.gather(max_seconds is not None and max_seconds <= 0))
        return _run(config, places or Places(), observers, crew, stopping, none_left=none_left)


def _run(
    config: RunConfig,
    places: Places,
    observers: Sequence[tuple[str, AbstractObserver]],
    crew: Crew,
    stopping: Stopping,
    *,
    none_left: bool,
) -> RunResult:
    """The same on one rank of a crew; rank 0 looks what the directory holds, and has it to itself."""
    there = finished(config, places) if crew.rank == 0 else None
    looked = {"directory": str(directory_for(config, places)), "summary": None if there is None else there.summary}
    looked = crew.share(looked)
    directory = RunDirectory(Path(str(looked["directory"])))
    if looked["summary"] is not None:
        if crew.rank == 0:
            with suppress(OSError):  # left by a process that died right after it had finished
                checkpoint.remove(directory.checkpoints)
        return RunResult(directory=directory.path, summary=looked["summary"], already_finished=True)
    if none_left:
        raise StoppedError(f"time is over: stopped before {directory.path}; the same command goes on from there")
    made = plan(config, places)
    with ExitStack() as stack:
        if crew.rank == 0:
            stack.enter_context(directory.claimed(config_text(config)))
        resumed = find(directory.checkpoints, crew)
        held = None if resumed is None else resumed.facts.held_steps
        announcer = stack.enter_context(Announcer().opened(observers, directory.path))
        with at("executor"):
            session = stack.enter_context(config.executor.open(evolve(made.context(), held_steps=held)))
        stages = Stages(
            plan=made,
            directory=directory,
            session=session,
            announce=announcer,
            crew=crew,
            stopping=stopping,
            resumed=resumed,
        )
        try:
            return stages.everything()
        except (DivergedError, StoppedError):
            raise  # the one has been told, with what was learned before; the other is no end
        except KeyboardInterrupt as stop:
            if stages.saved is not None:
                stop.add_note(f"the same command goes on from step {stages.saved}")
            raise
        except Exception as error:
            stages.tell_failure(error)
            raise


def distill(
    recipe: str | None = None,
    *,
    out: str | Path | None = None,
    experts_dir: str | Path = "experts",
    data_root: str | Path | None = None,
    seed: int = 0,
    ipc: int | None = None,
    quick: bool = False,
    settings: Mapping[str, Any] | None = None,
    **components: Any,
) -> RunResult:
    """Distils from a notebook, with the words of the command line.

    Args:
        recipe: a recipe's name or a configuration file; None chooses one by data, ipc, param and traj.
        out: run directory; None for one below `runs/`.
        experts_dir: folder of the expert caches.
        data_root: where data sets look for their files.
        seed: `run.seed`.
        ipc: `budget.ipc`.
        quick: scale everything down that is not said here, so that the run ends in minutes.
        settings: tables as in a configuration file, `{"outer": {"steps": 100}}`.
        components: `param=`, `traj=`, `loss=`, `labels=`, `data=`, `model=`, `augment=`, `executor=`: components,
            also ones that no plugin offers; and the settings records `experts=`, `outer=`, `window=`, `gradient=`,
            `eval=`, `budget=`.

            A component's name alone, `param="lss"`, takes the recipe's options.

    Returns:
        The finished run; `.load()` gives the images.
    """
    known = {f.name for f in attrs.fields(RunConfig)} - {"run"}
    if unknown := sorted(set(components) - known):
        raise TypeError(f"distill() takes no {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    typed = {k: components.pop(k) for k, v in list(components.items()) if isinstance(v, str)}
    given = {k: v for k, v in components.items() if hasattr(v, "name") and k in ("data", "param", "traj")}
    flags: dict[str, Any] = {"run": {"seed": seed}, **{k: dict(v) for k, v in (settings or {}).items()}}
    if ipc is not None:
        flags["budget"] = {**flags.get("budget", {}), "ipc": ipc}
    offered = {kind: {e.cls for e in catalog().entries(kind)} for kind in given}
    # They choose the recipe; with all of their options, since some have no defaults.
    named = {k: Structurer(catalog()).unstructure(v) for k, v in given.items() if type(v) in offered[k]}
    places = Places(
        out=None if out is None else Path(out),
        experts=Path(experts_dir),
        data_root=None if data_root is None else Path(data_root),
    )
    config = configure(recipe, {**flags, **named, **typed}, (), places.data_root, quick=quick).config
    return run(evolve(config, **components), places)
