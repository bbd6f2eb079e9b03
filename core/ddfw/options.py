"""`option`: one field of a component, with its default, its validator and its help in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

#: No option means a larger number: tensors have sizes of 64 bits and values of float32.
LARGEST_INT, LARGEST_FLOAT = 2**63 - 1, 3.4e38
#: A seed is hashed and no number of anything, so that those of other programs, of 64 bits and more, are taken as well.
LARGEST_SEED = 2**256 - 1

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
        return attrs.field(default=default, validator=_with_limits(validator), metadata={"help": help})

    def _with_limits(validator):
        given = validator if isinstance(validator, list | tuple) else [validator] if validator else []
        return [*given, _within_limits]

    def _within_limits(instance, attribute, value):
        """Refuses numbers that no option of any component can mean, whatever its own range is."""
        for number in value if isinstance(value, list | tuple) else (value,):
            # TOML allows inf and nan, but no option of ddfw has a meaning for them.
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"must be a finite number, got {number}")
            if isinstance(number, float) and abs(number) > LARGEST_FLOAT:
                raise ValueError(f"must be at most {LARGEST_FLOAT:g}, the largest number of float32, got {number:g}")
            seed = attribute.name == "seed" or attribute.name.endswith("_seed")
            largest, bits = (LARGEST_SEED, 256) if seed else (LARGEST_INT, 64)
            if isinstance(number, int) and abs(number) > largest:
                # The number itself is not shown: Python refuses to write one of thousands of digits.
                raise ValueError(f"must be at most {largest}, the largest integer of {bits} bits")

    def required_option(*, validator=None, help):
        """An option of a component that users have to give.

        Args:
            validator: an attrs validator (`attrs.validators.ge(1)`); its bounds are shown in the option table.
            help: one line about the option, shown by `ddfw describe` and in the docs.
        """
        return attrs.field(validator=_with_limits(validator), metadata={"help": help})
