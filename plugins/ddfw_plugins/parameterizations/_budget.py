"""What an error that a budget is too small says besides a larger budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ddfw import OptionError


@contextmanager
def would_fit(option: str, comparison: str, value: int) -> Iterator[None]:
    """Adds to an error that is raised inside the block which value of an option would fit the budget.

    Args:
        option: name of the option of the parameterisation.
        comparison: `<=` if smaller values would fit too, else `=`.
        value: the largest value that would fit; no value fits if it is below 1.

    Raises:
        OptionError: the error with the addition; the error itself if no value fits.
    """
    try:
        yield
    except OptionError as error:
        if value < 1:
            raise
        raise OptionError(f"{error}, and so would param.{option} {comparison} {value}", option) from error
