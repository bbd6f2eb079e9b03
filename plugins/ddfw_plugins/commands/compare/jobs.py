"""The runs of a comparison: configurations in which every variant costs the same.

Every variant gets the same budget of floats, the same number of inner image-gradients (outer steps × segments × inner
steps × images per inner step, as near as whole steps allow) and about as many selections on the validation split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve, frozen

import ddfw
from ddfw import ConfigError, config_error, errors_in
from ddfw_plugins.commands.compare.files import Comparison, Variant


@frozen(kw_only=True)
class Planned:
    """What a variant runs, whatever the seed.

    Args:
        config: the configuration.
        step_gradients: images whose gradient one outer step computes.
    """

    config: ddfw.RunConfig
    step_gradients: int


def planned(
    comparison: Comparison, variant: Variant, places: ddfw.Places, chosen: Mapping[str, Any] | None = None
) -> Planned:
    """A variant's configuration, its outer steps and selections set so that all variants cost the same.

    Args:
        comparison: the comparison.
        variant: the variant.
        places: folders to read.
        chosen: settings of a trial that override the variant's, {dotted path: value}.

    Raises:
        ConfigError: the variant's settings are wrong, or do not fit its data; the path starts with the file's name and
            is that in the file, below [base] or the variant.
        DataError: the data set is missing or damaged.
    """
    with errors_in(comparison.file):
        return _planned(comparison, variant, places, ddfw.nested(chosen or {}))


def _planned(comparison: Comparison, variant: Variant, places: ddfw.Places, chosen: Mapping[str, Any]) -> Planned:
    settings, place = comparison.settings, f"variants.{variant.name}"
    for tables in (variant.tables, chosen):
        _require_equal_terms(comparison, tables, place)
    try:
        config = ddfw.configure(variant.recipe or settings.recipe, [comparison.base, variant.tables, chosen], ()).config
        layout = ddfw.fits(config, places.data_root)
    except ConfigError as error:
        problems = []
        for problem in error.problems:
            shared = not _stands(problem.path, variant.tables) and _stands(problem.path, comparison.base)
            problems.append(evolve(problem, path=f"{'base' if shared else place}.{problem.path}"))
        raise ConfigError(problems, error.causes) from error
    config, each = evolve(config, run=evolve(config.run, recipe=comparison.name)), _gradients(config, layout.num_images)
    if settings.image_gradients is not None:
        spent = settings.image_gradients * (1 if settings.equal_floats else config.budget.ipc)
        steps = max(1, round(spent / each))
        config = evolve(config, outer=evolve(config.outer, steps=steps))
    if settings.selections is not None:
        every = max(1, -(-config.outer.steps // settings.selections))
        config = evolve(config, eval=evolve(config.eval, every=every))
    return Planned(config=config, step_gradients=each)


def _stands(path: str, tables: Any) -> bool:
    """Whether tables set what stands at a dotted path."""
    for key in path.partition("[")[0].split("."):
        if not isinstance(tables, Mapping) or key not in tables:
            return False
        tables = tables[key]
    return True


def _require_equal_terms(comparison: Comparison, own: Mapping[str, Any], place: str) -> None:
    """Refuses settings of a variant that have to be equal for all, and settings that follow from others."""
    for key in ("run", "budget") if comparison.settings.equal_floats else ("run",):
        if key in own:
            more = " (or comparison.equal_floats = false)" if key == "budget" else ""
            raise config_error(f"{place}.{key}", f"is the same for all variants; set it in [base]{more}")
    for key in sorted(_keys(own, "eval") - {"baselines"}):
        words = "is the same for all variants; set it in [base] (a variant chooses eval.baselines alone)"
        raise config_error(f"{place}.eval.{key}", words)
    for table, key, source in (("outer", "steps", "image_gradients"), ("eval", "every", "selections")):
        given = any(key in _keys(tables, table) for tables in (comparison.base, own))
        if given and getattr(comparison.settings, source) is not None:
            raise config_error(f"{place}.{table}.{key}", f"follows from comparison.{source}; leave one of them out")


def _require_equal_recipes(comparison: Comparison, plans: Mapping[str, Planned]) -> None:
    """Refuses variants whose own recipes ask for other budgets, or judge sets in another way.

    Raises:
        ConfigError: a setting differs that has to be equal for all.
    """
    first, *others = ((name, _terms(comparison, plan.config)) for name, plan in plans.items())
    for name, terms in others:
        for path, value in terms.items():
            if value != first[1][path]:
                words = f"is {value} by its recipe, and {first[1][path]} for {first[0]}; set it in [base]"
                with errors_in(comparison.file):
                    raise config_error(f"variants.{name}.{path}", words)


def _terms(comparison: Comparison, config: ddfw.RunConfig) -> dict[str, Any]:
    """The settings that have to be equal for all variants, by their paths."""
    tables = {
        "eval": attrs.asdict(config.eval),
        **({"budget": attrs.asdict(config.budget)} if comparison.settings.equal_floats else {}),
    }
    chosen = {"eval.baselines", "eval.every"}  # a variant's own choice, and what follows from the number of steps
    terms = {f"{table}.{key}": value for table, keys in tables.items() for key, value in keys.items()}
    return {path: value for path, value in terms.items() if path not in chosen}


def _keys(tables: Mapping[str, Any], name: str) -> set[str]:
    """The keys of one of the tables; none if it is missing, or is not a table (which `configure` refuses)."""
    table = tables.get(name)
    return set(table) if isinstance(table, Mapping) else set()


def _gradients(config: ddfw.RunConfig, num_images: int) -> int:
    """Number of images whose gradient is computed in one outer step, over all segments and inner steps."""
    outer = config.outer
    return outer.segments_per_step * sum(ddfw.batch_sizes(num_images, outer.batch_syn, outer.syn_steps))


@frozen(kw_only=True)
class Job:
    """One run of a comparison, or one trial of a variant.

    Args:
        variant: the variant that is run.
        config: the variant's configuration, with the seed of the run.
        places: folders of the run; `out` is its run directory.
        step_gradients: images whose gradient one outer step computes.
        trial: number of the trial, None for a run.
    """

    variant: Variant
    config: ddfw.RunConfig
    places: ddfw.Places
    step_gradients: int
    trial: int | None = None

    @property
    def words(self) -> str:
        """What is run, for people."""
        if self.trial is None:
            return f"{self.variant.title}, seed {self.config.run.seed}"
        values = ", ".join(f"{path} = {value}" for path, value in self.variant.tune[self.trial].items())
        return f"{self.variant.title}, trial of {values}"


def folder_of(comparison: Comparison, places: ddfw.Places) -> Path:
    """The folder of a comparison's runs and tables."""
    return places.out or Path("runs") / comparison.name


def seeded(
    comparison: Comparison, variant: Variant, plan: Planned, seed: int, places: ddfw.Places, trial: int | None = None
) -> Job:
    """The run of a variant with a seed, in its folder.

    Args:
        comparison: the comparison.
        variant: the variant.
        plan: what it runs.
        seed: the run seed.
        places: folders to read and write.
        trial: the number of a trial, None for a run.
    """
    name = f"seed-{seed}" if trial is None else f"trial-{trial}"
    return Job(
        variant=variant,
        config=evolve(plan.config, run=evolve(plan.config.run, seed=seed)),
        places=evolve(places, out=folder_of(comparison, places) / variant.name / name),
        step_gradients=plan.step_gradients,
        trial=trial,
    )


def trials(comparison: Comparison, variant: Variant, places: ddfw.Places) -> list[Job]:
    """The trials in which a variant chooses its settings; none if it takes over another variant's.

    Raises:
        ConfigError: a setting is wrong, or does not fit the data.
        DataError: the data set is missing or damaged.
    """
    tuning, found = comparison.settings.tuning, list[Job]()
    for number, values in enumerate(variant.tune):
        assert tuning is not None
        plan = planned(comparison, variant, places, values)
        # Judged by the validation split alone, so networks on the test split are as few as there can be.
        config = evolve(plan.config, eval=evolve(plan.config.eval, networks=2, baselines=()), cross={})
        found.append(seeded(comparison, variant, evolve(plan, config=config), tuning.seed, places, number))
    return found


def jobs(
    comparison: Comparison, places: ddfw.Places, chosen: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Job]:
    """All runs of a comparison, seed by seed, so that an interrupted one has every variant; all are checked first.

    Args:
        comparison: the comparison.
        places: folders to read and write.
        chosen: the settings that a variant's trials chose, by its name; a variant without keeps its own.

    Raises:
        ConfigError: settings of a variant are wrong, or do not fit its data.
        DataError: the data set is missing or damaged.
    """
    chosen = chosen or {}
    plans = {v.name: planned(comparison, v, places, chosen.get(v.name)) for v in comparison.variants}
    _require_equal_recipes(comparison, plans)
    seeds = dict.fromkeys(seed for v in comparison.variants for seed in v.seeds)
    return [
        seeded(comparison, v, plans[v.name], seed, places)
        for seed in seeds
        for v in comparison.variants
        if seed in v.seeds
    ]
