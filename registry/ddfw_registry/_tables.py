"""Builds one instance of an attrs class from one table of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs

from ddfw_registry._problems import Collector, Invalid, Issue, Unknown, step
from ddfw_registry._types import TypeForm, default_of, fields, option_name
from ddfw_registry._validators import complaints, message_of
from ddfw_registry._words import got
from ddfw_registry.errors import RegistryError


def build_table(
    data: Mapping[object, object],
    cls: type,
    build: Callable[[object, TypeForm], object],
    phrase: Callable[[TypeForm], str],
) -> object:
    """Builds an instance; all fields are checked even if one of them is wrong.

    Args:
        data: the options.
        cls: an attrs class.
        build: builds the value of one field from an option's value and the field's type.
        phrase: gives the words for a type.

    Raises:
        Invalid: some options are wrong; the exception lists all problems in the order of the fields, unknown options
            last.
        RegistryError: the class cannot be built from any options.
    """
    if inspect.isabstract(cls):
        raise RegistryError(f"{cls.__name__} is abstract and not the base of a kind, so no table can describe it")
    collector = Collector()
    known = {option_name(field): (field, form) for field, form in fields(cls)}
    for name, (field, form) in known.items():
        with collector.at(name):
            if name in data:
                collector.values[field.name] = build(data[name], form)
            elif field.default is attrs.NOTHING:
                about = field.metadata.get("help")
                words = f"missing, expected {phrase(form)}{f' ({about})' if about else ''}"
                raise Invalid([Issue("", words, missing=True)])

    collector.issues.extend(_validated(cls, collector.values))
    order = {name: index for index, name in enumerate(known)}
    collector.issues.sort(key=lambda issue: order[_first_step(issue.path)])
    for key in data:
        if key not in known:
            collector.issues.append(_unknown(key, data[key], cls, tuple(known)))
    values = collector.finish()

    try:
        return cls(**{name: values[field.name] for name, (field, _) in known.items() if field.name in values})
    except ValueError as error:
        option = getattr(error, "option", "")
        raise Invalid.because(message_of(error), option if isinstance(option, str) else "") from error


def _validated(cls: type, values: Mapping[str, Any]) -> list[Issue]:
    """The problems that the fields' validators find in the values.

    attrs itself would stop at the first problem, and would not tell which field it belongs to.
    """
    issues: list[Issue] = []
    instance, complete = _stand_in(cls, values)
    for field in attrs.fields(cls):
        if field.name not in values or field.validator is None or isinstance(field.converter, attrs.Converter):
            continue
        value = values[field.name]
        try:
            if field.converter is not None:
                value = field.converter(value)
            issues.extend(
                Issue(f"{option_name(field)}{position}", message)
                for position, message in complaints(field.validator, instance, field, value)
            )
        except (ValueError, TypeError) as error:
            issues.append(Issue(option_name(field), message_of(error)))
        except AttributeError:
            if complete:  # if fields are missing, the validator may have failed for lack of one
                raise
    return issues


def _stand_in(cls: type, values: Mapping[str, Any]) -> tuple[Any, bool]:
    """An instance for validators that compare fields, made without calling `__init__`, and whether it has all fields.

    It lacks fields that have a problem themselves and fields whose default only `__init__` can compute.
    """
    instance: Any = cls.__new__(cls)  # type: ignore[call-overload]  # mypy takes this for the metaclass's __new__
    complete = True
    for field in attrs.fields(cls):
        value: Any = values.get(field.name, attrs.NOTHING)
        if value is attrs.NOTHING:
            with suppress(Exception):  # the constructor raises the same error again, which is then reported
                value = default_of(field, instance)
        if value is attrs.NOTHING:
            complete = False
        else:
            object.__setattr__(instance, field.name, value)
    return instance, complete


def _unknown(key: object, value: object, cls: type, known: tuple[str, ...]) -> Issue:
    if not isinstance(key, str):
        return Issue("", f"keys must be text, got {got(key)}")
    return Issue(step(key), "", unknown=Unknown(key=key, value=value, cls=cls, known=known))


def _first_step(path: str) -> str:
    return path.split(".", 1)[0].split("[", 1)[0]
