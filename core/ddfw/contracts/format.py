"""Formats of learned sets, which plugins offer; importing this does not import torch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from attrs import field, frozen
from attrs.validators import and_, deep_iterable, instance_of, matches_re, min_len

from ddfw.contracts.command import NAME, TARGET


@frozen(kw_only=True)
class Format:
    """A format that learned sets are written in, read from, or both; its modules are imported when they are used.

    What is common to all formats is ddfw's: the new folder appears whole or not at all, and gets a card.json with this
    format's name and the sha256 of every file; before an export is read, every file that its card names is verified.

    Args:
        name: the word that users type after `--format`; it is recorded in the card of an export.
        summary: one sentence on what is written and read.
        suffixes: endings of files by which a path without a card is recognised; `".csv"` is short for the pattern
            `"*.csv"`.
        patterns: names of files by which a path without a card is recognised, relative to a folder (`"images*.pt"`, or
            `"*/*.png"` for folders of pictures); () where only exports are read. Files nearer to the path decide before
            those in folders below it, and a path that fits two formats is refused.
        reader: `module:attribute` of a function (path, card) that returns a `ddfw.ImageSet`; "" for none. Of an export
            it gets the folder and its card, reads only files that `card["sha256"]` names, and returns images, targets
            and whether these are pixels: the card says the rest. Of anything else it gets the path, which fits
            `patterns`, and {} for a card.
        writer: `module:attribute` of a function (learned, folder) that writes files of a `ddfw.SyntheticSet` into an
            empty folder and returns facts for the card's `export` as JSON has them; "" for none.
    """

    name: str = field(validator=NAME)
    summary: str = field(validator=and_(instance_of(str), min_len(1)))
    patterns: tuple[str, ...] = field(
        default=(), validator=deep_iterable(matches_re(r"[^/]+(/[^/]+)*"), instance_of(tuple))
    )
    suffixes: tuple[str, ...] = field(
        default=(), validator=deep_iterable(matches_re(r"\.[A-Za-z0-9.]+"), instance_of(tuple))
    )
    reader: str = field(default="", validator=lambda i, a, v: v == "" or TARGET(i, a, v))
    writer: str = field(default="", validator=lambda i, a, v: v == "" or TARGET(i, a, v))

    @property
    def globs(self) -> tuple[str, ...]:
        """The patterns, those of the suffixes among them."""
        return (*self.patterns, *(f"*{suffix}" for suffix in self.suffixes))

    def recognises(self, path: Path, depth: int) -> bool:
        """Whether some file of this format is at a path.

        Args:
            path: a file, or a folder.
            depth: how many folders below the folder to look; 0 means in the folder itself, or at the file.
        """
        patterns = [p for p in self.globs if p.count("/") == depth]
        if path.is_file():
            return any(fnmatchcase(path.name, p) for p in patterns if depth == 0)
        return any(next(path.glob(p), None) is not None for p in patterns)
