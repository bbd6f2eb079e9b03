"""`ddfw eval`: a stored synthetic set, judged again by fresh networks."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from attrs import evolve

from ddfw.app.announce import Announcer
from ddfw.app.compose import structure
from ddfw.app.judging import Judge
from ddfw.app.plan import make_plan, sha256_of
from ddfw.app.results import eval_record
from ddfw.app.sources import Settings
from ddfw.app.subjects import distilled
from ddfw.artifacts import atomic, synthetic
from ddfw.artifacts.run_dir import MANIFEST, RunDirectory
from ddfw.errors import DataError


def reevaluate(
    run: Path, networks: int | None, seed: int | None, data_root: Path | None
) -> tuple[Path, dict[str, Any]]:
    """Trains fresh networks on a run's stored set and judges them on the test split.

    Args:
        run: the run directory.
        networks: how many; None for the run's own number.
        seed: of their initialisations; None for the run's own.
        data_root: where the data set looks for its files.

    Returns:
        The file that was written, and its content.

    Raises:
        DataError: no run there, or damaged files.
    """
    directory = RunDirectory(run)
    if not directory.config.is_file():
        raise DataError(f"{run} is not a run directory: it has no config.toml")
    try:
        tables = tomllib.loads(directory.config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{directory.config} is not readable TOML: {error}") from error
    config = structure(Settings(tables=tables))
    settings = evolve(
        config.eval,
        networks=config.eval.networks if networks is None else networks,
        seed=config.eval.seed if seed is None else seed,
    )
    config = evolve(config, eval=settings)
    learned = synthetic.load(run)
    # Networks have to see what they saw in the run, so the stored space is used, not one fitted anew.
    plan = make_plan(config, data_root, None)
    imported = bool(learned.card.get("experts", {}).get("imported"))
    plan = evolve(plan, space=learned.space, roster=evolve(plan.roster, imported=imported))
    _require_same_data(run, "data_sha256", plan.data_sha256)
    test = plan.splits.test.read()
    _require_same_data(run, "test_sha256", sha256_of(test))
    announcer = Announcer()
    observers = [(key, o) for key, o in config.observers.items() if o.name == "progress"]
    with announcer.opened(observers, run), config.executor.open(plan.context()) as session:
        judge = Judge(ground=plan, session=session, announce=announcer, net=config.model.name)
        images, targets = (t.to(session.device, plan.dtype) for t in (learned.images, learned.targets))
        report = judge.test(
            distilled(plan, images, targets, learned.step_size, learned.step),
            plan.encode(test, session.device),
            lambda done: announcer.tick("evaluate", done, settings.networks),
        )
    record = eval_record(report)
    path = run / "eval" / f"again-{config.model.name}-seed{settings.seed}-n{settings.networks}.json"
    path.parent.mkdir(exist_ok=True)
    atomic.write_json(path, record)
    return path, record


def _require_same_data(run: Path, key: str, found: str) -> None:
    """Refuses to compare figures of different data.

    Raises:
        DataError: the data set is not the one that the run's manifest names.
    """
    expected = atomic.read_json(run / MANIFEST).get(key)
    if expected is not None and expected != found:
        what = "test images or labels" if key == "test_sha256" else "training images or labels"
        raise DataError(f"the {what} are not those of {run} (sha256 {found[:12]}…, there {str(expected)[:12]}…)")
