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
        """An option of a component, with a default."""

    def required_option(*, validator: Validator | Sequence[Validator] | None = None, help: str) -> Any:
        """An option of a component that users have to give."""

else:

    def option(default, *, validator=None, help):
        """An option of a component, with a default.

        Args:
            default: the value where the user gives none.
            validator: an attrs validator (`attrs.validators.ge(1)`); its bounds are shown in the option table.
            help: one line about the option, shown by `ddfw describe` and in the docs.
        """
        if isinstance(default, float):
            given = validator if isinstance(validator, list | tuple) else [validator] if validator else []
            validator = [*given, _finite]
        return attrs.field(default=default, validator=validator, metadata={"help": help})

    def _finite(instance, attribute, value):
        # TOML allows inf and nan, but no option of ddfw has a meaning for them.
        if value is not None and not math.isfinite(value):
            raise ValueError(f"must be a finite number, got {value}")

    def required_option(*, validator=None, help):
        """An option of a component that users have to give.

        Args:
            validator: an attrs validator (`attrs.validators.ge(1)`); its bounds are shown in the option table.
            help: one line about the option, shown by `ddfw describe` and in the docs.
        """
        return attrs.field(validator=validator, metadata={"help": help})
