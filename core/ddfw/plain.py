"""Text from outside, made safe to show: a terminal obeys nothing that a name, a path, a value or an error holds."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

#: A shown value is cut after so many characters.
LONGEST = 400
#: Characters that count as letters or marks and yet show nothing: joiners, fillers and selectors of variants.
_BLANK = frozenset(
    map(chr, (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, *range(0xFE00, 0xFE0F), 0xFFA0))
) | frozenset(map(chr, range(0xE0100, 0xE01F0)))
#: Words that are cut in messages; paths are shorter.
_WORD = re.compile(r"\S{400,}")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def printable(value: object, limit: int = LONGEST, tail: int = 0) -> str:
    r"""A value as one line of text that a terminal only shows: nothing in it moves, colours, hides or reorders.

    Control and format characters (escape sequences, bidi marks), line breaks and invisible characters are written as
    escapes (`\u202e`).

    Args:
        value: anything; its `str` is shown.
        limit: what is longer is cut; `…` stands for what is left out.
        tail: of a longer text, so many of its last characters stay.
    """
    text = _text(value)
    long = len(text) > limit
    shown = text[: limit - tail] + text[len(text) - tail :] if long else text
    if not shown.isprintable() or not _BLANK.isdisjoint(shown):
        shown = "".join(map(_visible, shown))
    return f"{shown[: limit - tail - 1]}…{shown[len(shown) - tail :]}" if long or len(shown) > limit else shown


def message_line(text: object) -> str:
    """A line of an error, a warning or a note as `printable`, long words and long lines cut in their middle."""
    return printable(_WORD.sub(lambda word: f"{word[0][:250]}…{word[0][-130:]}", _text(text)), 1000, 380)


def printable_lines(value: object, limit: int = 5000) -> str:
    """As `printable`, of a text of several lines, which stay lines; tabs stay too."""
    text = _text(value)
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(c if c in "\n\t" else _visible(c) for c in cut)


def printable_json(value: Mapping[str, Any] | Sequence[Any], indent: int | None = None) -> str:
    """JSON for standard output, which may be a terminal: what `printable` escapes is escaped as JSON escapes it."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text
    # Outside its texts, JSON has no characters but line breaks and printable ASCII.
    return "".join(c if c == "\n" or _visible(c) == c else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in text)


def _text(value: object) -> str:
    try:
        return value if type(value) is str else str(value)
    except Exception:  # a plugin's `__str__` may raise, as does that of an integer of thousands of digits
        return f"a value of type {type(value).__name__} that cannot be shown"


def _visible(character: str) -> str:
    """The character, or its escape if it shows nothing or changes how others are shown."""
    shows = character.isprintable() or unicodedata.category(character) == "Zs"
    if shows and character not in _BLANK:
        return character
    point = ord(character)
    return _SHORT.get(character, f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}")
