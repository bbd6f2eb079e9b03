"""Watches the components of third parties: what one of them does wrong is told with its plugin, name and method.

`watch` is called once for each class that a plugin offers. From then on every method of the contract

* turns whatever it raises into a PluginError, except errors that the contract allows and a user's interrupt,
* must not change its arguments in place, nor tensors that an earlier call was given,
* must return what the contract promises (see `ddfw.contracts.promises`),
* prints to standard error, since standard output belongs to tables and `--json`.

Built-in components are not watched, so that this costs a run nothing that uses no plugin.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs

from ddfw.contracts.executor import ExecutorSession, TrainedExpert
from ddfw.contracts.promises import PROMISES, SESSION_PROMISES, Promise
from ddfw.errors import DdfwError, Interrupted, OptionError, PluginError, RegistryError, is_disk_error, prints_to_stderr
from ddfw.kinds import KINDS

if TYPE_CHECKING:
    from torch import Tensor

#: Errors that are told as they are: they have their own words and exit code, or came from the user.
_PASSED = (DdfwError, OptionError, RegistryError, KeyboardInterrupt, Interrupted)
#: Arguments that a component may change: they are its own.
_OWN = ("trajectories",)
#: Methods whose arguments live on, so that a component that keeps them could change them later.
_KEEPING = ("init",)

#: Class -> identity of the plugin that offers it, of every class that is watched.
_owners: dict[type, str] = {}
#: Tensors that components were given to read and might have kept, each with its label and version.
_lent: list[tuple[weakref.ref[Tensor], str, int]] = []


def watch(cls: type, kind: str, identity: str) -> None:
    """Watches a component's methods from now on; a class that is watched already stays as it is.

    Args:
        cls: the component's class.
        kind: id of its kind.
        identity: `distribution:entry-point` of the plugin that offers it.
    """
    if cls in _owners:
        return
    _owners[cls] = identity
    base = next(c for c in cls.__mro__ if c.__name__ == _base_names()[kind])
    for name, original in vars(base).items():
        if inspect.isfunction(original) and not name.startswith("_"):
            names = tuple(inspect.signature(original).parameters)[1:]
            setattr(cls, name, _watched(cls, name, names, PROMISES.get((kind, name))))


def broken(component: object, method: str, what: str) -> PluginError:
    """The error about a component that breaks the contract of its kind.

    Args:
        component: the component.
        method: the method that did it.
        what: what came, and what was expected.
    """
    return PluginError(f"{_title(component)} breaks its word in {method}: {what}")


def failed(component: object, method: str, error: BaseException) -> PluginError:
    """The error about a component of which a method raised something; names the line of the plugin's code.

    Args:
        component: the component.
        method: the method.
        error: what it raised.
    """
    return PluginError(f"{_title(component)} failed in {method}: {_words(error)}{_place(_file(component), error)}")


def watched_function(function: Callable[..., Any], owner: str, target: str) -> Callable[..., Any]:
    """A function of a plugin that names the plugin in what it raises, and prints to standard error.

    Args:
        function: the function.
        owner: identity of the plugin, and what it offers by the function.
        target: `module:function`, for the message.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            with prints_to_stderr():
                return function(*args, **kwargs)
        except BaseException as error:
            if _passes(error):
                raise
            place = _place(function.__code__.co_filename, error)
            raise PluginError(f"plugin {owner} failed in {target}: {_words(error)}{place}") from error

    return call


@functools.cache
def _base_names() -> dict[str, str]:
    return {kind.id: kind.base.rpartition(":")[2] for kind in KINDS}


def _title(component: object) -> str:
    """`plugin local:mine (param mine)`; without the plugin for a class that no third party's plugin offers."""
    cls = type(component)
    bases = {c.__name__ for c in cls.__mro__}
    kind = next((kind for kind, base in _base_names().items() if base in bases), "component")
    named = f"{kind} {getattr(cls, 'name', cls.__name__)}"
    return f"plugin {_owners[cls]} ({named})" if cls in _owners else named


def _words(error: BaseException) -> str:
    """An exception's type and message on one short line; the text of a plugin's exception may itself raise."""
    text = ""
    with contextlib.suppress(Exception):
        text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= 300 else f"{line[:299]}…"


def _file(component: object) -> str | None:
    """The file that defines a component's class."""
    return getattr(sys.modules.get(type(component).__module__), "__file__", None)


def _place(file: str | None, error: BaseException) -> str:
    """The innermost line of a file that ran, as ` (mine.py:31)`; "" if none did."""
    lines = [n for frame, n in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f" ({os.path.basename(str(file))}:{lines[-1]})" if lines else ""


def _passes(error: BaseException) -> bool:
    return isinstance(error, _PASSED) or is_disk_error(error)


@contextlib.contextmanager
def _guarded(component: object, method: str) -> Iterator[None]:
    """Names the component in whatever the block raises, and sends what it prints to standard error."""
    try:
        with prints_to_stderr():
            yield
    except BaseException as error:
        if _passes(error):
            raise
        raise failed(component, method, error) from error


def _watched(cls: type, method: str, names: tuple[str, ...], promise: Promise | None) -> Callable[..., Any]:
    """The method of a class, watched.

    Args:
        cls: the class.
        method: name of the method.
        names: names of its arguments in the contract.
        promise: says what is wrong with what it returned; None where anything may be returned.
    """
    raw = inspect.getattr_static(cls, method)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _compiling():
            return raw(self, *args, **kwargs)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        with _guarded(self, method):
            bound = raw.__get__(self, type(self)) if hasattr(raw, "__get__") else raw
        with _unchanged(self, method, given), _guarded(self, method):
            found = bound(*args, **kwargs)
        return _kept(self, method, promise, given, found)

    return functools.wraps(raw)(call) if callable(raw) else call


def _compiling() -> bool:
    """Whether PyTorch is tracing the call, where nothing can be watched."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def _kept(component: Any, method: str, promise: Promise | None, given: Mapping[str, Any], found: Any) -> Any:
    """What a method returned, once it was found to be what was promised; sessions and iterators are watched further."""
    if promise is not None:
        with _guarded(component, method):  # a plugin's object may raise in any comparison
            wrong = promise(component, given, found)
        if wrong:
            raise broken(component, method, wrong)
    if method in ("open", "assemble"):
        return _Context(component, method, found)
    if method in ("train_experts", "scatter"):
        return _items(component, method, found)
    if method == "build":
        _watch_module(component, given, found)
    return found


def _items(component: Any, method: str, found: Any) -> Iterator[Any]:
    """The items of an iterator of a plugin, whose code runs while it is read."""
    with _guarded(component, method):
        iterator = iter(found)
    while True:
        end = False
        with _guarded(component, method):
            try:
                item = next(iterator)
            except StopIteration:
                end = True
        if end:
            return
        if method == "train_experts" and not isinstance(item, TrainedExpert):
            raise broken(component, method, f"it yields a {type(item).__name__}, expected a TrainedExpert")
        yield item


# --- tensors that must stay as they are -----------------------------------------------------------------------------


@contextlib.contextmanager
def _unchanged(component: object, method: str, given: Mapping[str, Any]) -> Iterator[None]:
    """Refuses a call that changes a tensor in place that it was given, or that an earlier call was given."""
    before = [(tensor, label, tensor._version) for label, tensor in _tensors(given)]
    lent = [(tensor, label, version) for ref, label, version in _lent if (tensor := ref()) is not None]
    yield
    for tensor, label, version in (*before, *lent):
        if tensor._version != version:
            _lent.clear()
            raise broken(component, method, f"it changes {label} in place; work on a copy, such as {label}.clone()")
    if method in _KEEPING:
        known = {id(tensor) for tensor, _, _ in lent}
        _lent[:] = [entry for entry in _lent if entry[0]() is not None]
        _lent.extend((weakref.ref(t), label, version) for t, label, version in before if id(t) not in known)


def _tensors(given: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor among the arguments of a call, with words for it, such as `real.images`."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    waiting = [(name, value, 0) for name, value in given.items() if name not in _OWN]
    while waiting:
        label, value, depth = waiting.pop(0)
        if isinstance(value, torch.Tensor):
            with contextlib.suppress(RuntimeError):  # tensors of inference mode have no version
                _ = value._version
                yield label, value
        elif depth < 3 and isinstance(value, Mapping):
            waiting += [(f"{label}[{key!r}]", item, depth + 1) for key, item in value.items()]
        elif depth < 3 and isinstance(value, list | tuple):
            waiting += [(f"{label}[{i}]", item, depth + 1) for i, item in enumerate(value)]
        elif depth < 3 and attrs.has(type(value)):
            waiting += [(f"{label}.{f.name}", getattr(value, f.name), depth + 1) for f in attrs.fields(type(value))]


# --- what components hand out ---------------------------------------------------------------------------------------


class _Context:
    """The context manager of an executor or observer of a plugin; what it gives is watched as the component is."""

    def __init__(self, component: object, method: str, context: Any) -> None:
        self._component, self._method, self._context = component, method, context

    def __enter__(self) -> Any:
        with _guarded(self._component, self._method):
            found = self._context.__enter__()
        return found if self._method == "assemble" else _Session(self._component, found)

    def __exit__(self, cls: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            with _guarded(self._component, self._method):
                self._context.__exit__(cls, error, tb)  # its answer is not asked for: no plugin ends an error of a run
        except BaseException as other:
            if error is None or not isinstance(other, Exception):
                raise
            # The block's own error goes on; a generator-based context manager raises it anew.


class _Session:
    """An open session of an executor or observer of a plugin."""

    def __init__(self, component: object, session: object) -> None:
        self.__dict__.update(_component=component, _session=session)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """That of the session itself, so that `isinstance` finds what the plugin derived it from."""
        return type(self.__dict__["_session"])

    def __getattr__(self, name: str) -> Any:
        component, session = self.__dict__["_component"], self.__dict__["_session"]
        missing = False
        with _guarded(component, name):
            try:
                value = getattr(session, name)
            except AttributeError:
                if inspect.getattr_static(type(session), name, None) is not None:
                    raise
                missing = True
        if missing:
            raise AttributeError(f"the session of {_title(component)} has no {name}")
        promise = SESSION_PROMISES.get(name)
        if not callable(value):
            return _kept(component, name, promise, {}, value)
        names = _session_names(name)

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            with _unchanged(component, name, given), _guarded(component, name):
                found = value(*args, **kwargs)
            return _kept(component, name, promise, given, found)

        return call


@functools.cache
def _session_names(method: str) -> tuple[str, ...]:
    """The names of a session method's arguments in the contract."""
    function = inspect.getattr_static(ExecutorSession, method, None)
    return tuple(inspect.signature(function).parameters)[1:] if inspect.isfunction(function) else ()


def _watch_module(model: Any, given: Mapping[str, Any], module: Any) -> None:
    """Watches the `forward` of a network that a plugin built, which gets a class of its own for that."""
    with _guarded(model, "build"):  # a module that never called nn.Module's __init__ raises here
        list(module.parameters())
        module._classes_promised = given["spec"].num_classes
        module.__class__ = _watched_module(type(module), type(model))  # type: ignore[arg-type]


@functools.cache
def _watched_module(cls: Any, model: type) -> type:
    """A subclass of a module's class that names the model in whatever `forward` does wrong.

    Args:
        cls: the module's class, of the plugin or of PyTorch.
        model: class of the component that built it.
    """
    component: Any = object.__new__(model)

    def forward(self: Any, images: Any) -> Any:
        if _compiling():
            return cls.forward(self, images)
        with _guarded(component, "forward"):
            found = cls.forward(self, images)
        shape, expected = getattr(found, "shape", None), (len(images), self._classes_promised)
        if shape is None or tuple(shape) != expected:
            came = type(found).__name__ if shape is None else list(shape)
            raise broken(component, "forward", f"it returns {came}, expected logits {list(expected)}")
        return found

    return type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})
