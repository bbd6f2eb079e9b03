"""Temporary files and folders: their names, which tell whose they are, and how those of killed processes are removed.

`.<name>.<place>-<pid>-<start>-<random>.tmp` lies beside what is being written. The place stands for the machine and its
table of processes, so that a process that shares a folder with others can tell whether the one that made it still runs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

#: A temporary of ours; of earlier versions too, whose names say nothing of the process.
_NAME = re.compile(r"\.(.+)\.(?:([0-9a-f]{6})-(\d+)-(\d+)-)?[0-9a-f]{8}\.tmp", re.DOTALL)
#: A temporary of another machine is given up after so many seconds; a file is written in much less.
_GIVEN_UP_S = 24 * 3600.0
#: How much of the target's name the temporary's name repeats; both have to be names that a disk can hold.
_KEPT = 40


def temporary_beside(path: Path) -> Path:
    """A new name for a temporary file or folder beside `path`, which says which process makes it."""
    pid = os.getpid()
    owner = f"{_place()}-{pid}-{_start(pid)}"
    return path.with_name(f".{path.name[:_KEPT]}.{owner}-{secrets.token_hex(4)}.tmp")


def tidy(folder: Path, target: str = "") -> None:
    """Removes temporaries of processes that have ended from a folder into which several processes may write.

    Args:
        folder: the folder; one that is not there holds none.
        target: only temporaries of what has this name, since the folder may be anybody's; "" for all.
    """
    for entry in _entries(folder):
        match = _NAME.fullmatch(entry.name)
        if match is not None and (not target or match[1] == target[:_KEPT]) and _given_up(entry, match):
            discard(Path(entry.path))


def tidy_below(folder: Path, alone_in: Callable[[Path], contextlib.AbstractContextManager[bool]]) -> None:
    """Removes all temporaries from a folder and from those below it, into which this process alone may write.

    Args:
        folder: the folder; links are not followed.
        alone_in: says of a folder below, which has a lock of its own, whether this process holds it now.
    """
    for entry in _entries(folder):
        path = Path(entry.path)
        if _NAME.fullmatch(entry.name):
            discard(path)
        elif entry.is_dir(follow_symlinks=False):
            with alone_in(path) as alone:
                if alone:
                    tidy_below(path, alone_in)


def discard(path: Path) -> None:
    """Removes a temporary file or folder, if that is possible; another process may have removed it already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing where it cannot be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _given_up(entry: os.DirEntry[str], name: re.Match[str]) -> bool:
    """Whether the process that made a temporary has ended, as far as can be told from here."""
    if name[2] == _place():
        pid = int(name[3])
        return not _runs(pid) or _start(pid) != int(name[4])
    with contextlib.suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _GIVEN_UP_S
    return False


def _runs(pid: int) -> bool:
    """Whether a process of this number runs here, of whichever user."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _start(pid: int) -> int:
    """When a process was started, in ticks since the machine's start, since numbers are used again; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The second field is the program's name in parentheses, which may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[19])
    return 0


@functools.cache
def _place() -> str:
    """Six hexadecimal digits for this machine and, where containers have their own, its table of processes."""
    table = ""
    with contextlib.suppress(OSError):
        table = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()}\x1f{table}".encode()).hexdigest()[:6]
