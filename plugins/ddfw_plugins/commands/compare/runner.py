"""Comparisons: one file that names several ways to distil, run over several seeds at equal cost.

Every variant gets the same budget of floats, the same number of inner image-gradients (outer steps × segments × inner
steps × images per inner step, as near as whole steps allow) and about as many selections on the validation split.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from ddfw.artifacts import atomic
from ddfw.config.extensions import recipe_folders
from ddfw.config.files import read_toml
from ddfw.config.layers import Settings
from ddfw.config.load import structured_config
from ddfw.config.merge import merge
from ddfw.config.recipes import recipes
from ddfw.config.run_config import RunConfig
from ddfw.contracts.records import Summary
from ddfw.engine.distill import batch_sizes
from ddfw.errors import ConfigError, DataError, DirectoryInUseError, config_error, did_you_mean
from ddfw.pipeline import runner
from ddfw.pipeline.prepare import fits
from ddfw.pipeline.report.summary import over_seeds
from ddfw.pipeline.stopping import now
from ddfw_plugins.commands.compare.tables import markdown

if TYPE_CHECKING:
    from ddfw.pipeline.stages import RunResult

COMPARISON_SCHEMA = 1
_HEAD = ("summary", "source", "recipe", "seeds", "image_gradients", "selections")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@frozen(kw_only=True)
class Variant:
    """One way to distil.

    Args:
        name: folder and key.
        title: words for the table.
        tables: settings over the comparison's base.
        seeds: run seeds, the comparison's unless it has its own.
    """

    name: str
    title: str
    tables: Mapping[str, Any]
    seeds: tuple[int, ...]


@frozen(kw_only=True)
class Comparison:
    """A comparison's file.

    Args:
        name: the file's name without the ending.
        summary: one line.
        source: where its settings come from.
        recipe: what the base lies over.
        seeds: run seeds; the table gives mean and standard deviation over them.
        image_gradients: inner image-gradients that every variant may spend; `outer.steps` follows from it.
        selections: how often every variant is looked at on the validation split after its start, at most.
        base: settings that all variants share, over the recipe `default`.
        variants: in the order of the file.
    """

    name: str
    summary: str
    source: str
    seeds: tuple[int, ...]
    image_gradients: int | None
    selections: int | None
    recipe: str
    base: Mapping[str, Any]
    variants: tuple[Variant, ...]


def known() -> dict[str, Path]:
    """The comparisons that ship with ddfw, by name."""
    folders = [offer.item / "comparisons" for offer in recipe_folders().entries.values()]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def read(name_or_path: str) -> Comparison:
    """A comparison that ships with ddfw, or one's own file.

    Raises:
        ConfigError: unknown, unreadable, or not a comparison.
    """
    shipped = known()
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        hint = did_you_mean(name_or_path, tuple(shipped))
        raise config_error(
            "comparison", f"no comparison or file {name_or_path!r}.{hint} Known: {', '.join(sorted(shipped))}"
        )
    tables = read_toml(path)
    try:
        return _comparison(path.stem, tables)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise config_error(str(path), f"not a comparison: {words}; see docs/compare.md") from error


def _comparison(name: str, tables: Mapping[str, Any]) -> Comparison:
    _require_tables({"comparison": tables["comparison"], "base": tables.get("base", {})})
    _require_tables({"variants": tables["variants"]})
    _require_tables({f"variants.{name}": given for name, given in tables["variants"].items()})
    head = dict(tables["comparison"])
    for given, offered in ((head, _HEAD), (tables, ("comparison", "base", "variants"))):
        for key in given:
            if key not in offered:
                raise ValueError(f"unknown {key!r}.{did_you_mean(key, offered)} Known: {', '.join(offered)}")
    seeds = _seeds(head["seeds"], "comparison.seeds")
    variants = []
    for key, given in tables["variants"].items():
        own = dict(given)
        title = _text(own.pop("title", key), f"variants.{key}.title")
        own_seeds = _seeds(own.pop("seeds", list(seeds)), f"variants.{key}.seeds")
        if not _NAME.fullmatch(key):
            raise ValueError(f"a variant's name is a folder's, too; {key!r} is none")
        variants.append(Variant(name=key, title=title, tables=own, seeds=own_seeds))
    if not variants:
        raise ValueError("it names no variants")
    return Comparison(
        name=name,
        summary=_text(head.get("summary", ""), "comparison.summary"),
        source=_text(head.get("source", ""), "comparison.source"),
        seeds=seeds,
        image_gradients=_count(head.get("image_gradients"), "comparison.image_gradients"),
        selections=_count(head.get("selections"), "comparison.selections"),
        recipe=_known_recipe(head.get("recipe", "default")),
        base=tables.get("base", {}),
        variants=tuple(variants),
    )


def _known_recipe(given: object) -> str:
    if given not in (offered := recipes()):
        raise ValueError(f"comparison.recipe has to be one of {', '.join(offered)}, got {given!r}")
    return str(given)


def _seeds(given: object, where: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not given or not all(type(s) is int and s >= 0 for s in given):
        raise ValueError(f"{where} has to be a list of whole numbers >= 0, got {given!r}")
    return tuple(given)


def _count(given: object, where: str) -> int | None:
    if given is not None and (type(given) is not int or given < 1):
        raise ValueError(f"{where} has to be a whole number >= 1, got {given!r}")
    return given


def _text(given: object, where: str) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{where} has to be a text, got {given!r}")
    return given


def _require_tables(tables: Mapping[str, object]) -> None:
    for path, table in tables.items():
        if not isinstance(table, Mapping):
            raise ValueError(f"{path} has to be a table, got {table!r}")


def chosen(comparison: Comparison, names: Sequence[str], seeds: Sequence[int]) -> Comparison:
    """Only some variants (all without names), with other seeds if there are any.

    Raises:
        ConfigError: an unknown variant.
    """
    there = [v.name for v in comparison.variants]
    for name in names:
        if name not in there:
            hint = did_you_mean(name, there)
            raise config_error("variants", f"unknown variant {name!r}.{hint} Known: {', '.join(there)}")
    variants = [v for v in comparison.variants if not names or v.name in names]
    if seeds:
        variants = [evolve(v, seeds=tuple(seeds)) for v in variants]
    return evolve(comparison, variants=tuple(variants))


def configure(comparison: Comparison, variant: Variant, places: runner.Places) -> RunConfig:
    """A variant's configuration, its outer steps and selections set so that all variants cost the same.

    Raises:
        ConfigError: what the variant's settings get wrong, with its name before the path.
        DataError: the data set is missing or damaged.
    """
    tables: dict[str, Any] = {}
    shipped = recipes()
    below = [shipped[name].tables for name in dict.fromkeys(("default", comparison.recipe))]
    for layer in (*below, comparison.base, variant.tables):
        merge(tables, layer, "", "", {})
    for key in ("run", "budget"):
        if key in variant.tables:
            raise config_error(f"variants.{variant.name}.{key}", "is the same for all variants; set it in [base]")
    if differ := sorted(set(dict(variant.tables.get("eval", {}))) - {"baselines"}):
        path = f"variants.{variant.name}.eval.{differ[0]}"
        raise config_error(
            path, "is the same for all variants; set it in [base] (a variant chooses eval.baselines alone)"
        )
    for layer in (comparison.base, variant.tables):
        for key in ("outer", "run"):
            if not isinstance(layer.get(key, {}), Mapping):
                raise config_error(f"variants.{variant.name}.{key}", f"expected a table, got {layer[key]!r}")
        for key, setting, source in (("outer", "steps", "image_gradients"), ("eval", "every", "selections")):
            table = layer.get(key, {})
            if isinstance(table, Mapping) and setting in table and getattr(comparison, source) is not None:
                path = f"variants.{variant.name}.{key}.{setting}"
                raise config_error(path, f"follows from comparison.{source}; leave one of them out")
    tables.setdefault("run", {})["recipe"] = comparison.name
    try:
        config = structured_config(Settings(tables=tables))
        layout = fits(config, places.data_root)
        if comparison.image_gradients is not None:
            each = image_gradients_per_step(config, layout.num_images)
            steps = max(1, round(comparison.image_gradients / each))
            config = evolve(config, outer=evolve(config.outer, steps=steps))
    except ConfigError as error:
        named = [evolve(p, path=f"variants.{variant.name}.{p.path}") for p in error.problems]
        raise ConfigError(tuple(named), error.causes) from error
    if comparison.selections is not None:
        every = max(1, -(-config.outer.steps // comparison.selections))
        config = evolve(config, eval=evolve(config.eval, every=every))
    return config


def image_gradients_per_step(config: RunConfig, num_images: int) -> int:
    """Images whose gradient is taken in one outer step: over all segments and inner steps, remainders as they come."""
    outer = config.outer
    return outer.segments_per_step * sum(batch_sizes(num_images, outer.batch_syn, outer.syn_steps))


@frozen(kw_only=True)
class Job:
    """One run of a comparison: `number` of `count`."""

    number: int
    count: int
    variant: Variant
    config: RunConfig
    places: runner.Places


def jobs(comparison: Comparison, places: runner.Places) -> list[Job]:
    """All runs, seed by seed, so that an interrupted comparison has whole rows; every variant is checked first."""
    configs = {v.name: configure(comparison, v, places) for v in comparison.variants}
    seeds = dict.fromkeys(seed for v in comparison.variants for seed in v.seeds)
    pairs = [(v, seed) for seed in seeds for v in comparison.variants if seed in v.seeds]
    return [
        _job(comparison, v, configs[v.name], seed, places, number, len(pairs))
        for number, (v, seed) in enumerate(pairs, start=1)
    ]


def _job(
    comparison: Comparison,
    variant: Variant,
    config: RunConfig,
    seed: int,
    places: runner.Places,
    number: int = 0,
    count: int = 0,
) -> Job:
    root = folder_of(comparison, places)
    return Job(
        number=number,
        count=count,
        variant=variant,
        config=evolve(config, run=evolve(config.run, seed=seed)),
        places=evolve(places, out=root / variant.name / f"seed-{seed}"),
    )


def folder_of(comparison: Comparison, places: runner.Places) -> Path:
    """Where a comparison's runs and tables lie."""
    return places.out or Path("runs") / comparison.name


Finished = dict[tuple[str, int], tuple[Job, "RunResult"]]


def _already(whole: Comparison, comparison: Comparison, places: runner.Places) -> Finished:
    """What lies finished in the folder, of any variant of the file and any seed; what does not fit is left out."""
    root, found = folder_of(whole, places), Finished()
    for variant in whole.variants:
        folders = sorted(p.parent.name for p in (root / variant.name).glob("seed-*/summary.json"))
        numbers = [name.removeprefix("seed-") for name in folders]
        if not numbers:
            continue
        try:
            config = configure(whole, variant, places)
        except ConfigError:
            if variant.name in {v.name for v in comparison.variants}:
                raise
            continue
        for seed in sorted(int(n) for n in numbers if n.isascii() and n.isdigit()):
            job = _job(whole, variant, config, seed, places)
            with contextlib.suppress(DataError, DirectoryInUseError):
                if (result := runner.finished(job.config, job.places)) is not None:
                    found[variant.name, seed] = (job, result)
    return found


def run(
    whole: Comparison,
    comparison: Comparison,
    places: runner.Places,
    started: Callable[[Job], None] = lambda job: None,
    *,
    quiet: bool = False,
    max_seconds: float | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Runs everything that is not there yet; the table is written anew after every run.

    Args:
        whole: the comparison as its file has it; what is finished of it stands in the table too.
        comparison: what to run of it.
        places: where; `out` is the comparison's folder.
        started: told before each run.
        quiet: no progress of single runs.
        max_seconds: stop in order when they are over; see `runner.run`.

    Returns:
        The folder and what its comparison.json says.
    """
    began, root, record, first = now(), folder_of(whole, places), dict[str, Any](), True
    planned = jobs(comparison, places)
    finished = _already(whole, comparison, places)
    for job in planned:
        started(job)
        left = None if max_seconds is None else max_seconds - (now() - began)
        if left is not None and first:
            left = max(left, 1e-3)  # however short the time, a command gets somewhere
        result = runner.run(job.config, job.places, quiet=quiet, max_seconds=left)
        first = first and result.already_finished
        finished[job.variant.name, job.config.run.seed] = (job, result)
        record = _record(whole, finished)
        atomic.write_json(root / "comparison.json", record)
        atomic.write_bytes(root / "comparison.md", markdown(record).encode())
    return root, record


def _record(comparison: Comparison, finished: Finished) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for variant in comparison.variants:
        done = [finished[key] for key in sorted(finished) if key[0] == variant.name]
        if not done:
            continue
        summaries = [result.summary for _, result in done]
        config, first = done[0][0].config, summaries[0]
        images = next(r["images"] for r in first["rows"] if r["subject"] == "distilled")
        rows.extend(
            {
                "variant": variant.name,
                "title": variant.title,
                "space": config.data.space,
                **row,
                "seeds": [job.config.run.seed for job, _ in done],
                "networks": config.eval.networks,
                **_cost(config, first, images, row["subject"]),
                "seconds": {k: sum(s["seconds"][k] for s in summaries) / len(summaries) for k in first["seconds"]},
            }
            for row in over_seeds(summaries)
        )
    return {
        "schema": COMPARISON_SCHEMA,
        "comparison": comparison.name,
        "summary": comparison.summary,
        "source": comparison.source,
        "image_gradients": comparison.image_gradients,
        "selections": comparison.selections,
        "rows": rows,
    }


def _cost(config: RunConfig, summary: Summary, images: int, subject: str) -> dict[str, Any]:
    own = next(r for r in summary["rows"] if r["subject"] == subject)
    cost = {k: own[k] for k in ("images", "floats", "notes")} | {"outer_steps": 0, "image_gradients": 0}
    if subject == "distilled":
        cost["outer_steps"] = config.outer.steps
        cost["image_gradients"] = config.outer.steps * image_gradients_per_step(config, images)
    return cost
