"""Commands and formats of learned sets, which plugins offer beside components; importing this does not import torch."""

from __future__ import annotations

import re

from attrs import field, frozen
from attrs.validators import and_, deep_iterable, instance_of, matches_re, min_len

_NAME = matches_re(r"[a-z][a-z0-9_-]*")
_TARGET = matches_re(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", flags=re.ASCII)


@frozen(kw_only=True)
class Command:
    """A command of `ddfw`; its module is imported when it is called, and not for `ddfw --help`.

    Args:
        name: the word that users type after `ddfw`.
        summary: one sentence for the list in `ddfw --help`.
        target: `module:attribute` of a `click.Command`.
    """

    name: str = field(validator=_NAME)
    summary: str = field(validator=and_(instance_of(str), min_len(1)))
    target: str = field(validator=_TARGET)


@frozen(kw_only=True)
class Format:
    """A format that learned sets are exported to, read from, or both; its modules are imported when they are used.

    Args:
        name: the word that users type after `--format`; it is recorded in the card of an export.
        summary: one sentence on what is written or read.
        suffixes: endings of single files that are read in this format (`".pt"`); () if only folders with a card are.
        reader: `module:attribute` of a function from a path (pathlib.Path) to a `ddfw.ImageSet`; "" for none.
        writer: `module:attribute` of a function from a `ddfw.SyntheticSet` and a new, empty folder to a mapping of
            facts for the export's card; "" for none.
    """

    name: str = field(validator=_NAME)
    summary: str = field(validator=and_(instance_of(str), min_len(1)))
    suffixes: tuple[str, ...] = field(
        default=(), converter=tuple, validator=deep_iterable(matches_re(r"\.[A-Za-z0-9]+"))
    )
    reader: str = field(default="", validator=lambda i, a, v: v == "" or _TARGET(i, a, v))
    writer: str = field(default="", validator=lambda i, a, v: v == "" or _TARGET(i, a, v))
