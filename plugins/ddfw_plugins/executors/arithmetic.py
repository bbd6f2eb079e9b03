"""How a GPU computes: PyTorch's settings of precision and of repeatability, for the length of a block.

PyTorch has an older and a newer set of switches for float32 products. Whoever reads one of them where both contradict
each other gets an error, as PyTorch's compiler and `torch.backends.cudnn.flags` do. So both are set and put back.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from ddfw import OptionError

Precision = Literal["ieee", "tf32", "pytorch"]
#: Memory for cuBLAS with which its products repeat, as an environment variable and a value that PyTorch accepts.
WORKSPACE, SIZE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"

_backends: Any = torch.backends


@contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """Sets how a GPU computes float32 products and convolutions inside the block.

    Args:
        precision: ieee: in full float32; tf32: with inputs that are rounded to ten bits of mantissa (TF32); pytorch: as
            PyTorch does if nobody sets anything, which is convolutions in TF32 and products in full float32.
    """
    products, convolutions = precision == "tf32", precision != "ieee"
    newer = (_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn)
    # The older switch of products changes the processor's as well, which are none of this block's business.
    places = (*newer, _backends.mkldnn.matmul)
    before = [place.fp32_precision for place in places]
    older = _older_switches()
    chosen = ["tf32" if lower else "ieee" for lower in (products, convolutions, convolutions)]
    try:
        _set("high" if products else "highest", convolutions)
        _put(places, [*chosen, before[-1]])
        yield
    finally:
        _set(*older)
        _put(places, before)


@contextmanager
def products_that_may_repeat() -> Iterator[None]:
    """Inside the block, products can be made to repeat to the bit, if none was computed on a GPU before.

    PyTorch looks for the variable at the first product of a process, and never again. So even a session that need not
    repeat sets it, for one that does later on.
    """
    known = os.environ.get(WORKSPACE)
    os.environ.setdefault(WORKSPACE, SIZE)
    try:
        yield
    finally:
        if known is None:
            os.environ.pop(WORKSPACE, None)


@contextmanager
def deterministic() -> Iterator[None]:
    """Inside the block, PyTorch takes only operations that give the same bits each time, and compiles only such.

    Raises:
        OptionError: something inside uses an operation for which PyTorch has no such form, or products were computed
            in this process before they could be made to repeat.
    """
    inductor: Any = importlib.import_module("torch._inductor.config")
    memory: Any = torch.utils.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = memory.fill_uninitialized_memory
    library = _backends.cudnn.deterministic, _backends.cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # nobody here reads memory that was never written
        _backends.cudnn.deterministic, _backends.cudnn.benchmark = True, False
        with products_that_may_repeat(), inductor.patch(deterministic=True):
            yield
    except RuntimeError as error:
        if WORKSPACE in str(error):
            raise OptionError(
                "this process has multiplied on a GPU before, in a way that does not repeat to the bit; start it with "
                f"{WORKSPACE}={SIZE} in its environment",
                "deterministic",
            ) from error
        words = "does not have a deterministic implementation"
        if words not in str(error):
            raise
        raise OptionError(
            f"{str(error).partition(words)[0].strip()} has no form that repeats to the bit; another component, or "
            "executor.deterministic = false, does without it",
            "deterministic",
        ) from error
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        memory.fill_uninitialized_memory = filled
        _backends.cudnn.deterministic, _backends.cudnn.benchmark = library


def _older_switches() -> tuple[str | None, bool | None]:
    """The older switches of products and of convolutions; None for one that contradicts the newer switches."""
    found: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: _backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found[0], found[1]


def _set(products: str | None, convolutions: bool | None) -> None:
    """Sets the older switches, each unless it is None, without their warnings that they are old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            _backends.cudnn.allow_tf32 = convolutions


def _put(places: tuple[Any, ...], values: list[str]) -> None:
    for place, value in zip(places, values, strict=True):
        place.fp32_precision = value
