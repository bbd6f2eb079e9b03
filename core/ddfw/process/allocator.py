"""The C library's allocator, told to keep what training frees.

A training step frees and asks for the same megabytes over and over. glibc gives large blocks back to the system in
between and gets them anew, page by page: that was 45 % of an expert's CPU time.
"""

from __future__ import annotations

import ctypes
import os

#: mallopt's names for: bytes at the top that are kept, bytes asked for besides, bytes from which blocks are mapped.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
#: The largest that mallopt takes, in bytes; and how much more than needed is asked for at a time.
_MOST, _PAD = 2**31 - 1, 2**28


def keep_freed_memory() -> bool:
    """Sets it for this whole process, which is for programs to do and not for libraries.

    What a user's environment says about malloc stays as it is.

    Returns:
        Whether it was set: with glibc, and where the environment says nothing.
    """
    said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if said or "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", ()):
        return False
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, ValueError):
        return False
    settings = ((_TRIM_THRESHOLD, _MOST), (_TOP_PAD, _PAD), (_MMAP_THRESHOLD, _MOST))
    return all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings])
