"""Runs comparisons: several ways to distil, named in one file, over several seeds and at equal cost.

Every variant gets the same budget of floats, the same number of inner image-gradients (outer steps × segments × inner
steps × images per inner step, as near as whole steps allow) and about as many selections on the validation split.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

from attrs import evolve, frozen

import ddfw
from ddfw import ConfigError, DirectoryInUseError, config_error, errors_in
from ddfw_plugins.commands.compare.files import Comparison, Variant
from ddfw_plugins.commands.compare.tables import markdown


def variant_config(comparison: Comparison, variant: Variant, places: ddfw.Places) -> ddfw.RunConfig:
    """A variant's configuration, its outer steps and selections set so that all variants cost the same.

    Raises:
        ConfigError: the variant's settings are wrong, or do not fit its data; the path starts with the file's name and
            is that in the file, below [base] or the variant.
        DataError: the data set is missing or damaged.
    """
    with errors_in(comparison.file):
        return _variant_config(comparison, variant, places)


def _variant_config(comparison: Comparison, variant: Variant, places: ddfw.Places) -> ddfw.RunConfig:
    settings, place = comparison.settings, f"variants.{variant.name}"
    _require_equal_terms(comparison, variant, place)
    try:
        config = ddfw.configure(settings.recipe, [comparison.base, variant.tables], ()).config
        layout = ddfw.fits(config, places.data_root)
    except ConfigError as error:
        problems = []
        for problem in error.problems:
            shared = not _stands(problem.path, variant.tables) and _stands(problem.path, comparison.base)
            problems.append(evolve(problem, path=f"{'base' if shared else place}.{problem.path}"))
        raise ConfigError(problems, error.causes) from error
    config = evolve(config, run=evolve(config.run, recipe=comparison.name))
    if settings.image_gradients is not None:
        steps = max(1, round(settings.image_gradients / image_gradients_per_step(config, layout.num_images)))
        config = evolve(config, outer=evolve(config.outer, steps=steps))
    if settings.selections is not None:
        every = max(1, -(-config.outer.steps // settings.selections))
        config = evolve(config, eval=evolve(config.eval, every=every))
    return config


def _stands(path: str, tables: Any) -> bool:
    """Whether tables set what stands at a dotted path."""
    for key in path.partition("[")[0].split("."):
        if not isinstance(tables, Mapping) or key not in tables:
            return False
        tables = tables[key]
    return True


def _require_equal_terms(comparison: Comparison, variant: Variant, place: str) -> None:
    """Refuses settings of a variant that have to be equal for all, and settings that follow from others."""
    for key in ("run", "budget"):
        if key in variant.tables:
            raise config_error(f"{place}.{key}", "is the same for all variants; set it in [base]")
    for key in sorted(_keys(variant.tables, "eval") - {"baselines"}):
        words = "is the same for all variants; set it in [base] (a variant chooses eval.baselines alone)"
        raise config_error(f"{place}.eval.{key}", words)
    for table, key, source in (("outer", "steps", "image_gradients"), ("eval", "every", "selections")):
        given = any(key in _keys(tables, table) for tables in (comparison.base, variant.tables))
        if given and getattr(comparison.settings, source) is not None:
            raise config_error(f"{place}.{table}.{key}", f"follows from comparison.{source}; leave one of them out")


def _keys(tables: Mapping[str, Any], name: str) -> set[str]:
    """The keys of one of the tables; none if it is missing, or is not a table (which `configure` refuses)."""
    table = tables.get(name)
    return set(table) if isinstance(table, Mapping) else set()


def image_gradients_per_step(config: ddfw.RunConfig, num_images: int) -> int:
    """Number of images whose gradient is computed in one outer step, over all segments and inner steps."""
    outer = config.outer
    return outer.segments_per_step * sum(ddfw.batch_sizes(num_images, outer.batch_syn, outer.syn_steps))


#: Of comparison.json, which seals itself since 2.
RECORD_SCHEMA = 2


@frozen(kw_only=True)
class Job:
    """One run of a comparison.

    Args:
        variant: the variant that is run.
        config: the variant's configuration, with the seed of the run.
        places: folders of the run; `out` is its run directory.
    """

    variant: Variant
    config: ddfw.RunConfig
    places: ddfw.Places


def jobs(comparison: Comparison, places: ddfw.Places) -> list[Job]:
    """All runs of a comparison, seed by seed, so that an interrupted one has every variant; all are checked first.

    Raises:
        ConfigError: settings of a variant are wrong, or do not fit its data.
        DataError: the data set is missing or damaged.
    """
    configs = {v.name: variant_config(comparison, v, places) for v in comparison.variants}
    seeds = dict.fromkeys(seed for v in comparison.variants for seed in v.seeds)
    return [
        _job(comparison, v, configs[v.name], seed, places)
        for seed in seeds
        for v in comparison.variants
        if seed in v.seeds
    ]


def _job(comparison: Comparison, variant: Variant, config: ddfw.RunConfig, seed: int, places: ddfw.Places) -> Job:
    out = folder_of(comparison, places) / variant.name / f"seed-{seed}"
    config = evolve(config, run=evolve(config.run, seed=seed))
    return Job(variant=variant, config=config, places=evolve(places, out=out))


def folder_of(comparison: Comparison, places: ddfw.Places) -> Path:
    """The folder of a comparison's runs and tables."""
    return places.out or Path("runs") / comparison.name


#: Finished runs, by the variant's name and the seed.
Finished: TypeAlias = dict[tuple[str, int], tuple[Job, "ddfw.RunResult"]]


def _finished_before(comparison: Comparison, places: ddfw.Places) -> Finished:
    """The finished runs in the comparison's folder, of all variants and seeds, except runs with other settings."""
    root, found = folder_of(comparison, places), Finished()
    for variant in comparison.variants:
        names = [path.parent.name.removeprefix("seed-") for path in (root / variant.name).glob("seed-*/summary.json")]
        seeds = sorted(int(name) for name in names if name.isascii() and name.isdigit())
        if not seeds:
            continue
        with contextlib.suppress(ConfigError):  # of a variant that is not run now; the others were checked before
            config = variant_config(comparison, variant, places)
            for seed in seeds:
                job = _job(comparison, variant, config, seed, places)
                with contextlib.suppress(DirectoryInUseError):  # a run with other settings
                    if (result := ddfw.finished(job.config, job.places)) is not None:
                        found[variant.name, seed] = (job, result)
    return found


def run(
    whole: Comparison,
    comparison: Comparison,
    places: ddfw.Places,
    *,
    say: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
    max_seconds: float | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Runs what is not finished yet, and writes comparison.json and comparison.md after every run.

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
    began, root, record, first = monotonic(), folder_of(whole, places), dict[str, Any](), True
    planned = jobs(comparison, places)
    ddfw.warn_if_damaged(root / "comparison.json", RECORD_SCHEMA)
    finished = _finished_before(whole, places)
    for number, job in enumerate(planned, start=1):
        say(f"\n── {number}/{len(planned)}  {job.variant.title}, seed {job.config.run.seed}")
        left = None if max_seconds is None else max_seconds - (monotonic() - began)
        if left is not None and first:
            left = max(left, 1e-3)  # however short the time is, the first unfinished run makes a step
        result = ddfw.run(job.config, job.places, quiet=quiet, max_seconds=left)
        first = first and result.already_finished
        finished[job.variant.name, job.config.run.seed] = (job, result)
        record = ddfw.sealed(_record(whole, finished))
        ddfw.write_json(root / "comparison.json", record)
        ddfw.write_text(root / "comparison.md", markdown(record))
    return root, record


def _record(comparison: Comparison, finished: Finished) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for variant in comparison.variants:
        done = [finished[key] for key in sorted(finished) if key[0] == variant.name]
        if not done:
            continue
        summaries = [result.summary for _, result in done]
        config, first = done[0][0].config, summaries[0]
        rows.extend(
            {
                "variant": variant.name,
                "title": variant.title,
                "space": config.data.space,
                **row,
                "seeds": [job.config.run.seed for job, _ in done],
                "networks": config.eval.networks,
                **_cost(config, first, row["subject"]),
                "seconds": {k: sum(s["seconds"][k] for s in summaries) / len(summaries) for k in first["seconds"]},
            }
            for row in ddfw.over_seeds(summaries)
        )
    settings = comparison.settings
    return {
        "schema": RECORD_SCHEMA,
        "comparison": comparison.name,
        "summary": settings.summary,
        "source": settings.source,
        "image_gradients": settings.image_gradients,
        "selections": settings.selections,
        "rows": rows,
    }


def _cost(config: ddfw.RunConfig, summary: Any, subject: str) -> dict[str, Any]:
    """Images and floats of a row's training set, and the outer steps and image gradients spent on it."""
    row = next(r for r in summary["rows"] if r["subject"] == subject)
    steps = config.outer.steps if subject == "distilled" else 0
    return {
        **{key: row[key] for key in ("images", "floats", "notes")},
        "outer_steps": steps,
        "image_gradients": steps * image_gradients_per_step(config, row["images"]),
    }
