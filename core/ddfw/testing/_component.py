"""What every check begins with: the component's class and options follow the rules of all components."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from ddfw.testing._common import Checked, restored_settings


@contextmanager
def checking(kind: str, component: object, base: type, *, allow: tuple[type[Exception], ...] = ()) -> Iterator[Checked]:
    """Checks the component's class, runs the `with` block, and restores global state in any case.

    Args:
        kind: id of the component's kind.
        component: the component.
        base: the base class of its kind.
        allow: exceptions that are passed on instead of being reported.

    Raises:
        ConformanceError: the class or the block has a fault, or the block raised any other exception.
    """
    subject = Checked(kind, component)
    with restored_settings(), subject.reporting("a method", allow=allow):
        check_component(subject, base)
        with torch.enable_grad():
            yield subject


def check_component(subject: Checked, base: type) -> None:
    """Checks that the class is final and frozen, and that its options are documented and survive a config file.

    Raises:
        ConformanceError: the class breaks one of these rules.
    """
    component, cls = subject.component, type(subject.component)
    given = f"the class {component.__name__}; pass an instance" if isinstance(component, type) else cls.__name__
    wrong = f"expected an instance of a subclass of {base.__name__}, got {given}"
    subject.require(isinstance(component, base), wrong)
    name = getattr(cls, "name", None)
    named = isinstance(name, str) and name
    subject.require(named, "has no name; set `name: ClassVar[str]`, which is what users type")
    subject.require(cls.__doc__, "has no docstring; its first line is what `ddfw list` shows")
    subject.require(getattr(cls, "__final__", False), "is not final; mark the class with typing's @final")
    own = "__attrs_attrs__" in vars(cls)
    subject.require(own, "is not an attrs class of its own; decorate it with @frozen(kw_only=True)")
    _check_frozen(subject)
    for field in (f for f in attrs.fields(cls) if f.init):
        option = f"option {field.name}"
        subject.require(field.kw_only, f"{option} can be given by position; use @frozen(kw_only=True)")
        subject.require(field.metadata.get("help"), f"{option} has no help; define it with ddfw.option(…, help=…)")
    _check_equal(subject)
    _check_config(subject)


def _check_frozen(subject: Checked) -> None:
    component: Any = subject.component
    try:
        component.a_name_that_is_new = 1
    except AttributeError:
        return
    object.__delattr__(component, "a_name_that_is_new")
    subject.fail("can be changed; use @frozen(kw_only=True), since a component is a value and holds no state")


def _check_equal(subject: Checked) -> None:
    copy = attrs.evolve(subject.component)
    try:
        alike = copy == subject.component and hash(copy) == hash(subject.component)
    except TypeError as error:
        subject.fail(f"cannot be hashed ({error}); options hold tuples, not lists or tensors")
    subject.require(alike, "differs from a copy with the same options; leave == to attrs")


def _check_config(subject: Checked) -> None:
    """Checks that a component written to TOML and read back is equal."""
    from ddfw.config.catalog import through_toml

    hint = "options are numbers, texts, booleans, and tuples or tables of these"
    with subject.reporting("writing its options to a configuration file and reading them again", hint=hint):
        found = through_toml(subject.component)
    subject.require(
        found == subject.component,
        f"comes back from its configuration file as {found}, not as {subject.component}; an option that may be None "
        "needs the default None",
    )
