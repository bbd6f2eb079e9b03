"""Shared parts of all checks: the error, watching global state, comparing results, checking a component's options."""

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
    """A component breaks its contract; the text names the component and says what is wrong and what to do."""


class _ImportedSomething(ConformanceError):
    """A call drew from Python's global generator and also imported modules, which may have done so."""


@frozen
class Checked:
    """The component under check; its methods call the component and report faults.

    Args:
        kind: id of the component's kind, for example `param`.
        component: the component, an instance.
    """

    kind: str
    component: Any

    @property
    def title(self) -> str:
        """Kind and name of the component, with which every error text starts."""
        name = getattr(type(self.component), "name", None)
        return f"{self.kind} {name if isinstance(name, str) and name else type(self.component).__name__}"

    def fail(self, wrong: str) -> NoReturn:
        """Reports a fault.

        Args:
            wrong: what is wrong and what to do, in words.

        Raises:
            ConformanceError: always.
        """
        raise ConformanceError(f"{self.title}: {wrong}")

    def require(self, holds: bool, wrong: str) -> None:
        """Reports a fault if `holds` is false.

        Args:
            holds: the condition that the component has to meet.
            wrong: what is wrong and what to do, in words.

        Raises:
            ConformanceError: `holds` is false.
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
        """Calls the component once, after seeding the global random generators.

        Args:
            what: name of the called method, for the error text.
            make: makes the call.
            seed: seed of the global random generators.
            allow: exceptions that are passed on instead of being reported.
            hint: likely cause of an unexpected exception, for the error text.

        Returns:
            The call's result.

        Raises:
            ConformanceError: the call raised an exception or changed global state.
        """
        # A first call may import a library that draws from Python's generator when it is loaded, so it gets a second
        # try, in which drawing is a fault.
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
        """Calls the component twice with different global seeds and checks that both results are equal.

        Args:
            what: name of the called method, for the error text.
            make: makes the call; generators that it passes must have the same seed each time.
            allow: exceptions that are passed on instead of being reported.
            hint: likely cause of an unexpected exception, for the error text.

        Returns:
            The result.

        Raises:
            ConformanceError: a call raised an exception or changed global state, or the results differ.
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
        """Repeats a call after other calls and checks that the result is the earlier one.

        Args:
            what: name of the called method, for the error text.
            before: the earlier result.
            make: makes the call.

        Raises:
            ConformanceError: the result differs, so the component keeps state between calls.
        """
        if not same(before, self.once(what, make)):
            self.fail(
                f"{what} gives another result after calls with other arguments: it keeps state between calls; nothing "
                "may be remembered outside the tensors that are passed in and returned"
            )


def generator(seed: int) -> torch.Generator:
    """A new CPU generator with this seed."""
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
def checking(subject: Checked, base: type, *, allow: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Checks the component's class, runs the `with` block, and restores global state in any case.

    Args:
        subject: the component.
        base: the base class of its kind.
        allow: exceptions that are passed on instead of being reported.

    Raises:
        ConformanceError: the class or the block has a fault, or the block raised any other exception.
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
def undisturbed(subject: Checked, what: str, seed: int = 1, *, ignore: tuple[str, ...] = ()) -> Iterator[None]:
    """Checks that a `with` block changes no global random generator and no global setting, then restores them all.

    Args:
        subject: the component.
        what: name of the called method, for the error text.
        seed: the seed that global generators get before the block.
        ignore: owners of generators that the block may use, for example `Python's`.

    Raises:
        ConformanceError: the block changed a generator or a setting.
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


def check_component(subject: Checked, base: type) -> None:
    """Checks that the class is final and frozen, and that its options are documented and survive a config file.

    Raises:
        ConformanceError: the class breaks one of these rules.
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
    """Whether a value is a tensor without axes and of floating-point dtype."""
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors, each with its own storage."""
    return {key: t.detach().clone() for key, t in tensors.items()}


def storages(tensors: Sequence[Tensor]) -> list[int]:
    """The memory addresses of the tensors' storages, leaving out tensors without elements."""
    return [t.untyped_storage().data_ptr() for t in tensors if t.numel()]
