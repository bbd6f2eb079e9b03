"""A comparison's file: what all variants share, and what each one changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen
from attrs.validators import deep_iterable, ge, min_len, optional

import ddfw
from ddfw import config_error, did_you_mean, read_toml, structured
from ddfw_plugins.commands._files import Tables, known_recipe, require_name

#: At least one seed, each a whole number from 0.
_SEEDS: Any = deep_iterable(ge(0), min_len(1))


@frozen(kw_only=True)
class ComparisonSettings:
    """`[comparison]`.

    Args:
        seeds: run seeds; the table gives mean and standard deviation over them.
        summary: one line.
        source: where the settings come from.
        recipe: what the base lies over.
        image_gradients: inner image-gradients that every variant may spend; `outer.steps` follows from it.
        selections: how often every variant is looked at on the validation split after its start, at most.
    """

    seeds: tuple[int, ...] = field(validator=_SEEDS)
    summary: str = ""
    source: str = ""
    recipe: str = field(default="default", validator=known_recipe)
    image_gradients: int | None = field(default=None, validator=optional(ge(1)))
    selections: int | None = field(default=None, validator=optional(ge(1)))


@frozen(kw_only=True)
class Variant:
    """One way to distil.

    Args:
        name: key in the file, and folder of its runs.
        title: words for the table.
        seeds: run seeds, the comparison's unless it has its own.
        tables: settings over the comparison's base.
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
    """A comparison.

    Args:
        name: the file's name without the ending; `run.recipe` of every run.
        settings: the table [comparison].
        base: settings that all variants share, over the recipe.
        variants: in the order of the file.
    """

    name: str
    settings: ComparisonSettings
    base: Tables
    variants: tuple[Variant, ...]


def shipped() -> dict[str, Path]:
    """The files of the comparisons that plugins ship beside their recipes, by name."""
    folders = [offer.item / "comparisons" for offer in ddfw.recipe_folders().entries.values()]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def read(name_or_path: str) -> Comparison:
    """A comparison that ships with ddfw, or one's own file.

    Raises:
        ConfigError: unknown, unreadable, or not a comparison; with the place.
    """
    known = shipped()
    path = known.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        hint = did_you_mean(name_or_path, known)
        raise config_error(
            "comparison", f"no comparison or file {name_or_path!r}.{hint} Known: {', '.join(sorted(known))}"
        )
    file = structured(read_toml(path), _File)
    require_name(path.stem, str(path))
    variants = tuple(_variant(key, given, file.comparison.seeds) for key, given in file.variants.items())
    return Comparison(name=path.stem, settings=file.comparison, base=file.base, variants=variants)


def _variant(name: str, given: Mapping[str, Any], seeds: Sequence[int]) -> Variant:
    require_name(name, f"variants.{name}")
    own = {key: given[key] for key in ("title", "seeds") if key in given}
    tables = {key: value for key, value in given.items() if key not in own}
    return structured(
        {"name": name, "title": name, "seeds": seeds, **own, "tables": tables}, Variant, f"variants.{name}"
    )


def chosen(comparison: Comparison, names: Sequence[str], seeds: Sequence[int]) -> Comparison:
    """Only some variants (all without names), with other seeds if there are any.

    Raises:
        ConfigError: an unknown variant.
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
