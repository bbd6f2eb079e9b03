"""Reads the file of a comparison: the settings that all variants share, and those that each variant changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, frozen
from attrs.validators import deep_iterable, ge, gt, le, min_len, optional

import ddfw
from ddfw import config_error, did_you_mean, errors_in, read_toml, structured
from ddfw_plugins.commands._files import Tables, known_recipe, require_name

#: At least one seed, each a whole number from 0.
_SEEDS: Any = deep_iterable(ge(0), min_len(1))


#: What is measured of each run, or (`spread`) of all runs of a variant; `curves.MEASURES` says how.
MeasureName = Literal["accuracy", "validation", "steps", "area", "jitter", "spread"]
#: What a chart shows across, and up.
Across = Literal["outer_steps", "image_gradients", "floats", "bytes"]
Up = Literal["validation", "loss", "step_size", "accuracy"]


@frozen(kw_only=True)
class Tuning:
    """The table [comparison.tuning]: every variant chooses its settings in as many trials, by validation accuracy.

    Args:
        trials: how many settings each variant tries; its `tune` lists them.
        seed: run seed of the trials, best none of the comparison's.
    """

    trials: int = field(validator=ge(1))
    seed: int = field(default=0, validator=ge(0))


@frozen(kw_only=True)
class ComparisonSettings:
    """The table [comparison] of a comparison's file.

    Args:
        seeds: run seeds; the results are given as mean and standard deviation over them.
        summary: one line about the comparison.
        source: the paper or code that the settings come from.
        recipe: name of the recipe whose settings lie below [base].
        image_gradients: number of images whose gradient every variant may compute in inner steps; sets `outer.steps`.
            None leaves `outer.steps` as configured.
        selections: largest number of evaluations on the validation split in a run, without the one at the start; sets
            `eval.every`. None leaves `eval.every` as configured.
        tuning: how variants choose their settings before they are compared; None: the file has chosen.
        equal_floats: whether every variant has the same budget; false lets variants set `budget`, and multiplies
            `image_gradients` by its images per class.
        reach: the share of an accuracy that the measure `steps` waits for.
    """

    seeds: tuple[int, ...] = field(validator=_SEEDS)
    summary: str = ""
    source: str = ""
    recipe: str = field(default="default", validator=known_recipe)
    image_gradients: int | None = field(default=None, validator=optional(ge(1)))
    selections: int | None = field(default=None, validator=optional(ge(1)))
    tuning: Tuning | None = None
    equal_floats: bool = True
    reach: float = field(default=0.95, validator=[gt(0.0), le(1.0)])


@frozen(kw_only=True)
class Variant:
    """One of the ways to distil that are compared.

    Args:
        name: the variant's key in the file, and the folder of its runs.
        title: the variant's name in tables.
        seeds: run seeds of the variant.
        tables: settings that override those of [base].
        recipe: name of the recipe whose settings lie below [base], "" for the comparison's.
        tune: the settings that its trials try, each {dotted path: value}; the best of them, by validation accuracy,
            overrides `tables`.
        tuned_as: name of the variant whose chosen settings it takes over instead, "" for none.
    """

    name: str
    title: str
    seeds: tuple[int, ...] = field(validator=_SEEDS)
    tables: Mapping[str, Any]
    recipe: str = field(default="", validator=known_recipe)
    tune: tuple[Mapping[str, Any], ...] = ()
    tuned_as: str = ""


@frozen(kw_only=True)
class Contrast:
    """A question to the finished runs: the measure of some variants minus that of others, seed by seed.

    Args:
        claim: the statement that holds if the difference lies on the good side of 0.
        measure: what is compared.
        plus: variants whose measures are added.
        minus: variants whose measures are subtracted.
        target: for `steps`: the variant whose best validation accuracy has to be reached; "" for each run's own.
        good: which sign of the difference speaks for the claim; "" for the measure's own good direction.
    """

    claim: str
    measure: MeasureName = "accuracy"
    plus: tuple[str, ...] = field(validator=min_len(1))
    minus: tuple[str, ...] = ()
    target: str = ""
    good: Literal["", "more", "less"] = ""


@frozen(kw_only=True)
class ChartSettings:
    """One of the charts that are drawn of a comparison.

    Args:
        title: what it shows.
        x: what runs across.
        y: what runs up; `accuracy` is that of the test split, a point for each variant.
        variants: the variants that are drawn, in this order; () for all.
        lines: with `y = "accuracy"`: variants that one line joins, by the line's name.
        baselines: with `y = "accuracy"`: baselines that are drawn as lines, too.
        log: whether equal factors take equal room across.
    """

    title: str
    x: Across = "outer_steps"
    y: Up = "validation"
    variants: tuple[str, ...] = ()
    lines: Mapping[str, tuple[str, ...]] = field(factory=dict)
    baselines: tuple[str, ...] = ()
    log: bool = False


@frozen(kw_only=True)
class _File:
    """The tables of a comparison's file."""

    comparison: ComparisonSettings
    base: Tables = field(factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(validator=min_len(1))
    contrasts: Mapping[str, Contrast] = field(factory=dict)
    charts: Mapping[str, ChartSettings] = field(factory=dict)


@frozen(kw_only=True)
class Comparison:
    """A comparison as its file describes it.

    Args:
        name: the file's name without the ending; `run.recipe` of every run.
        settings: the table [comparison].
        base: the table [base]: settings that all variants share; they override the recipe's.
        variants: the variants, in the order of the file.
        contrasts: what is asked of the results, by name.
        charts: what is drawn of them, by name.
        file: the file's path, for messages.
    """

    name: str
    settings: ComparisonSettings
    base: Tables
    variants: tuple[Variant, ...]
    contrasts: Mapping[str, Contrast] = field(factory=dict)
    charts: Mapping[str, ChartSettings] = field(factory=dict)
    file: str = ""

    def variant(self, name: str) -> Variant:
        """The variant of a name, which is one of them."""
        return next(variant for variant in self.variants if variant.name == name)


def shipped() -> dict[str, Path]:
    """The files of the comparisons that plugins ship with their recipes, by the name of the comparison."""
    folders = [offer.item / "comparisons" for offer in ddfw.recipe_folders().entries.values()]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def read(name_or_path: str) -> Comparison:
    """Reads a comparison: one that ships with ddfw by its name, any other by the path of its file.

    Raises:
        ConfigError: there is no such comparison, or the file is unreadable or wrong; with the place in it.
    """
    known = shipped()
    path = known.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        hint = did_you_mean(name_or_path, known)
        raise config_error(
            "comparison", f"no comparison or file {name_or_path!r}.{hint} Known: {', '.join(sorted(known))}"
        )
    with errors_in(str(path)):
        return _read(path)


def _read(path: Path) -> Comparison:
    file = structured(read_toml(path), _File)
    require_name(path.stem, str(path))
    variants = tuple(_variant(key, given, file.comparison.seeds) for key, given in file.variants.items())
    _require_tuning(variants, file.comparison.tuning)
    for key, contrast in file.contrasts.items():
        asked = (*contrast.plus, *contrast.minus, *filter(None, [contrast.target]))
        _require_variants(variants, asked, f"contrasts.{key}")
    for key, chart in file.charts.items():
        require_name(key, f"charts.{key}")
        _require_variants(
            variants, (*chart.variants, *(v for line in chart.lines.values() for v in line)), f"charts.{key}"
        )
    return Comparison(
        name=path.stem,
        settings=file.comparison,
        base=file.base,
        variants=variants,
        contrasts=file.contrasts,
        charts=file.charts,
        file=str(path),
    )


#: Keys of a variant that are no settings of its runs.
_OWN = ("title", "seeds", "recipe", "tune", "tuned_as")


def _variant(name: str, given: Mapping[str, Any], seeds: Sequence[int]) -> Variant:
    require_name(name, f"variants.{name}")
    own = {key: given[key] for key in _OWN if key in given}
    tables = {key: value for key, value in given.items() if key not in own}
    return structured(
        {"name": name, "title": name, "seeds": seeds, **own, "tables": tables}, Variant, f"variants.{name}"
    )


def _require_tuning(variants: Sequence[Variant], tuning: Tuning | None) -> None:
    """Refuses variants that choose their settings in fewer or more trials than others.

    Raises:
        ConfigError: the trials are unequal, or settings come from a variant that has none.
    """
    for variant in variants:
        place = f"variants.{variant.name}"
        if tuning is None and (variant.tune or variant.tuned_as):
            key = "tune" if variant.tune else "tuned_as"
            raise config_error(
                f"{place}.{key}", "needs [comparison.tuning] with the number of `trials` of every variant"
            )
        if tuning is None:
            continue
        if variant.tuned_as:
            _require_variants(variants, (variant.tuned_as,), f"{place}.tuned_as")
            other = next(v for v in variants if v.name == variant.tuned_as)
            if variant.tune or not other.tune:
                words = "it has `tune` itself" if variant.tune else f"{other.name} has no `tune`"
                raise config_error(f"{place}.tuned_as", f"takes over what another variant's trials chose, but {words}")
        elif len(variant.tune) != tuning.trials:
            raise config_error(
                f"{place}.tune",
                f"lists {len(variant.tune)} settings, expected comparison.tuning.trials = {tuning.trials} for every "
                "variant (or `tuned_as` names the variant whose settings it takes)",
            )


def _require_variants(variants: Sequence[Variant], names: Sequence[str], place: str) -> None:
    """Refuses names of which there is no variant."""
    there = [variant.name for variant in variants]
    for name in names:
        if name not in there:
            raise config_error(place, f"unknown variant {name!r}.{did_you_mean(name, there)} Known: {', '.join(there)}")


def chosen(comparison: Comparison, names: Sequence[str], seeds: Sequence[int]) -> Comparison:
    """The comparison with some of its variants only, or with other seeds.

    Args:
        comparison: the comparison.
        names: names of the variants to keep; none keeps all.
        seeds: run seeds for all variants; none keeps those of the file.

    Raises:
        ConfigError: a name is not that of a variant.
    """
    _require_variants(comparison.variants, names, "variants")
    variants = [v for v in comparison.variants if not names or v.name in names]
    if seeds:
        variants = [evolve(v, seeds=tuple(seeds)) for v in variants]
    return evolve(comparison, variants=tuple(variants))
