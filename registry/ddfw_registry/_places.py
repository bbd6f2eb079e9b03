"""Finds the places of a document in which an option could stand, for messages about keys that no table knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import frozen

from ddfw_registry import _types as t
from ddfw_registry._problems import Unknown
from ddfw_registry._words import closer, either, show, suggest, with_article
from ddfw_registry.catalog import Catalog, KindInfo

#: Most places that a message names.
_MOST = 4


@frozen
class _Table:
    """A table that a document could hold.

    Args:
        path: its dotted path.
        options: the options that may stand in it.
        owner: name of the component that it describes; "" for a table that describes none.
        chosen: whether the document has this component there; True for a table that describes none.
        several: whether it stands in a table of several such components.
    """

    path: str
    options: tuple[str, ...]
    owner: str
    chosen: bool
    several: bool = False


@frozen
class Places:
    """The tables that a document of a class can hold, each with its options.

    Args:
        catalog: the components that its tables may describe.
        bases: the base class of each kind of component.
        data: the document.
        cls: the class that it describes.
        path: where the document stands in a larger one.
    """

    catalog: Catalog
    bases: Mapping[type, KindInfo]
    data: Mapping[str, object]
    cls: type
    path: str

    def unknown(self, found: Unknown) -> str:
        """The message about a key that its table does not know: what it could mean, and what the table knows."""
        known = f" Known: {', '.join(found.known)}." if found.known else " There are no options here."
        return f"unknown option {show(found.key)}{self._meaning(found)}{known}"

    def _meaning(self, found: Unknown) -> str:
        """What an unknown key could mean, up to the full stop."""
        key, table = found.key, isinstance(found.value, Mapping)
        if owners := [name for name, options in self._relatives(found.cls).items() if key in options]:
            return f" of {getattr(found.cls, 'name', '')}; it belongs to {either(owners, 'and')}."
        near, tables = suggest(key, found.known), list(self._tables())
        if table:  # a table cannot stand in the place of an option
            kinds = [k for k in self.catalog.kinds if key in {e.name for e in self.catalog.entries(k.id)}]
            if kinds and near != key:
                place = next((p.path for p in tables if p.owner == key), kinds[0].id)
                return f"; {key} is {with_article(kinds[0].title)}, whose options stand in the table {place!r}."
            return f". Did you mean {near!r}?" if near else "."
        words = [option for place in tables if place.chosen for option in place.options]
        owners = [f"{p.path} = {p.owner}" for p in tables if key in p.options and not p.several]
        if key not in words and owners:
            return f"; it belongs to {either(owners[:_MOST], 'and')}."
        far = key if key in words else suggest(key, words)
        if near and not (far and closer(key, far, near)):
            return f". Did you mean {near!r}?"
        for name, options in self._relatives(found.cls).items():
            option = suggest(key, options)
            if option and not (far and closer(key, far, option)):
                return f". Did you mean {option!r} of {name}?"
        if far:
            return f". Did you mean {self._listed([p.path for p in tables if p.chosen and far in p.options], far)}?"
        return "."

    def _listed(self, tables: list[str], option: str) -> str:
        """Up to a few dotted paths of one option."""
        paths = [repr(f"{table}.{option}") for table in tables]
        return either(paths) if len(paths) <= _MOST else f"{', '.join(paths[:_MOST])}, …"

    def _relatives(self, cls: type) -> dict[str, tuple[str, ...]]:
        """The options of the other components of a component's kind, by their names."""
        kinds = [kind.id for base, kind in self.bases.items() if issubclass(cls, base)]
        entries = [e for kind in kinds for e in self.catalog.entries(kind) if e.cls is not cls]
        return {entry.name: _options(entry.cls) for entry in entries}

    def _tables(self) -> Iterator[_Table]:
        for field, form in t.fields(self.cls) if t.is_table(self.cls) else ():
            name = t.option_name(field)
            path, given = f"{self.path}.{name}" if self.path else name, self.data.get(name)
            for member in map(t.bare, t.members(form)):
                several = t.is_mapping(member)
                part = t.bare(t.element(member)) if several else member
                kind = self.bases.get(t.origin(part) or part)
                if kind is not None:
                    said = given.get("name") if isinstance(given, Mapping) else given
                    there = given if several and isinstance(given, Mapping) else [said]
                    for entry in self.catalog.entries(kind.id):
                        here = f"{path}.{entry.name}" if several else path
                        yield _Table(here, _options(entry.cls), entry.name, entry.name in there, several)
                elif t.is_table(member):
                    yield _Table(path, _options(member), "", True)


def _options(cls: Any) -> tuple[str, ...]:
    # Types are not resolved: that of another plugin's component may be impossible, which is none of this message's.
    return tuple(t.option_name(field) for field in attrs.fields(cls) if field.init)
