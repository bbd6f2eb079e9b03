"""A simulated GPU, which finds code that assumes the CPU on machines without a GPU.

Tensors on the simulated device report the device `meta`, but their numbers are in the CPU's memory. As on a GPU, an
operation that mixes them with CPU tensors raises an error; CPU scalars and CPU index tensors are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ddfw.testing._common import Checked

_ELSEWHERE = torch.device("meta")
_CPU = torch.device("cpu")
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


class _Elsewhere(torch.Tensor):
    """A tensor that claims to be on the simulated device and keeps its numbers in the CPU tensor `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Elsewhere:
        layout = held.shape, held.stride(), held.storage_offset()
        made: _Elsewhere = torch.Tensor._make_wrapper_subclass(cls, *layout, dtype=held.dtype, device=_ELSEWHERE)
        made.held = held
        return made

    def tolist(self) -> Any:
        """The numbers as nested lists."""
        return self.held.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Runs an operation on the CPU and puts its result on the device where a GPU would have it."""
    leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    moved = any(isinstance(t, _Elsewhere) for t in leaves)
    if moved:
        _refuse_mixture(func._schema.name, args, leaves)
        _refuse_writing_here(func._schema, args, kwargs)
    asked = kwargs.get("device")
    there = moved if asked is None else torch.device(asked).type == _ELSEWHERE.type
    given = args, kwargs
    args, kwargs = tree_map(lambda t: t.held if isinstance(t, _Elsewhere) else t, (args, dict(kwargs)))
    if asked is not None and there:
        kwargs = {**kwargs, "device": _CPU}
    found = func(*args, **kwargs)
    if torch.Tag.inplace_view in func.tags and isinstance(given[0][0], _Elsewhere):
        # An operation such as unsqueeze_ gives its tensor another shape, which whoever called it goes on with.
        with no_dispatch():
            func(*given[0], **given[1])
        return given[0][0]
    return tree_map(lambda t: _Elsewhere(t) if isinstance(t, Tensor) else t, found) if there else found


def _refuse_mixture(name: str, args: tuple[Any, ...], leaves: list[Tensor]) -> None:
    if name in ("aten::copy_", "aten::_to_copy"):
        return
    if name in _INDEXING and isinstance(args[0], _Elsewhere):
        leaves = [t for t in tree_leaves((args[0], args[2:])) if isinstance(t, Tensor)]
    if any(not isinstance(t, _Elsewhere) and t.ndim > 0 for t in leaves):
        raise RuntimeError(f"{name.removeprefix('aten::')} mixes a tensor of the CPU with tensors of the device")


def _refuse_writing_here(schema: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """A number of the CPU may be read by an operation of the device, but not written, as in `total += loss`."""
    if schema.name == "aten::copy_":
        return
    for position, argument in enumerate(schema.arguments):
        given = args[position] if position < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(given, Tensor) and not isinstance(given, _Elsewhere):
            raise RuntimeError(f"{schema.name.removeprefix('aten::')} writes what is on the device to the CPU")


class _Operations(TorchDispatchMode):
    """Catches operations that have no simulated tensor among their inputs: tensor creation and moves to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Makes `torch.tensor(values, device="meta")` keep its values, which PyTorch drops."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor and isinstance(args[0], _Elsewhere):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(_ELSEWHERE)
        return func(*args, **kwargs)


@contextmanager
def _stand_in() -> Iterator[torch.device]:
    with _Operations(), _Literals():  # type: ignore[no-untyped-call]
        yield _ELSEWHERE


def elsewhere(subject: Checked, what: str, check: Callable[[torch.device], object]) -> None:
    """Runs a check on the simulated GPU, and on a real one if the machine has one.

    Args:
        subject: the component.
        what: name of the checked method, for the error text.
        check: moves its tensors to the device that it gets, and calls the component.

    Raises:
        ConformanceError: the component does not work on one of these devices.
    """
    places: list[AbstractContextManager[torch.device]] = [_stand_in()]
    if torch.cuda.is_available():
        places.append(nullcontext(torch.device("cuda")))
    wrong = f"{what} hard-codes a device: with tensors on an accelerator it"
    hint = "make constants with device=x.device, or move them with .to(x)"
    for place in places:
        with place as device, subject.reporting(wrong, hint=hint):
            check(device)


def require_there(subject: Checked, what: str, tensor: Tensor, device: torch.device) -> None:
    """Checks that a result is on the device of its inputs.

    Args:
        subject: the component.
        what: name of the checked method, for the error text.
        tensor: the result.
        device: the device of the inputs.

    Raises:
        ConformanceError: the result is on another device.
    """
    subject.require(
        tensor.device.type == device.type,
        f"{what} hard-codes a device: given tensors on an accelerator it gives one on {tensor.device}; leave tensors "
        "where they are",
    )
