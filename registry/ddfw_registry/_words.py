"""Small helpers that turn names, values and exceptions into the words of a message."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence

#: No component or option has a name this long; comparing one with every known name would only cost time.
_LONGEST_WORD = 80

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def suggest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant.

    Candidates resemble the word; among them the one reached with the fewest edits wins, where swapping two
    neighbouring letters counts as one edit. Upper and lower case are not told apart.

    Args:
        word: what was typed.
        known: the words that would have been understood.

    Returns:
        One of `known`, or None if nothing is close.
    """
    if len(word) > _LONGEST_WORD:
        return None
    typed = word.casefold()
    near: list[tuple[int, str]] = []
    for candidate in known:
        folded = candidate.casefold()
        if difflib.SequenceMatcher(None, folded, typed).ratio() >= 0.5:
            near.append((_edits(typed, folded), candidate))
    return min(near)[1] if near else None


def _edits(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn a into b (optimal string alignment)."""
    before: list[int] = []
    previous = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, previous = previous, row
    return previous[-1]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'rank'?` with its leading space, or nothing."""
    suggestion = suggest(word, known)
    return "" if suggestion is None else f" Did you mean {suggestion!r}?"


def either(words: Sequence[str], last: str = "or") -> str:
    """`a`, `a or b`, `a, b or c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def with_article(words: str) -> str:
    """`a list`, `an integer`."""
    return f"{'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"


def one_line(text: str, limit: int = 300) -> str:
    """The text on a single line, cut with an ellipsis when it is longer than the limit."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def error_line(error: BaseException) -> str:
    """An exception as one short line: its type and its message."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # an exception class of a plugin may fail to print itself
        text = ""
    return one_line(f"{name}: {text}" if text else name)


def show(value: object) -> str:
    """A value as it stands in a message: short, on one line, whatever it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return one_line(_SHORT.repr(value), 80)
    except Exception:  # an integer with thousands of digits has no decimal repr
        return "a value that cannot be shown"


def got(value: object) -> str:
    """`1.7 (float)`: a value and, in a config file's words, what it is."""
    match value:
        case None:
            return "nothing"
        case bool():
            kind = "boolean"
        case int():
            kind = "integer"
        case float():
            kind = "float"
        case str():
            kind = "text"
        case list() | tuple():
            kind = "list"
        case Mapping():
            kind = "table"
        case _:
            kind = type(value).__name__
    return f"{show(value)} ({kind})"
