"""What is too large for this machine, found before memory is taken for it.

Shapes: P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch.nn.parameter import is_lazy

from ddfw.engine.machine import limits_of_memory
from ddfw.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

    from ddfw.contracts.dataset import ImageSpec
    from ddfw.contracts.model import AbstractModel

#: Vectors of P that a run holds at the very least: the module's own, a student's start and target, θ and a gradient.
VECTORS = 5
#: What PyTorch and Python say where a size cannot be had, in lower case.
_TOO_LARGE = ("allocate memory", "out of memory", "overflow", "too large", "cannot fit", "invalid shape dimension")


def total_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes of memory that a device has, whether or not they are free; None where that cannot be determined.

    On a CPU it is the smaller one of the machine's memory and the limits of this process's control groups.

    Args:
        device: the device.
        root: the folder that holds `proc` and `sys`; tests use one of their own.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return limits_of_memory(root) if device.type == "cpu" else None


def size_text(size: float) -> str:
    """A number of bytes with a unit, as `3.6 TB`."""
    power = min(5, int(math.log10(max(size, 1)) / 3))
    return f"{size / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB')[power]}"


def is_too_large(error: BaseException) -> bool:
    """Whether an exception says that something is too large to be held, or to be counted."""
    if isinstance(error, MemoryError | OverflowError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError | TypeError | ValueError) and any(word in words for word in _TOO_LARGE)


def largest_option(component: Any) -> str:
    """The name of a component's integer option of the largest value; "" if it has none."""
    values = {f.name: v for f in attrs.fields(type(component)) if type(v := getattr(component, f.name)) is int}
    return max(values, key=lambda name: values[name], default="")


@contextmanager
def sizes_named(component: Any) -> Iterator[None]:
    """Turns what is raised for a size that is too large into an error about the component's largest option.

    Raises:
        OptionError: something in the block is too large for this machine.
    """
    try:
        yield
    except OptionError:
        raise
    except Exception as error:
        if not is_too_large(error):
            raise
        raise OptionError(_words(component, "more memory than there is"), largest_option(component)) from error


def require_room_for(model: AbstractModel, spec: ImageSpec) -> None:
    """Refuses a network that is too large for this machine, without taking memory for it.

    Args:
        model: the network's component.
        spec: image shape and number of classes.

    Raises:
        OptionError: the parameters of the network do not fit into the memory of this machine.
    """
    room = total_memory(torch.device("cpu"))
    with sizes_named(model):
        module = weightless(model, spec)
    if module is None or room is None:
        return
    parameters = count_parameters(module)
    need = VECTORS * parameters * torch.float32.itemsize
    if need > room:
        words = f"{size_text(need)} for a network of {parameters:,} parameters, this machine has {size_text(room)}"
        raise OptionError(_words(model, words), largest_option(model))


def count_parameters(module: nn.Module) -> int:
    """Number P of a module's parameters, without those of lazy layers, which have no size before they meet images."""
    return sum(parameter.numel() for parameter in module.parameters() if not is_lazy(parameter))


def weightless(model: AbstractModel, spec: ImageSpec) -> nn.Module | None:
    """The model's module with shapes and without values; None if it can only be built with them.

    Raises:
        OptionError: the options do not fit the image shape.
        Exception: a size is too large.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return model.build(spec)
    except OptionError:
        raise
    except Exception as error:
        if is_too_large(error):
            raise
        return None


def _words(component: Any, what: str) -> str:
    option = largest_option(component)
    value = f" {getattr(component, option)}" if option else ""
    return f"{component.name} with {option or 'these options'}{' =' if option else ''}{value} takes {what}; lower it"
