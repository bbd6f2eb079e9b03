"""Turns names, values and exceptions into the words of messages."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence

#: Longer words are not compared with known names, since no component or option has such a long name.
_LONGEST_WORD = 80

#: What the values of each type are called; bool comes before int, of which it is a subclass.
_KINDS = {bool: "boolean", int: "integer", float: "float", str: "text", list: "list", tuple: "list", Mapping: "table"}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 2


def suggest(word: str, known: Iterable[str]) -> str | None:
    """Finds the known word that the user probably meant.

    Of the known words that resemble the given one, the one reached with the fewest edits is chosen; a word of which
    more than half would have to be edited is not. Swapping two neighbouring letters counts as one edit; upper and lower
    case are the same.

    Args:
        word: the word that was typed.
        known: the words that are allowed.

    Returns:
        One of `known`, or None if nothing is close.
    """
    if len(word) > _LONGEST_WORD:
        return None
    typed = word.casefold()
    near = [c for c in known if difflib.SequenceMatcher(None, c.casefold(), typed).ratio() >= 0.5]
    best = min(near, key=lambda c: (_edits(typed, c.casefold()), c), default=None)
    if best is None or 2 * _edits(typed, best.casefold()) > max(len(typed), len(best)):
        return None
    return best


def closer(word: str, one: str, other: str) -> bool:
    """Whether fewer edits turn the word into `one` than into `other`."""
    typed = word.casefold()
    return _edits(typed, one.casefold()) < _edits(typed, other.casefold())


def _edits(a: str, b: str) -> int:
    """The smallest number of insertions, deletions, replacements and swaps of neighbours that turns a into b."""
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
    """The words ` Did you mean 'rank'?`, with a leading space, for a known word close to `word`; "" if none is."""
    suggestion = suggest(word, known)
    return "" if suggestion is None else f" Did you mean {suggestion!r}?"


def hint(value: object, choices: Iterable[object]) -> str:
    """A full stop and `did_you_mean` for a text that is close to one of the texts among the choices; "" otherwise."""
    meant = did_you_mean(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
    return meant and f".{meant}"


def either(words: Sequence[str], last: str = "or") -> str:
    """Joins words as in `a`, `a or b`, `a, b or c`; `last` replaces "or"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def with_article(words: str) -> str:
    """Puts the indefinite article in front: `a list`, `an integer`."""
    return f"{'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"


def one_line(text: str, limit: int = 300) -> str:
    """The text on a single line, cut with an ellipsis if it is longer than `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def error_line(error: BaseException) -> str:
    """An exception's type and message as one short line."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # the __str__ of a plugin's exception class may raise
        text = ""
    return one_line(f"{name}: {text}" if text else name)


def show(value: object) -> str:
    """Any value as a short text on one line, for messages."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return one_line(_SHORT.repr(value), 80)
    except Exception:  # for example, repr of an integer with thousands of digits raises
        return "a value that cannot be shown"


def got(value: object) -> str:
    """A value with its type in a config file's words, for messages: `1.7 (float)`."""
    if value is None:
        return "nothing"
    kind = next((word for known, word in _KINDS.items() if isinstance(value, known)), type(value).__name__)
    return f"{show(value)} ({kind})"
