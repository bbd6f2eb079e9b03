"""Describes attrs validators: the range of values that they allow, and what is wrong with a value.

The classes of attrs' validators are not public, so each is recognised by the type of an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from attrs import validators as v

from ddfw_registry._types import quoted, written
from ddfw_registry._words import either, got, hint, one_line, show

Validator: TypeAlias = Callable[[Any, Any, Any], object]

_NUMBER: type[Any] = type(v.ge(0))
_IN: type[Any] = type(v.in_(()))
_AND: type[Any] = type(v.and_(v.ge(0), v.le(0)))
_OPTIONAL: type[Any] = type(v.optional(v.ge(0)))
_EACH: type[Any] = type(v.deep_iterable(v.ge(0)))
_MIN_LEN: type[Any] = type(v.min_len(0))
_MAX_LEN: type[Any] = type(v.max_len(0))


def range_of(validator: Validator | None) -> str:
    """The values that a validator allows: `>= 1`, `in [0, 1)`, `one of a, b`, `each > 0`; "" if that is unknown."""
    bounds: list[tuple[str, Any]] = []
    words: list[str] = []
    for part in _parts(validator):
        if isinstance(part, _NUMBER):
            bounds.append((part.compare_op, part.bound))
        elif isinstance(part, _IN):
            words.append(_options(part))
        elif isinstance(part, _EACH):
            inner = range_of(part.member_validator)
            words.extend([f"each {inner}"] if inner else [])
    return ", ".join([*([_interval(bounds)] if bounds else []), *words])


def complaints(validator: Validator | None, instance: object, field: object, value: Any) -> Iterator[tuple[str, str]]:
    """The problems that a field's validator finds in a value.

    Args:
        validator: the validator of the field.
        instance: the instance that is passed to the validator.
        field: the attrs attribute.
        value: the value to validate.

    Yields:
        (position, message) for each problem; position is "" for the value itself, or that of an element, like `[1]`.
    """
    if isinstance(validator, _OPTIONAL) and value is None:
        return
    for part in _parts(validator):
        if isinstance(part, _EACH):
            if part.iterable_validator is not None:
                yield from complaints(part.iterable_validator, instance, field, value)
            for index, member in enumerate(value):
                for position, message in complaints(part.member_validator, instance, field, member):
                    yield f"[{index}]{position}", message
            continue
        try:
            part(instance, field, value)
        except (ValueError, TypeError) as error:
            yield "", _reworded(part, value, error)


def message_of(error: BaseException) -> str:
    """The text of an exception of a validator or constructor, without the other arguments that attrs adds."""
    first = error.args[0] if error.args else ""
    return one_line(first if isinstance(first, str) and first else str(error) or type(error).__name__)


def _parts(validator: Validator | None) -> Iterator[Validator]:
    if validator is None:
        return
    if isinstance(validator, _AND):
        for part in validator._validators:
            yield from _parts(part)
    elif isinstance(validator, _OPTIONAL):
        yield from _parts(validator.validator)
    else:
        yield validator


def _reworded(validator: Any, value: Any, error: Exception) -> str:
    if isinstance(error, TypeError) and isinstance(validator, _NUMBER):
        return f"must be a number {validator.compare_op} {validator.bound}, got {got(value)}"
    if isinstance(validator, _NUMBER):
        return f"must be {validator.compare_op} {validator.bound}, got {show(value)}"
    if isinstance(validator, _IN):
        return f"must be {_options(validator, quote=True)}, got {show(value)}{hint(value, validator.options)}"
    if isinstance(validator, _MIN_LEN):
        return f"must have at least {_items(validator.min_length, value)}, got {len(value)}"
    if isinstance(validator, _MAX_LEN):
        return f"must have at most {_items(validator.max_length, value)}, got {len(value)}"
    return message_of(error)


def _items(count: int, value: object) -> str:
    noun = "character" if isinstance(value, str) else "element"
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _options(validator: Any, quote: bool = False) -> str:
    allowed = validator.options
    if isinstance(allowed, range) and allowed.step == 1 and allowed:
        return f"in [{allowed[0]}, {allowed[-1]}]"
    if quote:
        return either(quoted(allowed)) if allowed else "nothing at all"
    return f"one of {', '.join(written(option) for option in allowed)}"


def _interval(bounds: list[tuple[str, Any]]) -> str:
    # Of several bounds on one side the tightest is shown; of two equal ones the exclusive one is tighter.
    lower = max((b for b in bounds if b[0][0] == ">"), key=lambda b: (b[1], b[0] == ">"), default=None)
    upper = min((b for b in bounds if b[0][0] == "<"), key=lambda b: (b[1], b[0] != "<"), default=None)
    if lower is not None and upper is not None:
        return f"in {'[' if lower[0] == '>=' else '('}{lower[1]}, {upper[1]}{']' if upper[0] == '<=' else ')'}"
    only = lower or upper
    return f"{only[0]} {only[1]}" if only is not None else ""
