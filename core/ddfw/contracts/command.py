"""Commands that plugins offer; importing this does not import torch."""

from __future__ import annotations

import re

from attrs import field, frozen
from attrs.validators import and_, instance_of, matches_re, min_len

NAME = matches_re(r"[a-z][a-z0-9_-]*")
TARGET = matches_re(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", flags=re.ASCII)


@frozen(kw_only=True)
class Command:
    """A command of `ddfw`; its module is imported when it is called, and not for `ddfw --help`.

    Args:
        name: the word that users type after `ddfw`.
        summary: one sentence for the list in `ddfw --help`.
        target: `module:attribute` of a `click.Command`.
    """

    name: str = field(validator=NAME)
    summary: str = field(validator=and_(instance_of(str), min_len(1)))
    target: str = field(validator=TARGET)
