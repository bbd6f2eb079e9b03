"""Resolves the type annotations of attrs classes, inspects them, and puts them in words."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_type_hints

import attrs

from ddfw_registry._words import either, with_article
from ddfw_registry.errors import RegistryError

#: Any type annotation; typing has no type for annotations before Python 3.14.
TypeForm: TypeAlias = Any

#: For each scalar type: its noun, the noun with an article, its plural.
_SCALARS: dict[TypeForm, tuple[str, str, str]] = {
    bool: ("true/false", "true or false", "true/false values"),
    int: ("integer", "an integer", "integers"),
    float: ("number", "a number", "numbers"),
    str: ("text", "text", "texts"),
    Path: ("path", "a path", "paths"),
}


#: The class of attrs.Factory, which type checkers take for a function.
_FACTORY: type[Any] = type(attrs.Factory(list))


@cache
def fields(cls: type) -> tuple[tuple[attrs.Attribute[Any], TypeForm], ...]:
    """The fields of an attrs class that its constructor takes, each with its resolved type.

    Only annotations of fields are resolved, because others, for example of a ClassVar, may use names that exist for
    type checkers only.

    Raises:
        RegistryError: the annotation of a field uses a name that does not exist when the program runs.
    """
    return tuple((field, _resolve(cls, field)) for field in attrs.fields(cls) if field.init)


def option_name(field: attrs.Attribute[Any]) -> str:
    """The name of a field in a config, which is that of its argument: without leading underscores."""
    return field.alias or field.name.lstrip("_")


def _resolve(cls: type, field: attrs.Attribute[Any]) -> TypeForm:
    if field.type is None:
        return Any
    # An annotation is resolved in the module of the class that defines the field, which may be a base class.
    owners = (
        owner
        for owner in cls.__mro__
        for own in vars(owner).get("__attrs_attrs__", ())
        if own.name == field.name and not own.inherited
    )
    owner = next(owners, cls)
    holder = type("holder", (), {"__annotations__": {"field": field.type}, "__module__": owner.__module__})
    try:
        return get_type_hints(holder, localns={owner.__name__: owner}, include_extras=True)["field"]
    except Exception as error:
        raise RegistryError(f"{cls.__name__}.{field.name}: its annotation cannot be resolved ({error})") from error


def default_of(field: attrs.Attribute[Any], instance: object = None) -> Any:
    """The default of a field; if it has a factory, the factory is called.

    Args:
        field: the field.
        instance: passed to a factory that takes the instance; None if there is no instance yet.

    Returns:
        The default; attrs.NOTHING if there is none, or if computing it needs an instance and there is none.
    """
    default: Any = field.default
    if not isinstance(default, _FACTORY):
        return default
    if not default.takes_self:
        return default.factory()
    return attrs.NOTHING if instance is None else default.factory(instance)


def origin(form: TypeForm) -> Any:
    """The generic type without its parameters, `list` for `list[int]`; None for types without parameters."""
    return typing.get_origin(form)


def bare(form: TypeForm) -> TypeForm:
    """The type without Annotated, NewType and `type X = …` around it."""
    while True:
        if origin(form) is Annotated:
            form = get_args(form)[0]
        elif hasattr(form, "__supertype__"):
            form = form.__supertype__
        elif type(form).__name__ == "TypeAliasType":
            form = form.__value__
        else:
            return form


def is_union(form: TypeForm) -> bool:
    """Whether the type is `A | B`."""
    return origin(form) in (Union, types.UnionType)


def is_literal(form: TypeForm) -> bool:
    """Whether the type is a Literal."""
    return origin(form) is Literal


def is_enum(form: TypeForm) -> bool:
    """Whether the type is an enumeration."""
    return isinstance(form, type) and issubclass(form, Enum)


def is_sequence(form: TypeForm) -> bool:
    """Whether the type is a list, a tuple or a Sequence."""
    return (origin(form) or form) in (tuple, list, Sequence)


def is_mapping(form: TypeForm) -> bool:
    """Whether the type is a dict or a Mapping."""
    return (origin(form) or form) in (dict, Mapping)


def is_table(form: TypeForm) -> bool:
    """Whether the type is an attrs class."""
    return isinstance(form, type) and attrs.has(form)


def members(form: TypeForm) -> tuple[TypeForm, ...]:
    """The alternatives of a union except None, or the type itself if it is not a union."""
    form = bare(form)
    if not is_union(form):
        return (form,)
    return tuple(inner for member in get_args(form) if member not in (None, type(None)) for inner in members(member))


def element(form: TypeForm) -> TypeForm:
    """The type of the elements of a list, of a tuple of any length, or of a mapping's values."""
    args = get_args(form)
    if not args:
        return Any
    return args[1] if is_mapping(form) else args[0]


def fixed(form: TypeForm) -> tuple[TypeForm, ...] | None:
    """The element types of a tuple of fixed length; None for every other type."""
    args = get_args(form)
    return args if origin(form) is tuple and not (len(args) == 2 and args[1] is Ellipsis) else None


def choices(form: TypeForm) -> tuple[object, ...]:
    """The values that a Literal or an enumeration allows, as they are written in a config."""
    return tuple(member.value for member in form) if is_enum(form) else get_args(form)


def written(value: object) -> str:
    """An allowed value as it is shown in a table of options."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def quoted(values: Iterable[object]) -> list[str]:
    """Allowed values as they are shown in a message, texts in quotes."""
    return [repr(value) if isinstance(value, str) else written(value) for value in values]


def noun(form: TypeForm) -> str:
    """The words for a type in a table of options: `integer`, `one of own, all`, `list of integers`."""
    alternatives = members(form)
    if len(alternatives) != 1:
        words = [
            word
            for member in alternatives
            for word in ([written(v) for v in choices(member)] if _has_choices(member) else [noun(member)])
        ]
        return either(words) if words else "nothing"
    form = alternatives[0]
    if form in _SCALARS:
        return _SCALARS[form][0]
    if _has_choices(form):
        values = [written(value) for value in choices(form)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if is_sequence(form) or is_mapping(form):
        return _container(form)
    return _class(form)


def phrase(form: TypeForm, name: typing.Callable[[TypeForm], str | None] = lambda _: None) -> str:
    """The words for a type after "expected": `an integer`, `'own' or 'all'`, `a list of integers or 'official'`.

    Args:
        form: the type.
        name: gives the caller's words for a type, or None to use the standard ones.
    """
    words: list[str] = []
    for member in members(form):
        named = name(member)
        if named is not None:
            words.append(named)
        elif member in _SCALARS:
            words.append(_SCALARS[member][1])
        elif _has_choices(member):
            words.extend(quoted(choices(member)))
        elif is_sequence(member) or is_mapping(member):
            words.append(f"a {_container(member)}")
        else:
            words.append(with_article(_class(member)))
    return either(words) if words else "nothing"


def _has_choices(form: TypeForm) -> bool:
    return is_literal(form) or is_enum(form)


def _container(form: TypeForm) -> str:
    parts = fixed(form)
    if parts is not None and len(set(parts)) > 1:
        return f"list of {either([noun(part) for part in parts], 'and')}"
    what = "table" if is_mapping(form) else "list"
    inner = parts[0] if parts else element(form)
    if inner is Any or parts == ():
        return f"empty {what}" if parts == () else what
    return f"{what} of {'' if parts is None else f'{len(parts)} '}{_plural(inner)}"


def _plural(form: TypeForm) -> str:
    alternatives = members(form)
    if len(alternatives) == 1:
        form = alternatives[0]
        if form in _SCALARS:
            return _SCALARS[form][2]
        if _has_choices(form):
            return f"values out of {', '.join(written(value) for value in choices(form))}"
        if is_sequence(form) or is_mapping(form):
            what, _, rest = _container(form).partition(" of ")
            return f"{what}s of {rest}" if rest else f"{what}s"
        return f"{_class(form)}s" if is_table(form) or inspect.isabstract(form) else _class(form)
    return f"({noun(form)})"


def _class(form: TypeForm) -> str:
    if form in (Any, object):
        return "value of any kind"
    if inspect.isabstract(form):
        return "component"
    return "table" if is_table(form) else getattr(form, "__name__", str(form))
