"""Turns tables of options into objects and back; types are checked strictly and all problems reported at once.

cattrs finds the hook for each type. All hooks are replaced by strict ones: those of cattrs convert 1.7 to 1 and 3 to
"3" silently, and stop at the first problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

import attrs
import cattrs
from attrs import evolve

from ddfw_registry import _types as t
from ddfw_registry._output import prints_to_stderr
from ddfw_registry._places import Places
from ddfw_registry._plain import plain
from ddfw_registry._problems import Collector, Invalid, Issue, step
from ddfw_registry._tables import build_table
from ddfw_registry._types import TypeForm
from ddfw_registry._words import error_line, got, hint, show, with_article
from ddfw_registry.catalog import Catalog, KindInfo
from ddfw_registry.errors import (
    ConfigError,
    ConfigProblem,
    DuplicateComponentError,
    RegistryError,
    UnknownComponentError,
)

T = TypeVar("T")


class Structurer:
    """Builds objects of attrs classes from tables of options.

    A field's annotation decides which values it accepts: scalars, Literal, Enum (by value), Path, tuples, lists,
    mappings with text keys, other attrs classes, and unions of these. Scalars are not converted, except that a float
    field accepts an integer. A field annotated with the base class of a kind in the catalogue accepts a component: a
    table with its `name` and options, or the name alone.

    Args:
        catalog: the catalogue in which components are looked up.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._converter = converter = cattrs.Converter(detailed_validation=False)
        # Hooks that are registered last are tried first. The first one here accepts every type and so replaces the
        # converter's own lenient hooks.
        converter.register_structure_hook_func(lambda _: True, _unsupported)
        converter.register_structure_hook_func(lambda form: form in (Any, object), lambda value, _: value)
        converter.register_structure_hook_func(t.is_union, self._union)
        converter.register_structure_hook_func(t.is_literal, _choice)
        converter.register_structure_hook_func(t.is_sequence, self._sequence)
        converter.register_structure_hook_func(t.is_mapping, self._mapping)
        converter.register_structure_hook_func(t.is_table, self._table)
        converter.register_structure_hook_func(lambda form: form in self._bases, self._component)
        # Hooks for classes and their subclasses take precedence over all hooks by function.
        for scalar in (bool, int, float, str, Path, Enum):
            converter.register_structure_hook(scalar, _scalar)
        converter.register_structure_hook(bytes, _unsupported)

    def structure(self, data: Mapping[str, object], cls: type[T], path: str = "") -> T:
        """Builds an object from a table of options.

        Args:
            data: the options.
            cls: an attrs class, or the base class of a kind.
            path: where the table stands in its document; the paths of problems start with it.

        Raises:
            ConfigError: the data are wrong; the error lists every problem.
            RegistryError: the class is wrong, for example because an annotation cannot be resolved.
        """
        _ = self._bases  # imported before cattrs runs, which would hide the error of a base that cannot be imported
        try:
            return cast(T, self._build(data, cls))
        except Invalid as invalid:
            places = Places(self._catalog, self._bases, data, cls, path)
            issues = [(evolve(i, message=places.unknown(i.unknown)) if i.unknown else i) for i in invalid.issues]
            issues = [issue.below(path) for issue in issues]
        raise ConfigError(
            tuple(ConfigProblem(issue.path, issue.message, issue.missing) for issue in issues),
            tuple(issue.cause.at(issue.path) for issue in issues if issue.cause is not None),
        )

    def unstructure(self, obj: object) -> dict[str, object]:
        """Turns an object into the table of options from which `structure` builds an equal object.

        Options that are None are left out, because TOML has no null; so an option that may be None should have the
        default None.

        Raises:
            RegistryError: the object holds a value that cannot be written to a config file.
            TypeError: the object is not an instance of an attrs class.
        """
        if isinstance(obj, type) or not attrs.has(type(obj)):
            raise TypeError(f"not an instance of an attrs class: {show(obj)}")
        return cast("dict[str, object]", plain(obj, self._is_named))

    @cached_property
    def _bases(self) -> dict[type, KindInfo]:
        return {self._catalog.base(kind.id): kind for kind in self._catalog.kinds}

    def _is_named(self, value: object) -> bool:
        return isinstance(value, tuple(self._bases)) and isinstance(getattr(type(value), "name", None), str)

    def _build(self, value: object, form: TypeForm) -> Any:
        form = t.bare(form)
        # A generic base class with an argument, such as Source[Any], is treated as the base class itself.
        origin = get_origin(form)
        form = origin if isinstance(origin, type) and origin in self._bases else form
        return self._converter.get_structure_hook(form)(value, form)

    def _phrase(self, form: TypeForm) -> str:
        return t.phrase(form, lambda member: with_article(self._bases[member].title) if member in self._bases else None)

    def _mismatch(self, value: object, form: TypeForm, choices: Sequence[object] = ()) -> Invalid:
        return Invalid.because(f"expected {self._phrase(form)}, got {got(value)}{hint(value, choices)}")

    def _union(self, value: object, form: TypeForm) -> object:
        if value is None and type(None) in get_args(form):
            return None
        # Types that convert a value are tried last, so that in `float | int` 3 stays an integer and in
        # `Path | Literal["auto"]` "auto" does not become a path.
        converting = (float, Path, *self._bases)
        refusals: list[Invalid] = []
        for member in sorted(t.members(form), key=lambda member: member in converting):
            try:
                return self._build(value, member)
            except Invalid as invalid:
                if self._fits(value, member):
                    refusals.append(invalid)
        # The error of an alternative of the value's own shape (table, list, name) is more precise than a list of all.
        if refusals:
            raise min(refusals, key=lambda invalid: len(invalid.issues))
        literals = [choice for member in t.members(form) if t.is_literal(member) for choice in t.choices(member)]
        raise self._mismatch(value, form, literals)

    def _fits(self, value: object, form: TypeForm) -> bool:
        if isinstance(value, Mapping):
            return form in self._bases or t.is_table(form) or t.is_mapping(form)
        if isinstance(value, list | tuple):
            return t.is_sequence(form)
        return isinstance(value, str) and form in self._bases

    def _sequence(self, value: object, form: TypeForm) -> object:
        parts = t.fixed(form)
        if not isinstance(value, list | tuple) or (parts is not None and len(parts) != len(value)):
            raise self._mismatch(value, form)
        collector = Collector()
        for index, item in enumerate(value):
            with collector.at(f"[{index}]"):
                collector.values[index] = self._build(item, t.element(form) if parts is None else parts[index])
        items = collector.finish().values()
        return list(items) if (t.origin(form) or form) is list else tuple(items)

    def _mapping(self, value: object, form: TypeForm) -> object:
        if not isinstance(value, Mapping):
            raise self._mismatch(value, form)
        inner = t.bare(t.element(form))
        collector = Collector()
        for key, item in value.items():
            with collector.at(step(key) if isinstance(key, str) else ""):
                if not isinstance(key, str):
                    raise Invalid.because(f"keys must be text, got {got(key)}")
                if inner in self._bases and isinstance(item, Mapping):
                    item = {"name": key, **item}
                collector.values[key] = self._build(item, inner)
        return collector.finish()

    def _table(self, value: object, cls: type) -> object:
        if not isinstance(value, Mapping):
            raise self._mismatch(value, cls)
        # A field whose type is one concrete component needs no `name`, but `unstructure` writes one.
        name = getattr(cls, "name", None)
        if isinstance(name, str) and issubclass(cls, tuple(self._bases)) and value.get("name") == name:
            value = {key: item for key, item in value.items() if key != "name"}
        return build_table(value, cls, self._build, self._phrase)

    def _component(self, value: object, base: type) -> object:
        kind = self._bases[base]
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            wanted = with_article(kind.title)
            raise Invalid.because(f"expected {wanted} (its name, or a table with its name), got {got(value)}")
        if "name" not in value:
            known = ", ".join(entry.name for entry in self._catalog.entries(kind.id))
            raise Invalid.because(
                f"missing, expected the name of {with_article(kind.title)}. Known: {known or 'none'}.", "name"
            )
        name = value["name"]
        if not isinstance(name, str):
            raise Invalid.because(f"expected text, got {got(name)}", "name")
        try:
            entry = self._catalog.get(kind.id, name)
        except (UnknownComponentError, DuplicateComponentError) as error:
            raise Invalid([Issue("", error.message, error)]) from None
        options = {k: item for k, item in value.items() if k != "name"}
        try:
            with prints_to_stderr():
                return build_table(options, entry.cls, self._build, self._phrase)
        except (Invalid, KeyboardInterrupt):
            raise
        except BaseException as error:  # a default, a converter or a validator of a plugin may raise anything
            words = str(error) if isinstance(error, RegistryError) else error_line(error)
            raise RegistryError(f"plugin {entry.plugin} ({kind.id} {name}) cannot be built: {words}") from error


def _scalar(value: object, form: TypeForm) -> object:
    if t.is_enum(form):  # checked first, since an enumeration may derive from str or int
        return _choice(value, form)
    # A boolean is an int in Python, but not in a config.
    if form in (bool, int, str) and isinstance(value, form) and isinstance(value, bool) == (form is bool):
        return value
    if form is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise Invalid.because("too large for a number") from None
    if form is Path and isinstance(value, str | Path):
        return Path(value)
    raise Invalid.because(f"expected {t.phrase(form)}, got {got(value)}")


def _choice(value: object, form: TypeForm) -> object:
    allowed = t.choices(form)
    for choice in allowed:
        # True, 1 and 1.0 are equal in Python, but different values in a config.
        same_kind = isinstance(value, type(choice)) and isinstance(value, bool) == isinstance(choice, bool)
        if same_kind and value == choice:
            return form(choice) if t.is_enum(form) else choice
    raise Invalid.because(f"expected {t.phrase(form)}, got {got(value)}{hint(value, allowed)}")


def _unsupported(value: object, form: TypeForm) -> object:
    raise Invalid.because(f"cannot be set in a config (its type is {getattr(form, '__name__', form)})")
