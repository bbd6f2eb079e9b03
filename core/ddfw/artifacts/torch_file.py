"""Reads files that `torch.save` wrote elsewhere; they are not trusted, and nothing in them is ever executed."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfw.artifacts.opening import MAX_PIECE, PlainFile, opened
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = 30
#: The dtypes of tensors that all of torch's functions know.
_DTYPES = (
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)
#: Largest size in bytes of what says how the tensors lie in lists: for any file, and for each of its members; or one
#: byte for so many of the file.
_PROGRAM, _PROGRAM_PER_MEMBER, _VALUES_PER_PROGRAM = 1 << 16, 512, 8


def check_archive(path: Path) -> tuple[int, ...]:
    """Checks that a file is an undamaged zip archive as torch writes it, checksums included.

    torch does not compare checksums when it maps a file into memory, so damaged values would go unnoticed.

    Returns:
        Numbers that identify the unchanged file, as `identity` computes them.

    Raises:
        DataError: the file is missing, not such an archive, or damaged.
    """
    with opened(path) as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DataError(
                f"{path} is not a zip archive as PyTorch writes them since version 1.6; if it is from an older one, "
                "load and save it again with a newer one: torch.save(torch.load(old, weights_only=True), new)"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                reason = _fault(archive)
        except DataError:
            raise
        except Exception as error:
            # A damaged file can make zipfile raise anything: BadZipFile, struct.error, ValueError, …
            raise DataError(
                f"{path} is damaged or was not written to its end: the archive's directory is not readable "
                f"({_line(error)}); copy it or write it again"
            ) from error
        if reason:
            raise DataError(f"{path} {reason}")
        return identity(file)


def _fault(archive: zipfile.ZipFile) -> str:
    """Reads a whole archive in pieces and says what is wrong with it; "" if nothing is."""
    members = sorted(archive.infolist(), key=lambda m: m.header_offset)
    ends = [*(m.header_offset for m in members[1:]), archive.start_dir]
    for member, end in zip(members, ends, strict=True):
        name = ascii(member.filename)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            return f"has the compressed or encrypted member {name}; torch.save writes none; write the file again"
        if member.header_offset + _LOCAL_HEADER + len(member.filename) + member.compress_size > end:
            return f"has overlapping members, among them {name}; torch.save writes none; write the file again"
    # torch finds the program by its name in any case. Its steps are single bytes, each of which can take a hundred.
    programs = [member for member in members if member.filename.lower().endswith(".pkl")]
    length = sum(member.file_size for member in programs)
    values = sum(member.file_size for member in members) - length
    limit = min(max(_PROGRAM + _PROGRAM_PER_MEMBER * len(members), values // _VALUES_PER_PROGRAM), MAX_PIECE)
    if length > limit:
        return f"describes its {len(members)} members in more than {limit:,} bytes; write it as lists of tensors"
    for member in programs:
        with archive.open(member) as file:
            # The reader's one call that takes memory of any size, which no tensor needs.
            if b"bytearray" in file.read(limit):
                return "holds objects other than tensors (bytearray); nothing in it was executed; write tensors only"
    damaged = archive.testzip()
    if damaged is not None:
        return f"is damaged: member {damaged!a} does not have the checksum it was written with; copy it again"
    return ""


def read_torch_file(path: Path, what: str) -> Any:
    """Reads a file by torch's restricted reader, which knows lists, numbers, texts and (memory-mapped) tensors only.

    Args:
        path: the file, already checked by `check_archive`.
        what: what the file should be, in words, for error messages.

    Raises:
        DataError: the file is damaged or holds other objects.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:
        # A hostile file can cause any exception. `from None` hides torch's own message, which advises to read the
        # file without protection.
        if type(error).__name__ == "UnpicklingError":
            named = re.search(r"GLOBAL ([A-Za-z0-9_.]{1,80})", str(error))
            what = f" ({named[1]})" if named else ""
            raise DataError(
                f"{path} holds objects other than tensors{what}; it was refused and nothing in it was executed; use "
                "only files that you trust, and write them as lists of tensors"
            ) from None
        raise DataError(f"{path} is damaged or not {what}: {_line(error)}; write it again") from None


def read_torch_tensor(path: Path) -> Tensor:
    """The one tensor that `torch.save` wrote to a file, on the CPU and in memory of its own.

    Raises:
        DataError: missing, damaged, or with anything else in it, which is never executed.
    """
    import torch

    check_archive(path)
    found = read_torch_file(path, "a file of one tensor")
    if (
        not isinstance(found, torch.Tensor)
        or found.layout != torch.strided
        or found.is_quantized
        or found.device.type != "cpu"
        or str(found.dtype).removeprefix("torch.") not in _DTYPES
        # A few bytes can be told to stand for any number of elements.
        or found.numel() * found.element_size() > min(found.untyped_storage().nbytes(), path.stat().st_size)
    ):
        raise DataError(f"{path} holds a {type(found).__name__} of some kind, expected one ordinary tensor with values")
    return plain(found).clone()


def identity(file: PlainFile) -> tuple[int, ...]:
    """Numbers that change when a file is replaced or written to: device, inode, bytes and modification time in ns."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def plain(tensor: Tensor) -> Tensor:
    """The tensor's values without gradients and without attributes, by which a hostile file could replace methods."""
    import torch

    return torch.Tensor.detach(tensor)


def _line(error: Exception) -> str:
    """The first sentence of an exception's text, without control characters for terminals."""
    lines = str(error).splitlines() or [""]
    words = "".join(c if c.isprintable() else "?" for c in lines[0].split(". ")[0])[:120]
    return f"{type(error).__name__}: {words}"
