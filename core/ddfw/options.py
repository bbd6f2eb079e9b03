"""`option`: one field of a component, with its default, its validator and its help in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

if TYPE_CHECKING:
    T = TypeVar("T")
    Validator = Callable[[Any, Any, Any], Any]

    def option(default: T, *, validator: Validator | Sequence[Validator] | None = None, help: str) -> T:
        """See below."""

    def required_option(*, validator: Validator | Sequence[Validator] | None = None, help: str) -> Any:
        """See below."""

else:

    def option(default, *, validator=None, help):
        """An option with a default.

        Args:
            default: the value when the user says nothing.
            validator: an attrs validator (`attrs.validators.ge(1)`); its bounds are shown in the option table.
            help: one line for `ddfw describe` and the docs.
        """
        if isinstance(default, float):
            given = validator if isinstance(validator, list | tuple) else [validator] if validator else []
            validator = [*given, _finite]
        return attrs.field(default=default, validator=validator, metadata={"help": help})

    def _finite(instance, attribute, value):
        # Infinities and NaN are valid TOML; no number of ours means anything with them.
        if value is not None and not math.isfinite(value):
            raise ValueError(f"must be a finite number, got {value}")

    def required_option(*, validator=None, help):
        """An option that a user has to give; the arguments are those of `option`."""
        return attrs.field(validator=validator, metadata={"help": help})
