"""The catalogue of components: it maps a kind and a name to a class, and calls a kind's hook at its first use."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from attrs import frozen

from ddfw_registry._types import fields
from ddfw_registry._words import error_line, show
from ddfw_registry.discovery import Discovery, PluginFailure
from ddfw_registry.errors import RegistryError
from ddfw_registry.offers import Offer, Offers, collect

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@frozen
class KindInfo:
    """One kind of component.

    Args:
        id: short, unique name.
        title: name of the kind in messages.
        hook: name of the hook by which plugins offer classes of this kind.
        base: import string (`package.module:Class`) of the base class of all components of this kind.
    """

    id: str
    title: str
    hook: str
    base: str


@frozen
class Entry:
    """One component that a user can name.

    Args:
        kind: id of the component's kind.
        name: the word that users type.
        cls: the component's class.
        plugin: identity (`distribution:entry-point`) of the plugin that offers it.
        distribution: name of the plugin's distribution.
        version: version of the plugin's distribution.
    """

    kind: str
    name: str
    cls: type
    plugin: str
    distribution: str
    version: str

    @property
    def summary(self) -> str:
        """First line of the class's docstring; "" if it has none."""
        lines = inspect.cleandoc(self.cls.__doc__ or "").splitlines()
        return lines[0] if lines else ""


class Catalog:
    """The components of all plugins, by kind and name.

    The hook of a kind is called once, when a component of that kind is first needed. A plugin whose hook raises, or a
    class that breaks the following rules, is left out and recorded in `failures`; everything else works.

    A component's class has to derive from the base of its kind, be concrete and be a frozen attrs class. Its class
    attribute `name` is the word that users type: lower-case letters, digits, `_` and `-`, starting with a letter.

    Args:
        kinds: the kinds, in the order in which they are shown.
        discovery: the loaded plugins.
        accepted: called once with each component, before it is handed out; None to call nothing.

    Raises:
        ValueError: two kinds have the same id, or the hook of a kind has no specification.
    """

    def __init__(
        self, kinds: Sequence[KindInfo], discovery: Discovery, accepted: Callable[[Entry], None] | None = None
    ) -> None:
        self._kinds = {kind.id: kind for kind in kinds}
        if len(self._kinds) != len(kinds):
            raise ValueError("two kinds have the same id")
        self._discovery = discovery
        self._accepted = accepted
        self._offers: dict[str, Offers[type]] = {}
        for kind in kinds:
            caller = getattr(discovery.manager.hook, kind.hook, None)
            if caller is None or not caller.has_spec():
                raise ValueError(f"kind {kind.id!r}: there is no hook {kind.hook!r}")

    @property
    def kinds(self) -> tuple[KindInfo, ...]:
        """All kinds, in the order in which they are shown."""
        return tuple(self._kinds.values())

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """The plugins and components that do not work; those of kinds whose hook was not called yet are missing."""
        return (*self._discovery.failures, *(f for offers in self._offers.values() for f in offers.failures))

    def kind(self, id: str) -> KindInfo:
        """The kind with this id.

        Raises:
            KeyError: there is no such kind, which is a mistake in the program and not of a user.
        """
        return self._kinds[id]

    def base(self, kind: str) -> type:
        """The base class of a kind's components, which is imported if necessary."""
        module, _, path = self.kind(kind).base.partition(":")
        found: object = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        if not isinstance(found, type):
            raise TypeError(f"kind {kind!r}: {self.kind(kind).base} is not a class")
        return found

    def entries(self, kind: str) -> tuple[Entry, ...]:
        """The components of a kind, sorted by name; names that are offered more than once are left out."""
        return tuple(_entry(kind, offer) for offer in self._ask(kind).entries.values())

    def duplicates(self, kind: str) -> dict[str, tuple[str, ...]]:
        """The names that are offered more than once, each with the identities of the plugins that offer it."""
        return dict(self._ask(kind).duplicates)

    def get(self, kind: str, name: str, path: str = "") -> Entry:
        """The component of this kind and name.

        Args:
            kind: id of the kind.
            name: what the user typed.
            path: where in the configuration it stands, for the message.

        Raises:
            UnknownComponentError: no plugin offers the name.
            DuplicateComponentError: the name is offered more than once.
        """
        return _entry(kind, self._ask(kind).get(name, path))

    def _ask(self, kind: str) -> Offers[type]:
        if kind not in self._offers:
            info, base = self.kind(kind), self.base(kind)
            self._offers[kind] = collect(
                self._discovery, info.hook, kind, info.title, lambda cls: _named(cls, base), "classes"
            )
            for offer in self._offers[kind].entries.values() if self._accepted is not None else ():
                self._accepted(_entry(kind, offer))  # type: ignore[misc]
        return self._offers[kind]


def _entry(kind: str, offer: Offer[type]) -> Entry:
    return Entry(kind, offer.name, offer.item, offer.plugin, offer.distribution, offer.version)


def _named(cls: object, base: type) -> tuple[str, type]:
    """Checks a class that a plugin offers and returns the name that users type, and the class.

    Raises:
        ValueError: the class breaks a rule for components.
    """
    try:
        wrong = _complaint(cls, base)
    except RegistryError as error:
        wrong = str(error)
    except Exception as error:  # a plugin's metaclass may raise anything
        wrong = error_line(error)
    if wrong or not isinstance(cls, type):
        name = getattr(cls, "__name__", None) if isinstance(cls, type) else None
        raise ValueError(f"{name or show(cls)}: {wrong}")
    return str(cls.name), cls  # type: ignore[attr-defined]  # _complaint has checked that it exists


def _complaint(cls: object, base: type) -> str:
    """The rule for components that a class breaks, in words; "" if it breaks none."""
    if not isinstance(cls, type):
        return "it is not a class"
    if not issubclass(cls, base):
        return f"it does not derive from {base.__name__}"
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        return f"it is abstract, these are not implemented: {missing}"
    # The class itself has to be an attrs class; in a class that only inherits from one, new fields are ignored.
    if "__attrs_attrs__" not in vars(cls):
        return "it is not an attrs class, decorate it with attrs.frozen"
    if not _is_frozen(cls):
        return "it can be changed after it was made, decorate it with attrs.frozen"
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        return "it has no class attribute `name` that says what users type"
    if _NAME.fullmatch(name) is None:
        return f"its name {name!r} is not made of lower-case letters, digits, _ and - with a letter first"
    fields(cls)  # type: ignore[arg-type]  # raises for an annotation that cannot be resolved
    return ""


def _is_frozen(cls: type) -> bool:
    # Not all supported versions of attrs tell whether a class is frozen, so setting an attribute is tried.
    probe: Any = object.__new__(cls)
    try:
        probe.name = ""
    except attrs.exceptions.FrozenError:
        return True
    except Exception:
        return False
    return False
