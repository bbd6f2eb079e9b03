"""The memory and the cores of this machine as Linux tells them: what it has, and what is left for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_share: ContextVar[int | None] = ContextVar("share of the processors", default=None)


def processor_memory(root: Path = Path("/")) -> int | None:
    """Bytes available to this process, read from Linux' /proc and /sys/fs/cgroup; None on other systems.

    Args:
        root: the folder that holds `proc` and `sys`; tests use one of their own.
    """
    found = [left for group in _control_groups(root) if (left := _left(*group)) is not None]
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        words = rest.split()
        if name == "MemAvailable" and words and words[0].isdigit():
            found.append(int(words[0]) * 1024)
    return max(0, min(found)) if found else None


def processors(root: Path = Path("/")) -> int:
    """Cores that this process may use: those it is bound to, or fewer where a control group limits its time on them.

    Inside `sharing_processors` they are its share, where that is less.

    Args:
        root: the folder that holds `proc` and `sys`; tests use one of their own.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(bound)]
    for folder, names in _groups(root, "cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        quota, period = [*" ".join(word for name in names for word in _lines(folder / name)).split(), "", ""][:2]
        if quota.isdigit() and period.isdigit() and int(period):
            shares.append(int(quota) / int(period))
    return max(1, int(min(*shares, _share.get() or bound)))


@contextmanager
def sharing_processors(number: int) -> Iterator[None]:
    """Within the block, and in this thread, no more than so many cores count, since others are at work on the rest."""
    token = _share.set(number)
    try:
        yield
    finally:
        _share.reset(token)


def limits_of_memory(root: Path = Path("/")) -> int | None:
    """The memory of this machine, or the smallest limit of this process's control groups; None on other systems."""
    found = [most for folder, limit, *_ in _control_groups(root) if (most := _limit(folder, limit)) is not None]
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            found.append(int(line.split()[1]) * 1024)
    return min(found, default=None)


def _control_groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """The folder of each control group that limits memory, with the names of its limit, its use and its cache."""
    newer = ("memory.max", "memory.current", "inactive_file")
    older = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for folder, (limit, use, cache) in _groups(root, "memory", newer, older):
        yield folder, limit, use, cache


def _groups(
    root: Path, controller: str, newer: tuple[str, ...], older: tuple[str, ...]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The folder of each control group of this process and of its outer groups, with the names of its figures.

    Args:
        root: as for `processor_memory`.
        controller: what the groups limit.
        newer: names of figures in version 2 of control groups.
        older: those in version 1.
    """
    top = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            names, mounts = newer, [top, top / "unified"]
        elif controller in controllers.split(","):
            names, mounts = older, [top / controller]
        else:
            continue
        group = Path(path.lstrip("/"))
        # In a container the group's path may be the host's and not exist here; then the mount itself is the group.
        for mount in mounts:
            for folder in dict.fromkeys((mount / group, *(mount / parent for parent in group.parents), mount)):
                yield folder, names


def _left(folder: Path, limit: str, use: str, cache: str) -> int | None:
    """A control group's limit less its use, in bytes; cached files that Linux would drop do not count as use."""
    most, used = _limit(folder, limit), _number(folder / use)
    if most is None or used is None:
        return None
    stat = dict(line.split(maxsplit=1) for line in _lines(folder / "memory.stat") if " " in line)
    dropped = int(stat[cache]) if stat.get(cache, "").isdigit() else 0
    return most - max(0, used - dropped)


def _limit(folder: Path, name: str) -> int | None:
    most = _number(folder / name)
    return None if most is None or most >= 2**60 else most  # cgroups of version 1 write a huge number for "no limit"


def _number(path: Path) -> int | None:
    first = next(iter(_lines(path)), "").strip()
    return int(first) if first.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
