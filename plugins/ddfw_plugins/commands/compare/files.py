"""Reads the file of a comparison: the settings that all variants share, and those that each variant changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen
from attrs.validators import deep_iterable, ge, min_len, optional

import ddfw
from ddfw import config_error, did_you_mean, errors_in, read_toml, structured
from ddfw_plugins.commands._files import Tables, known_recipe, require_name

#: At least one seed, each a whole number from 0.
_SEEDS: Any = deep_iterable(ge(0), min_len(1))


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
    """

    seeds: tuple[int, ...] = field(validator=_SEEDS)
    summary: str = ""
    source: str = ""
    recipe: str = field(default="default", validator=known_recipe)
    image_gradients: int | None = field(default=None, validator=optional(ge(1)))
    selections: int | None = field(default=None, validator=optional(ge(1)))


@frozen(kw_only=True)
class Variant:
    """One of the ways to distil that are compared.

    Args:
        name: the variant's key in the file, and the folder of its runs.
        title: the variant's name in tables.
        seeds: run seeds of the variant.
        tables: settings that override those of [base].
    """

    name: str
    title: str
    seeds: tuple[int, ...] = field(validator=_SEEDS)
    tables: Mapping[str, Any]


@frozen(kw_only=True)
class _File:
    """The tables of a comparison's file."""

    comparison: ComparisonSettings
    base: Tables = field(factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(validator=min_len(1))


@frozen(kw_only=True)
class Comparison:
    """A comparison as its file describes it.

    Args:
        name: the file's name without the ending; `run.recipe` of every run.
        settings: the table [comparison].
        base: the table [base]: settings that all variants share; they override the recipe's.
        variants: the variants, in the order of the file.
        file: the file's path, for messages.
    """

    name: str
    settings: ComparisonSettings
    base: Tables
    variants: tuple[Variant, ...]
    file: str = ""


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
    return Comparison(name=path.stem, settings=file.comparison, base=file.base, variants=variants, file=str(path))


def _variant(name: str, given: Mapping[str, Any], seeds: Sequence[int]) -> Variant:
    require_name(name, f"variants.{name}")
    own = {key: given[key] for key in ("title", "seeds") if key in given}
    tables = {key: value for key, value in given.items() if key not in own}
    return structured(
        {"name": name, "title": name, "seeds": seeds, **own, "tables": tables}, Variant, f"variants.{name}"
    )


def chosen(comparison: Comparison, names: Sequence[str], seeds: Sequence[int]) -> Comparison:
    """The comparison with some of its variants only, or with other seeds.

    Args:
        comparison: the comparison.
        names: names of the variants to keep; none keeps all.
        seeds: run seeds for all variants; none keeps those of the file.

    Raises:
        ConfigError: a name is not that of a variant.
    """
    there = [variant.name for variant in comparison.variants]
    for name in names:
        if name not in there:
            hint = did_you_mean(name, there)
            raise config_error("variants", f"unknown variant {name!r}.{hint} Known: {', '.join(there)}")
    variants = [v for v in comparison.variants if not names or v.name in names]
    if seeds:
        variants = [evolve(v, seeds=tuple(seeds)) for v in variants]
    return evolve(comparison, variants=tuple(variants))
