"""Files that `torch.save` wrote somewhere else, read with suspicion: nothing in them is ever executed."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_MAGIC = b"PK\x03\x04"
_LOCAL_HEADER = 30


def check_archive(path: Path) -> tuple[int, ...]:
    """Checks that a file is a plain, undamaged zip archive, as torch writes them, and returns its identity.

    torch does not compare checksums when it maps a file: damaged weights would go unnoticed.

    Raises:
        DataError: it is not.
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
        except Exception as error:
            # zipfile meets damage with whatever comes up: BadZipFile, struct.error, ValueError, NotImplementedError, …
            raise DataError(
                f"{path} is damaged or was not written to its end: the archive's directory is not readable "
                f"({_line(error)}); copy it or write it again"
            ) from error
        if reason:
            raise DataError(f"{path} {reason}")
        return identity(file)


def _fault(archive: zipfile.ZipFile) -> str:
    """What is wrong with an archive, or "" if nothing is; reads all of it, in pieces."""
    members = sorted(archive.infolist(), key=lambda m: m.header_offset)
    ends = [*(m.header_offset for m in members[1:]), archive.start_dir]
    for member, end in zip(members, ends, strict=True):
        name = ascii(member.filename)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            return f"has the compressed or encrypted member {name}; torch.save writes none; write the file again"
        if member.header_offset + _LOCAL_HEADER + len(member.filename) + member.compress_size > end:
            return f"has overlapping members, among them {name}; torch.save writes none; write the file again"
    damaged = archive.testzip()
    if damaged is not None:
        return f"is damaged: member {damaged!a} does not have the checksum it was written with; copy it again"
    return ""


def read_torch_file(path: Path, what: str) -> Any:
    """The content of a file as torch's restricted reader gives it: lists, numbers, texts and mapped tensors.

    Args:
        path: the file, checked by `check_archive`.
        what: what it should be, for the message.

    Raises:
        DataError: damaged, or with objects other than tensors.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except Exception as error:
        # Whatever a file can bring about: there is no list of it. `from None`, because torch advises to read the
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
        # A few bytes can be told to stand for any number of elements.
        or found.numel() * found.element_size() > found.untyped_storage().nbytes()
    ):
        raise DataError(f"{path} holds a {type(found).__name__} of some kind, expected one ordinary tensor with values")
    return plain(found).clone()


def opened(path: Path) -> IO[bytes]:
    """The file, opened for reading.

    Raises:
        DataError: missing, not a file, or not readable.
    """
    try:
        if path.is_file():
            return path.open("rb")
        present = path.exists()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    raise DataError(f"{path} is not a file" if present else f"{path} is missing")


def identity(file: IO[bytes]) -> tuple[int, ...]:
    """What tells whether it is still the same file, unchanged."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def plain(tensor: Tensor) -> Tensor:
    """The same values without gradients and without attributes that a file may have put over a tensor's methods."""
    import torch

    return torch.Tensor.detach(tensor)


def _line(error: Exception) -> str:
    """An exception in a few words: its first sentence, without anything that a terminal would act upon."""
    lines = str(error).splitlines() or [""]
    words = "".join(c if c.isprintable() else "?" for c in lines[0].split(". ")[0])[:120]
    return f"{type(error).__name__}: {words}"
