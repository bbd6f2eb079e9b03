"""Reads safetensors files that may come from anyone: the header is checked before any tensor is taken into memory."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ddfw.artifacts.opening import opened, parse_json
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

#: The only metadata key of our safetensors files, because several keys would be written in a random order.
METADATA_KEY = "ddfw"
#: Largest length of a header in bytes; one of a thousand tensors has 100,000.
MAX_HEADER = 1 << 24
_MAX_AXES, _MAX_ELEMENTS = 16, 1 << 48
_LENGTH = 8
#: Bytes of one element, by the format's names of dtypes.
_ITEM_BYTES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"F32": 4, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8},
}
#: What safetensors calls the dtypes of tensors, narrow ones first.
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
}


@frozen(kw_only=True)
class TensorHeader:
    """What a safetensors file says of itself.

    Args:
        metadata: the JSON-able values that were written with the tensors.
        shapes: the shape of each tensor, by its name.
        dtypes: the format's name of each tensor's dtype, such as F32, by the tensor's name.
    """

    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]


def read_header(path: Path) -> TensorHeader:
    """Reads a file's header and checks it: lengths, dtypes, shapes and offsets fit together and the file's size.

    Raises:
        DataError: missing, no plain file, or not a safetensors file in which all that fits.
    """
    with opened(path) as file:
        try:
            length = int.from_bytes(file.read(_LENGTH), "little")
            size = file.seek(0, 2)
            if not 2 <= length <= min(MAX_HEADER, size - _LENGTH):
                raise ValueError(f"its header is said to have {length:,} bytes, of {size:,} in the file")
            file.seek(_LENGTH)
            entries = parse_json(file.read(length))
            if not isinstance(entries, dict):
                raise ValueError("its header is no object")
            words = entries.pop("__metadata__", {})
            if not isinstance(words, dict) or not all(isinstance(word, str) for word in words.values()):
                raise ValueError("its metadata are no texts")
            spans = sorted(_span(name, entry) for name, entry in entries.items())
            edges = [0, *itertools.chain.from_iterable(spans), size - _LENGTH - length]
            if any(edges[i] != edges[i + 1] for i in range(0, len(edges), 2)):
                raise ValueError("its tensors do not fill it: there are gaps, overlaps, or bytes too many or too few")
            metadata = parse_json(words.get(METADATA_KEY, "{}"), finite=False)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path} is not a readable safetensors file: {' '.join(str(error).split())[:200]}"
            ) from error
    return TensorHeader(
        metadata=metadata if isinstance(metadata, dict) else {},
        shapes={name: tuple(entry["shape"]) for name, entry in entries.items()},
        dtypes={name: entry["dtype"] for name, entry in entries.items()},
    )


def serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, equal to those that `safetensors.torch.save_file` writes.

    That function writes to a temporary file of its own name, which a killed process would leave behind.

    Args:
        tensors: named tensors on any device.
        metadata: texts by their keys.
    """
    import torch

    codes = {getattr(torch, name): code for name, code in _DTYPES.items()}
    rank = list(codes)
    # As in the reference implementation: wide numbers first, so that all tensors lie aligned, then by name.
    order = sorted(tensors, key=lambda name: (-rank.index(tensors[name].dtype), name))
    header, end = dict[str, Any](__metadata__=dict(metadata)), 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % _LENGTH)
    yield len(head).to_bytes(_LENGTH, "little") + head
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _span(name: str, entry: Any) -> tuple[int, int]:
    """The first byte of a tensor in the file's data and the one behind its last, which its shape and dtype need.

    Raises:
        KeyError, TypeError, ValueError: an incomplete or impossible entry.
    """
    what = f"its tensor {name[:80]!a}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{what} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"{what} has the dtype {str(dtype)[:20]!a}, expected one of {', '.join(_ITEM_BYTES)}")
    if not _whole_numbers(shape) or len(shape) > _MAX_AXES or math.prod(max(1, n) for n in shape) > _MAX_ELEMENTS:
        raise ValueError(f"{what} has no possible shape")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise ValueError(f"{what} has no possible data_offsets")
    start, end = offsets
    if end - start != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ValueError(f"{what} has {end - start:,} bytes, its shape and dtype need others")
    return start, end


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= _MAX_ELEMENTS for n in value)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file on the CPU, after `read_header` has found nothing wrong with it.

    Raises:
        DataError: as `read_header` does.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} is not a readable safetensors file: {error}") from error


def load_rows(path: Path, name: str, rows: Sequence[int]) -> Tensor:
    """Some rows of one tensor of a safetensors file; no others are read from the disk.

    Args:
        path: the file, whose header was checked before.
        name: the tensor.
        rows: their numbers, along the first axis.

    Raises:
        DataError: a value is NaN or infinite, or the file was changed meanwhile.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = file.get_slice(name)
            found = torch.cat([stored[row : row + 1] for row in rows])
    except (SafetensorError, OSError, RuntimeError) as error:
        raise DataError(f"{path} was changed while it was in use: {error}") from error
    refuse_not_finite(path, {name: found})
    return found


def refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors with a value that is no number.

    Args:
        path: the file that they are from, for the error text.
        tensors: by name; those of integers are passed over.

    Raises:
        DataError: a value is NaN or infinite.
    """
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(tensor.isfinite().all()):
            raise DataError(f"{path}: {name} holds values that are NaN or infinite; write the file again")
