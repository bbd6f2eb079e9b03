"""Classes by their names: their order, the one that a user means, and how those of two sets belong together."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import pairwise

from ddfw.errors import DataError, OptionError, did_you_mean

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SIGNED = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
#: A number before a name, as in `07-dog`.
_LEADING = re.compile(r"([0-9]+)[\W_]+(?=.)")
#: Spellings of the three splits, without case, punctuation, years and words such as `set`.
_SPLITS = {
    "train": ("train", "training", "tr", "trn"),
    "validation": ("val", "valid", "validate", "validating", "validation", "dev", "devel", "development", "eval",
                   "evaluation"),
    "test": ("test", "testing", "te", "tst", "holdout"),
}  # fmt: skip


def split_of(name: str) -> str:
    """The split that a folder's name stands for: `train`, `validation`, `test`, or "" for none."""
    word = re.sub(r"[\W_]+|^[0-9]+", "", name.casefold())
    word = re.sub(r"(?:set|split|data|images|imgs|(?:19|20)[0-9]{2})+$", "", word) or word
    return next((split for split, spellings in _SPLITS.items() if word in spellings), "")


def class_order(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Sorts the names of class folders: by their numbers if only a number tells them apart, otherwise as text.

    Args:
        names: different names, in any order.

    Returns:
        The names in order, and a note if the other of the two orders is another one, otherwise "". Whole numbers from 0
        are the labels themselves, which needs no note.

    Raises:
        DataError: two names hold the same number, as `1` and `01` do.
    """
    text, numbers = sorted(names), _numbers(names)
    if numbers is None:
        by_number = sorted(names, key=_natural)
        note = "class folders are in the order of their text ({}; {} by their numbers: leading zeros give that order)"
        return tuple(text), _order_note(note, text, by_number)
    by_number = sorted(text, key=numbers.__getitem__)
    for one, other in pairwise(by_number):
        if numbers[one] == numbers[other]:
            raise DataError(f"class folders {one!a} and {other!a} hold the same number; rename or join them")
    note = "class folders are in the order of their numbers ({}; {} as text)"
    return tuple(by_number), "" if _are_labels(by_number) else _order_note(note, by_number, text)


def _are_labels(names: Sequence[str]) -> bool:
    """Whether names are the whole numbers from 0 to m - 1, in that order; zeros before them do not matter."""
    return all(_is_number(name, number) for number, name in enumerate(names))


def _is_number(name: str, number: int) -> bool:
    """Whether a name is a whole number, written in ASCII digits alone."""
    return name.isascii() and name.isdigit() and (name.lstrip("0") or "0") == str(number)


def _order_note(words: str, taken: Sequence[str], other: Sequence[str]) -> str:
    """The words with the first place at which two orders of the same names differ; "" if they are the same."""
    for a, b in zip(taken, other, strict=True):
        if a != b:
            return words.format(f"{a!a} before {b!a}", f"{b!a} before {a!a}")
    return ""


def _numbers(names: Sequence[str]) -> dict[str, Decimal] | None:
    """The number of each name if nothing else tells the names apart, or if each begins with one; otherwise None."""
    if all(_SIGNED.fullmatch(name) for name in names):
        return _different(names, names)
    around = {tuple(_NUMBER.split(name)) for name in names}
    columns = list(zip(*(_NUMBER.findall(name) for name in names), strict=True)) if len(around) == 1 else []
    different = [column for column in columns if len(set(column)) > 1]
    if len(different) == 1:
        return _different(names, different[0])
    leading = [_LEADING.match(name) for name in names]
    found = {match.string: Decimal(match[1]) for match in leading if match is not None}
    return found if len(found) == len(set(found.values())) == len(names) else None


def _different(names: Sequence[str], numbers: Sequence[str]) -> dict[str, Decimal] | None:
    """The number of each name, None for such as 1.1 and 1.10, which may be versions rather than numbers."""
    values = dict(zip(names, map(Decimal, numbers), strict=True))
    same = len(set(values.values())) < len(values)
    return None if same and any("." in number for number in numbers) else values


def _natural(name: str) -> list[tuple[str, Decimal]]:
    """A key that sorts numbers within names by their values."""
    parts = re.split(r"([0-9]+)", name)
    return list(zip(parts[::2], [*map(Decimal, parts[1::2]), Decimal(-1)], strict=True))


def class_number(wanted: str | int, names: Sequence[str]) -> int:
    """The number of a class that a user gave by its name or its number.

    Args:
        wanted: a name, or a number from 0.
        names: the names of the classes, in the order of their numbers.

    Raises:
        OptionError: there is no such class, or the number is also the name of another class.
    """
    if isinstance(wanted, int) and 0 <= wanted < len(names):
        named = [name for name in names if _is_number(name, wanted)]
        if named and names[wanted] not in named:
            raise OptionError(
                f"{wanted} may be the class named {named[0]!a}, or class number {wanted} (from 0), which is named "
                f'{names[wanted]!a}; write the name as text, "{named[0]}" or "{names[wanted]}"',
                "classes",
            )
        return wanted
    if wanted in names:
        return names.index(str(wanted))
    hint = did_you_mean(str(wanted), names)
    known = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    raise OptionError(f"unknown class {wanted!r}.{hint} Known: {known} (or their numbers from 0)", "classes")


def match_classes(there: Sequence[str], names: Sequence[str]) -> tuple[list[int], str]:
    """Finds the class of a set of images for each class of a data set.

    Args:
        there: the set's m class names, in its order.
        names: the data set's m class names.

    Returns:
        For each class of the data set its number in the set, and how they were matched, in words; "" if the names are
        the same in the same order.

    Raises:
        DataError: their names suggest another match than their order.
    """
    if list(there) == list(names):
        return list(range(len(names))), ""
    if set(there) == set(names):
        return [there.index(name) for name in names], "its classes were matched by their names"
    ordered = sorted(there, key=_natural)
    if _are_labels(ordered):
        _require_agreement(ordered, names)
        words = f"its class names are whole numbers from 0, which were taken as the labels ({_pairs(ordered, names)})"
        return [there.index(name) for name in ordered], words
    for form, words in _FORMS:
        mine, theirs = [form(name) for name in there], [form(name) for name in names]
        if set(mine) == set(theirs) and len(set(mine)) == len(names):
            return [mine.index(name) for name in theirs], f"its classes were matched by their names{words}"
    _require_agreement(there, names)
    return list(range(len(names))), f"its classes have other names; they were matched in order ({_pairs(there, names)})"


def _plain(name: str) -> str:
    """A name without case, punctuation, and zeros before numbers."""
    plain = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", plain)


def _unnumbered(name: str) -> str:
    """A plain name without the number before it."""
    return _plain(_LEADING.sub("", name, count=1) if _LEADING.match(name) else name)


_FORMS: tuple[tuple[Callable[[str], str], str], ...] = (
    (_plain, ", but for case and punctuation"),
    (_unnumbered, " after their numbers"),
)


def _require_agreement(there: Sequence[str], names: Sequence[str]) -> None:
    """Refuses to match classes in order if a name stands at another place in the other set."""
    places = {_plain(name): number for number, name in enumerate(names)}
    for number, name in enumerate(there):
        place = places.get(_plain(name), number)
        if place != number:
            raise DataError(
                f"its class {name!a} may be {names[place]!a}, or {names[number]!a}, which has the same place in order; "
                "give all classes the names that they have in the data set"
            )


def _pairs(there: Sequence[str], names: Sequence[str]) -> str:
    """The first pairs of matched classes, in words."""
    pairs = [f"{a!a} is {b!a}" for a, b in zip(there, names, strict=True)]
    return ", ".join(pairs[:3]) + (", …" if len(pairs) > 3 else "")
