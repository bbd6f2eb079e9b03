"""Shared parts of all checks: the error, calling the component, watching global state, comparing results."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, NoReturn, TypeAlias, TypeVar

import attrs
import numpy
import torch
from attrs import frozen
from torch import Tensor

T = TypeVar("T")


class ConformanceError(AssertionError):
    """A component breaks its contract; the text names the component and says what is wrong and what to do."""


class _Wanted(Exception):
    """Raised by a check inside a session, to see whether the session passes it on."""


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

    def require(self, holds: object, wrong: str) -> None:
        """Reports a fault if `holds` is false.

        Args:
            holds: the condition that the component has to meet; a tensor has one element.
            wrong: what is wrong and what to do, in words.

        Raises:
            ConformanceError: `holds` is false.
        """
        if not holds:
            self.fail(wrong)

    @contextmanager
    def reporting(self, what: str, *, allow: tuple[type[Exception], ...] = (), hint: str = "") -> Iterator[None]:
        """Reports an exception of the `with` block.

        Args:
            what: name of the called method, for the error text.
            allow: exceptions that are passed on instead of being reported.
            hint: likely cause of the exception and what to do, for the error text.

        Raises:
            ConformanceError: the block raised an exception.
        """
        passed: tuple[type[Exception], ...] = (ConformanceError, *allow)
        try:
            yield
        except passed:
            raise
        except Exception as error:
            said = f"{what} raised {type(error).__name__}: {error}{hint and f' ({hint})'}"
            raise ConformanceError(f"{self.title}: {said}") from error

    @contextmanager
    def unchanged(self, wrong: str, read: Callable[[], object]) -> Iterator[None]:
        """Checks that the `with` block changes nothing of what `read` returns.

        Args:
            wrong: what is wrong otherwise and what to do, in words.
            read: returns the tensors to compare, alone or in containers.

        Raises:
            ConformanceError: something was changed.
        """
        before = copy.deepcopy(read())
        yield
        self.require(same(before, read()), wrong)

    def once(self, what: str, method: Callable[..., T], *args: Any, seed: int = 1, hint: str = "") -> T:
        """Calls the component once, after seeding the global random generators.

        Args:
            what: name of the called method, for the error text.
            method: makes the call.
            args: arguments of `method`.
            seed: seed of the global random generators.
            hint: likely cause of an unexpected exception, for the error text.

        Returns:
            The call's result.

        Raises:
            ConformanceError: the call raised an exception or changed global state.
        """

        def made() -> T:
            with undisturbed(self, what, seed), self.reporting(what, hint=hint):
                return method(*args)

        # A first call may import a library that draws from Python's generator when it is loaded, so it gets a second
        # try, in which drawing is a fault.
        try:
            return made()
        except _ImportedSomething:
            return made()

    def call(self, what: str, method: Callable[..., T], *args: Any, hint: str = "") -> T:
        """Calls the component twice with different global seeds and checks that both results are equal.

        Args:
            what: name of the called method, for the error text.
            method: makes the call; generators that it passes must have the same seed each time.
            args: arguments of `method`.
            hint: likely cause of an unexpected exception, for the error text.

        Returns:
            The result.

        Raises:
            ConformanceError: a call raised an exception or changed global state, or the results differ.
        """
        first, second = (self.once(what, method, *args, seed=seed, hint=hint) for seed in (1, 2))
        if same(first, second):
            return first
        if same(first, self.once(what, method, *args, hint=hint)):
            self.fail(
                f"{what} depends on a global generator (torch's, numpy's or Python's); draw from the generator that is "
                "passed in, or runs are not reproducible"
            )
        self.fail(
            f"{what} gives another result when it is called again with the same arguments: it keeps state between "
            "calls, or is not deterministic; a method has to be a function of its arguments, or runs are not "
            "reproducible"
        )

    def again(self, what: str, before: object, method: Callable[..., object], *args: Any) -> None:
        """Repeats a call after other calls and checks that the result is the earlier one.

        Args:
            what: name of the called method, for the error text.
            before: the earlier result.
            method: makes the call.
            args: arguments of `method`.

        Raises:
            ConformanceError: the result differs, so the component keeps state between calls.
        """
        self.require(
            same(before, self.once(what, method, *args)),
            f"{what} gives another result after calls with other arguments: it keeps state between calls; nothing may "
            "be remembered outside the tensors that are passed in and returned",
        )

    def passes_on(self, session: AbstractContextManager[object]) -> None:
        """Checks that a session passes on an exception that is raised inside it.

        Raises:
            ConformanceError: the exception does not leave the session.
        """
        try:
            with session:
                raise _Wanted
        except _Wanted:
            return
        self.fail("open swallows an exception that is raised inside its session; let it out")


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
        parts = [attrs.asdict(x, recurse=False) for x in (a, b) if type(x) is type(a)]
        return len(parts) == 2 and same(*parts)
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)


#: How to read and to set each global random generator, and each global setting.
_Table: TypeAlias = Mapping[str, tuple[Callable[[], Any], Callable[[Any], object]]]
_GENERATORS: _Table = {
    "torch's": (torch.random.get_rng_state, torch.random.set_rng_state),
    "numpy's": (numpy.random.get_state, numpy.random.set_state),
    "Python's": (random.getstate, random.setstate),
}
_SETTINGS: _Table = {
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "choice of deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
}


def _read(table: _Table) -> dict[str, Any]:
    return {name: get() for name, (get, _) in table.items()}


def _set_generators(states: Mapping[str, Any]) -> None:
    for name, (_, put) in _GENERATORS.items():
        put(states[name])


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


@contextmanager
def restored_settings() -> Iterator[dict[str, Any]]:
    """Gives the global settings to a `with` block, and restores them and all global generators in any case."""
    generators, settings = _read(_GENERATORS), _read(_SETTINGS)
    try:
        yield settings
    finally:
        _set_generators(generators)
        for name, (get, put) in _SETTINGS.items():
            if get() != settings[name]:
                put(settings[name])


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
    with restored_settings() as settings:
        seeded, modules = _seeded(seed), len(sys.modules)
        _set_generators(seeded)
        yield
        untouched = _fingerprints(seeded)
        for name, state in _fingerprints(_read(_GENERATORS)).items():
            if name not in ignore and state != untouched[name]:
                imported = name == "Python's" and len(sys.modules) > modules
                raise (_ImportedSomething if imported else ConformanceError)(
                    f"{subject.title}: {what} draws from {name} global generator (or seeds it); draw from the "
                    "generator that is passed in, or runs are not reproducible"
                )
        for name, value in _read(_SETTINGS).items():
            wrong = f"{what} changes the global {name} from {settings[name]} to {value}; put it back"
            subject.require(value == settings[name], wrong)


def clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors, each with its own storage."""
    return {key: t.detach().clone() for key, t in tensors.items()}
