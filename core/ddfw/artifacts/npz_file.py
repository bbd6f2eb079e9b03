"""Reads NumPy archives (.npz) that may come from anyone: what an array takes is known before its memory is taken."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ddfw.artifacts.opening import opened, require_honest, require_memory
from ddfw.errors import DataError

if TYPE_CHECKING:
    import numpy as np

_MAGIC = b"\x93NUMPY"
#: The kinds of NumPy's dtypes that are plain values: truth values, integers, floats, complex numbers, and texts.
_PLAIN = "buifcSU"
_MAX_ELEMENTS, _PIECE = 1 << 48, 1 << 20
_PACKED = "save it by numpy.savez, which does not compress"


def array_names(path: Path) -> list[str]:
    """The names of the arrays in an archive; none of it is read, and [] where it is no archive.

    Raises:
        DataError: missing, or no plain file.
    """
    with opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return [info.filename.removesuffix(".npy") for info in archive.infolist()]
        except Exception:  # `read_arrays` says what is wrong with a damaged archive
            return []


def read_arrays(path: Path, names: Sequence[Sequence[str]], limit: int | None = None) -> list[np.ndarray]:
    """Reads arrays of plain numbers from an archive; nothing in it is executed, and no other members are read.

    Args:
        path: the file.
        names: for each array its possible names; the first that the archive has is read.
        limit: largest size in bytes of all these arrays together; None: what the machine's free memory holds.

    Returns:
        The arrays, in the order of `names`.

    Raises:
        DataError: missing, no plain file, no archive, an array that is missing, damaged or of something else than
            numbers, or arrays that would take far more memory than the file's size can mean.
    """
    with opened(path) as file:
        start = file.read(len(_MAGIC))
        if start == _MAGIC:
            raise DataError(f"{path} is a single array; expected an .npz archive with {_listed(names)}")
        try:
            with zipfile.ZipFile(file) as archive:
                members = [_member(archive, wanted, path) for wanted in names]
                packed, needed = sum(m.compress_size for m in members), sum(m.file_size for m in members)
                require_honest(path, packed, needed, _PACKED)
                if limit is not None and needed > limit:
                    raise DataError(f"{path} unpacks to {needed:,} bytes, at most {limit:,} are read")
                require_memory(path, needed, "use a part of the images")
                return [_array(archive, member) for member in members]
        except DataError:
            raise
        except Exception as error:
            # A damaged archive can make zipfile and its decoders raise anything: BadZipFile, struct.error, …
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{path} is not a readable .npz archive of plain numbers: {reason}") from error


def _listed(names: Sequence[Sequence[str]]) -> str:
    return ", ".join(wanted[0] for wanted in names)


def _member(archive: zipfile.ZipFile, names: Sequence[str], path: Path) -> zipfile.ZipInfo:
    """The member of an array, which NumPy names with the ending .npy."""
    there = {info.filename: info for info in archive.infolist()}
    for name in names:
        if found := there.get(f"{name}.npy") or there.get(name):
            return found
    shown = ", ".join(name.removesuffix(".npy")[:80] for name in list(there)[:8]) or "nothing"
    raise DataError(f"{path} has no array {' or '.join(names)}; it holds {shown}")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array of an archive, whose header has to need exactly the bytes that the archive has for it.

    Raises:
        ValueError: something else than an array of plain values.
    """
    import numpy as np

    what = f"its member {member.filename[:80]!a}"
    with archive.open(member) as file:
        try:
            shape, fortran, dtype = _header(file)
        except (ValueError, TypeError, SyntaxError, EOFError, RecursionError) as error:
            raise ValueError(f"{what} is no array") from error
        if dtype.kind not in _PLAIN or not dtype.itemsize:
            raise ValueError(f"{what} is an array of {str(dtype)[:80]}")
        count = math.prod(shape)
        if any(n < 0 for n in shape) or math.prod(max(1, n) for n in shape) > _MAX_ELEMENTS:
            raise ValueError(f"{what} has no possible shape")
        if file.tell() + count * dtype.itemsize != member.file_size:
            raise ValueError(f"{what} has {member.file_size:,} bytes, its header {shape} {dtype} needs others")
        flat = np.empty(count, dtype)
        view, done = memoryview(flat.view(np.uint8)), 0  # type: ignore[arg-type]
        while done < view.nbytes:
            piece = file.read(min(_PIECE, view.nbytes - done))
            if not piece:
                raise ValueError(f"{what} ends too early")
            view[done : done + len(piece)] = piece
            done += len(piece)
        if file.read(1):  # reads to the end, where the checksum is compared
            raise ValueError(f"{what} is longer than it says")
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype of the array that begins in a file.

    Raises:
        ValueError, TypeError, SyntaxError, EOFError: it does not begin as an array does.
    """
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if version == (1, 0):
            return npy.read_array_header_1_0(file)
        return npy.read_array_header_2_0(file)
