"""`ddfw.distill`: a whole run from Python, with names and values as on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import attrs
from attrs import evolve

from ddfw.config.catalog import as_table, catalog
from ddfw.config.layers import nested
from ddfw.config.load import configure
from ddfw.config.run_config import COMPONENT_TABLES, RunConfig
from ddfw.errors import did_you_mean
from ddfw.pipeline.runner import Places, run
from ddfw.pipeline.stages import RunResult
from ddfw.process.isolation import isolated


@isolated
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
    """Distils a data set, for notebooks; names and values are those of the command line.

    Args:
        recipe: a recipe's name or the path of a configuration file; None chooses a recipe by data, ipc, param and traj.
        out: the run directory; None for one below `runs/`.
        experts_dir: the folder of expert stores.
        data_root: folder in which data sets look for their files.
        seed: `run.seed`, the seed of the run.
        ipc: `budget.ipc`, images per class; None for the recipe's.
        quick: scale everything down that is not given here, so that the run ends in minutes.
        settings: tables as in a configuration file, such as `{"outer": {"steps": 100}}`, or single settings by their
            dotted paths, such as `{"outer.steps": 100}`; they override tables among `components`.
        components: `param=`, `traj=`, `loss=`, `labels=`, `data=`, `model=`, `augment=`, `executor=`: components,
            also ones that no plugin offers; and the settings records `experts=`, `outer=`, `window=`, `gradient=`,
            `eval=`, `budget=`.

            A name alone, such as `param="lss"`, or a table, such as `param={"name": "lss", "rank": 3}` or
            `outer={"steps": 2}`, keeps the recipe's other options.

    Returns:
        The finished run; `.load()` gives the images.

    Raises:
        TypeError: an argument is none of these.
        ConfigError, DataError, DivergedError and others: as `run` does.
    """
    known = {f.name for f in attrs.fields(RunConfig)} - {"run"}
    if unknown := sorted(set(components) - known):
        hint = did_you_mean(unknown[0], known)
        raise TypeError(f"distill() takes no {', '.join(unknown)}.{hint} It takes {', '.join(sorted(known))}")
    typed = {k: components.pop(k) for k, v in list(components.items()) if isinstance(v, str) or _is_table(k, v)}
    _require_objects(components)
    given = {k: v for k, v in components.items() if hasattr(v, "name") and k in ("data", "param", "traj")}
    last = {} if ipc is None else {"budget": {"ipc": ipc}}
    offered = {kind: {e.cls for e in catalog().entries(kind)} for kind in given}
    # These components choose the recipe. All of their options are passed along, since some have no default.
    named = {k: as_table(v) for k, v in given.items() if type(v) in offered[k]}
    places = Places(
        out=None if out is None else Path(out),
        experts=Path(experts_dir),
        data_root=None if data_root is None else Path(data_root),
    )
    layers = [{"run": {"seed": seed}}, named, typed, nested(settings or {}), last]
    made = configure(recipe, layers, (), places.data_root, quick=quick)
    origins = {**made.settings.origins, **dict.fromkeys(components, "argument")}
    return run(evolve(made.config, **components), places, origins=origins)


def _is_table(key: str, value: object) -> bool:
    """Whether an argument is a table as in a configuration file, and no mapping of components, which may be empty."""
    if not isinstance(value, Mapping) or (key in ("cross", "observers") and not value):
        return False
    return not any(attrs.has(type(inner)) for inner in value.values())


def _require_objects(given: Mapping[str, Any]) -> None:
    """Refuses arguments of `distill` that are no components and no settings records.

    Raises:
        TypeError: an argument is something else, such as a class or a number.
    """
    hints = get_type_hints(RunConfig)
    for key, value in given.items():
        base = get_origin(hints[key]) or hints[key]
        if not isinstance(value, base):
            got = (
                f"the class {value.__name__}; make one of it: {value.__name__}(…)" if isinstance(value, type) else value
            )
            kind = "its name or " if key in COMPONENT_TABLES else ""
            raise TypeError(f"distill({key}=…): expected {base.__name__}, {kind}a table of its options; got {got}")
