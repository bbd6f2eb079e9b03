"""What the checks of all kinds share: the error, global state, comparison, and the component as a configuration."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn, TypeVar

import attrs
import numpy
import torch
from attrs import frozen
from torch import Tensor

T = TypeVar("T")


class ConformanceError(AssertionError):
    """A component breaks its contract; the text names it, what is wrong and what to do."""


class _ImportedSomething(ConformanceError):
    """Python's global generator moved while modules were imported."""


@frozen
class Subject:
    """The component under check, and how its faults are told.

    Args:
        kind: the kind's id (`param`).
        component: an instance.
    """

    kind: str
    component: Any

    @property
    def title(self) -> str:
        """Kind and name."""
        name = getattr(type(self.component), "name", None)
        return f"{self.kind} {name if isinstance(name, str) and name else type(self.component).__name__}"

    def fail(self, wrong: str) -> NoReturn:
        """Says what is wrong.

        Raises:
            ConformanceError: always.
        """
        raise ConformanceError(f"{self.title}: {wrong}")

    def require(self, holds: bool, wrong: str) -> None:
        """Says what is wrong unless `holds`.

        Raises:
            ConformanceError: it does not hold.
        """
        if not holds:
            self.fail(wrong)

    def once(
        self,
        what: str,
        make: Callable[[], T],
        *,
        seed: int = 1,
        allow: tuple[type[Exception], ...] = (),
        hint: str = "",
    ) -> T:
        """Calls the component once, with freshly seeded global generators.

        Args:
            what: the method, for the message.
            make: calls it.
            seed: of the global generators.
            allow: errors that may pass.
            hint: what a surprising error probably means.

        Raises:
            ConformanceError: it raised, or changed global state.
        """
        # A first call may import a library that draws from Python's generator while it is loaded; the second may not.
        try:
            with undisturbed(self, what, seed):
                return self._made(what, make, allow, hint)
        except _ImportedSomething:
            with undisturbed(self, what, seed):
                return self._made(what, make, allow, hint)

    def _made(self, what: str, make: Callable[[], T], allow: tuple[type[Exception], ...], hint: str) -> T:
        try:
            return make()
        except Exception as error:
            if isinstance(error, (ConformanceError, *allow)):
                raise
            said = f"{type(error).__name__}: {error}"
            raise ConformanceError(f"{self.title}: {what} raised {said}{hint and f' ({hint})'}") from error

    def call(self, what: str, make: Callable[[], T], *, allow: tuple[type[Exception], ...] = (), hint: str = "") -> T:
        """Calls the component twice, under different global seeds, and gives the one result that both have to have.

        Args:
            what: the method, for the message.
            make: calls it, with a fresh generator of one seed each time.
            allow: errors that may pass.
            hint: what a surprising error probably means.

        Raises:
            ConformanceError: it raised, changed global state, or gave two results.
        """
        first, second = (self.once(what, make, seed=seed, allow=allow, hint=hint) for seed in (1, 2))
        if same(first, second):
            return first
        if same(first, self.once(what, make, seed=1, allow=allow, hint=hint)):
            self.fail(
                f"{what} depends on a global generator (torch's, numpy's or Python's); draw from the generator that is "
                "passed in, or runs are not reproducible"
            )
        self.fail(
            f"{what} gives another result when it is called again with the same arguments: it keeps state between "
            "calls, or is not deterministic; a method has to be a function of its arguments, or runs are not "
            "reproducible"
        )

    def again(self, what: str, before: object, make: Callable[[], object]) -> None:
        """Requires that a call gives what it gave before, now that others were made in between.

        Raises:
            ConformanceError: it gives something else.
        """
        if not same(before, self.once(what, make)):
            self.fail(
                f"{what} gives another result after calls with other arguments: it keeps state between calls; nothing "
                "may be remembered outside the tensors that are passed in and returned"
            )


def generator(seed: int) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator().manual_seed(seed)


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal: tensors by dtype, shape and bits (NaN equals NaN), containers by their parts."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        alike = isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return alike and bool(torch.allclose(a.detach(), b.detach(), rtol=0, atol=0, equal_nan=a.is_floating_point()))
    if isinstance(a, numpy.ndarray):
        return isinstance(b, numpy.ndarray) and numpy.array_equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if attrs.has(type(a)):
        names = [f.name for f in attrs.fields(type(a))]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)


def _generators() -> dict[str, Any]:
    return {
        "torch's": torch.random.get_rng_state(),
        "numpy's": numpy.random.get_state(),
        "Python's": random.getstate(),
    }


def _fingerprints(states: Mapping[str, Any]) -> dict[str, object]:
    """The states in a form in which == is fast."""
    _, key, *rest = states["numpy's"]
    return {**states, "torch's": states["torch's"].numpy().tobytes(), "numpy's": (key.tobytes(), *rest)}


@cache
def _seeded(seed: int) -> dict[str, Any]:
    """The states of generators with this seed, made once: seeding takes longer than most calls that are checked."""
    return {
        "torch's": generator(seed).get_state(),
        "numpy's": numpy.random.RandomState(seed).get_state(),
        "Python's": random.Random(seed).getstate(),
    }


def _set_generators(states: Mapping[str, Any]) -> None:
    torch.random.set_rng_state(states["torch's"])
    numpy.random.set_state(states["numpy's"])
    random.setstate(states["Python's"])


def _settings() -> dict[str, object]:
    return {
        "gradient mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "number of threads": torch.get_num_threads(),
        "choice of deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def _put_back(generators: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    _set_generators(generators)
    setters: dict[str, Callable[[Any], object]] = {
        "gradient mode": torch.set_grad_enabled,
        "default dtype": torch.set_default_dtype,
        "default device": torch.set_default_device,
        "number of threads": torch.set_num_threads,
        "choice of deterministic algorithms": torch.use_deterministic_algorithms,
    }
    for name, value in _settings().items():
        if value != settings[name]:
            setters[name](settings[name])


@contextmanager
def checking(subject: Subject, base: type, *, allow: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Checks the class, then runs a check of its methods; puts global state back whatever happens.

    Args:
        subject: the component.
        base: its kind's base class.
        allow: errors that may pass.

    Raises:
        ConformanceError: the first fault, or any other error of the component.
    """
    generators, settings = _generators(), _settings()
    try:
        check_component(subject, base)
        with torch.enable_grad():
            yield
    except Exception as error:
        if isinstance(error, (ConformanceError, *allow)):
            raise
        raise ConformanceError(f"{subject.title}: a method raised {type(error).__name__}: {error}") from error
    finally:
        _put_back(generators, settings)


@contextmanager
def undisturbed(subject: Subject, what: str, seed: int = 1, *, ignore: tuple[str, ...] = ()) -> Iterator[None]:
    """Seeds the global generators, watches them and the global settings, and puts everything back.

    Args:
        subject: the component.
        what: the method, for the message.
        seed: of the global generators.
        ignore: whose generators may be used.

    Raises:
        ConformanceError: the block changed one of them.
    """
    generators, settings = _generators(), _settings()
    seeded, modules = _seeded(seed), len(sys.modules)
    _set_generators(seeded)
    try:
        yield
        untouched = _fingerprints(seeded)
        for name, state in _fingerprints(_generators()).items():
            if name not in ignore and state != untouched[name]:
                imported = name == "Python's" and len(sys.modules) > modules
                raise (_ImportedSomething if imported else ConformanceError)(
                    f"{subject.title}: {what} draws from {name} global generator (or seeds it); draw from the "
                    "generator that is passed in, or runs are not reproducible"
                )
        for name, value in _settings().items():
            if value != settings[name]:
                subject.fail(f"{what} changes the global {name} from {settings[name]} to {value}; put it back")
    finally:
        _put_back(generators, settings)


def check_component(subject: Subject, base: type) -> None:
    """The class is its own configuration: final, frozen, with documented options that survive a config file.

    Raises:
        ConformanceError: it is not.
    """
    component, cls = subject.component, type(subject.component)
    if not isinstance(component, base):
        given = f"the class {component.__name__}; pass an instance" if isinstance(component, type) else cls.__name__
        subject.fail(f"expected an instance of a subclass of {base.__name__}, got {given}")
    subject.require(
        isinstance(getattr(cls, "name", None), str) and bool(cls.name),
        "has no name; set `name: ClassVar[str]`, which is what users type",
    )
    subject.require(bool(cls.__doc__), "has no docstring; its first line is what `ddfw list` shows")
    subject.require(getattr(cls, "__final__", False), "is not final; mark the class with typing's @final")
    subject.require(
        attrs.has(cls) and "__attrs_attrs__" in vars(cls),
        "is not an attrs class of its own; decorate it with @frozen(kw_only=True)",
    )
    _check_frozen(subject)
    for field in (f for f in attrs.fields(cls) if f.init):
        subject.require(field.kw_only, f"option {field.name} can be given by position; use @frozen(kw_only=True)")
        subject.require(
            bool(field.metadata.get("help")), f"option {field.name} has no help; define it with ddfw.option(…, help=…)"
        )
    _check_equal(subject)
    _check_config(subject)


def _check_frozen(subject: Subject) -> None:
    component: Any = subject.component
    try:
        component.a_name_that_is_new = 1
    except AttributeError:
        return
    object.__delattr__(component, "a_name_that_is_new")
    subject.fail("can be changed; use @frozen(kw_only=True), since a component is a value and holds no state")


def _check_equal(subject: Subject) -> None:
    copy = attrs.evolve(subject.component)
    try:
        alike = copy == subject.component and hash(copy) == hash(subject.component)
    except TypeError as error:
        subject.fail(f"cannot be hashed ({error}); options hold tuples, not lists or tensors")
    subject.require(alike, "differs from a copy with the same options; leave == to attrs")


def _check_config(subject: Subject) -> None:
    """Options → TOML text → options gives an equal component."""
    from ddfw.app.catalog import through_toml

    try:
        found = through_toml(subject.component)
    except Exception as error:
        raise ConformanceError(
            f"{subject.title}: its options do not survive a configuration file ({type(error).__name__}: {error}); "
            "options are numbers, texts, booleans, and tuples or tables of these"
        ) from error
    if found != subject.component:
        subject.fail(
            f"comes back from its configuration file as {found}, not as {subject.component}; an option that may be "
            "None needs the default None"
        )


def is_scalar(value: object) -> bool:
    """Whether a value is a scalar floating tensor."""
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies with storage of their own."""
    return {key: t.detach().clone() for key, t in tensors.items()}


def storages(tensors: Sequence[Tensor]) -> list[int]:
    """The address of each tensor's storage; tensors without elements left out."""
    return [t.untyped_storage().data_ptr() for t in tensors if t.numel()]
