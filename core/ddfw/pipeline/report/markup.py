"""HTML of reports: escaped text, tables, and the frame of a page that loads nothing and runs nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Iterable, Sequence
from importlib import resources

from attrs import frozen

from ddfw.plain import printable, printable_lines

#: Texts from files are cut after so many characters.
_CUT = 300


def text(value: object, longest: int = _CUT) -> str:
    r"""A value as HTML text that shows exactly what it holds, in an element as in a quoted attribute.

    Characters that would hide or reorder others are written as escapes (`\u202e`).

    Args:
        value: anything; its `str` is shown.
        longest: what is longer is cut and ends in `…`.
    """
    return html.escape(printable(value, longest))


def code_text(value: str, longest: int = 5000) -> str:
    """As `text`, with line breaks and tabs kept, for `<pre>`."""
    return html.escape(printable_lines(value, longest))


def finite(value: object) -> float | None:
    """A number from a file, None if it is missing, no number or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: object) -> str:
    """A count with thousands separated, `–` if there is none."""
    number = finite(value)
    return "–" if number is None else f"{number:,.0f}"


def figure(value: object) -> str:
    """A number with four digits, `–` if there is none."""
    number = finite(value)
    return "–" if number is None else f"{number:.4g}"


def percent_text(mean: object, std: object = None) -> str:
    """A fraction as percent with one decimal, with its standard deviation; `–` if there is none."""
    first, second = finite(mean), finite(std)
    if first is None:
        return "–"
    return f"{100 * first:.1f} %" if second is None else f"{100 * first:.1f} ± {100 * second:.1f} %"


def bytes_text(count: object) -> str:
    """Bytes in their largest unit: `512 B`, `3.4 kB`, `1.2 MB`."""
    number = finite(count)
    if number is None:
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def html_table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = (), name: str = ""
) -> str:
    """A table in a box of its own, which scrolls and takes the focus, so that the page never scrolls sideways.

    Args:
        caption: what it shows, as text.
        columns: headings, as text.
        rows: cells, as HTML; the first of each row is its heading.
        numbers: columns that are aligned on their right.
        name: CSS class of the table.
    """
    kinds = [' class="n"' if index in numbers else "" for index in range(len(columns))]
    head = "".join(f'<th scope="col"{kind}>{text(column)}</th>' for column, kind in zip(columns, kinds, strict=True))
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    kind = f' class="{name}"' if name else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table{kind}>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names (text) with their values (HTML)."""
    return f"<dl>{''.join(f'<div><dt>{text(name)}</dt><dd>{value}</dd></div>' for name, value in pairs)}</dl>"


def paragraph(words: str, name: str = "") -> str:
    """A paragraph of text."""
    kind = f' class="{name}"' if name else ""
    return f"<p{kind}>{text(words, 3000)}</p>"


@frozen(kw_only=True)
class Section:
    """A part of a page with its heading.

    Args:
        anchor: its id in the page.
        title: its heading, as text.
        content: HTML; a section without content is left out.
    """

    anchor: str
    title: str
    content: str

    @property
    def html(self) -> str:
        """The section as it stands in the page."""
        return (
            f'<section id="{self.anchor}" aria-labelledby="{self.anchor}-h">'
            f'<h2 id="{self.anchor}-h">{text(self.title)}</h2>{self.content}</section>'
        )


def folded(title: str, content: str) -> str:
    """Content that is opened by a click on its title."""
    return f"<details><summary>{text(title)}</summary>{content}</details>" if content else ""


def page(title: str, header: str, sections: Iterable[Section]) -> str:
    """A whole page. Its policy allows its own style, by hash, and pictures that it holds, and nothing else.

    Args:
        title: of the document, as text.
        header: HTML above the content.
        sections: in their order; the page begins with links to them.
    """
    shown = [part for part in sections if part.content]
    links = "".join(f'<a href="#{part.anchor}">{text(part.title, 60)}</a>' for part in shown)
    content = "\n".join(part.html for part in shown)
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{style}</style></head>\n'
        f'<body><header>{header}<nav aria-label="Sections">{links}</nav></header>\n<main>{content}</main>\n'
        "<footer><p>Written by ddfw from the files of the run directory. This page loads nothing and runs nothing."
        "</p></footer></body></html>\n"
    )
