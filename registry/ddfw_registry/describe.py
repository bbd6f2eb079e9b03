"""Describes the options of an attrs class, for help pages, documentation and schemas."""

from __future__ import annotations

import json

import attrs
from attrs import frozen

from ddfw_registry._plain import plain
from ddfw_registry._types import default_of, fields, noun, option_name
from ddfw_registry._validators import range_of
from ddfw_registry.errors import RegistryError


@frozen
class OptionInfo:
    """One option.

    Args:
        name: the option's name in a config.
        type: its type in words: `integer`, `true/false`, `one of own, all`, `list of integers`.
        required: whether the user has to give it, because it has no default.
        default: the default; None if there is none, or if the default is None.
        range: the values that the validators allow: `>= 1`, `in [0, 1)`; "" if that is unknown.
        help: one line of explanation; "" if there is none.
    """

    name: str
    type: str
    required: bool
    default: object
    range: str
    help: str

    def as_dict(self) -> dict[str, object]:
        """The fields as a dictionary of JSON-able values; a default that JSON cannot hold becomes text."""
        return {**attrs.asdict(self, recurse=False), "default": _json(self.default)}


def options(cls: type) -> tuple[OptionInfo, ...]:
    """The options of an attrs class, in the order of its fields.

    Fields that the constructor does not take are no options. Default factories are called.

    Raises:
        RegistryError: the annotation of a field cannot be resolved.
    """
    infos = []
    for field, form in fields(cls):
        type_, range_ = noun(form), range_of(field.validator)
        default, required = default_of(field), field.default is attrs.NOTHING
        infos.append(
            OptionInfo(
                name=option_name(field),
                type=type_,
                required=required,
                default=None if default is attrs.NOTHING else default,
                range="" if range_ == type_ else range_,  # the validator of a Literal repeats its values
                help=str(field.metadata.get("help", "")),
            )
        )
    return tuple(infos)


def _json(value: object) -> object:
    if value is None:
        return None
    try:
        written = json.dumps(plain(value, lambda item: isinstance(getattr(type(item), "name", None), str)))
    except RegistryError:
        return str(value)
    return json.loads(written, parse_constant=lambda number: str(float(number)))  # inf and nan become texts
