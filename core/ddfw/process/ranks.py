"""Processes that a launcher such as torchrun started together: which one this is, and which one may speak.

All of them run the same command, so what all would print alike is printed once: rank 0 shows the progress and the
table, and of an error only the first rank that meets one tells.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from attrs import frozen

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

#: How long to look for the launcher's store, in seconds.
_LOOK_S = 5.0

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@frozen(kw_only=True)
class Launch:
    """What a launcher says in the environment.

    Args:
        rank: this process, from 0.
        size: how many processes there are.
        local_rank: this process among those of its machine.
        local_size: how many processes its machine has.
        host: where the launcher's store is.
        port: of the store.
        name: of this start, the same on every rank; a restart has another one.
        agent: whether the launcher itself serves the store, and not rank 0.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int
    name: str
    agent: bool

    @property
    def spoken_key(self) -> str:
        """The key of the store under which the first rank to speak leaves `<exit code> <rank>`."""
        return f"ddfw/{self.name}/spoken"

    def client(self, seconds: float) -> TCPStore:
        """A connection of its own to the launcher's store.

        Args:
            seconds: how long connecting, and each question afterwards, may take.

        Raises:
            OSError: nothing answers there.
        """
        from datetime import timedelta

        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # Asked first, since PyTorch writes pages about a store that is not there.
        with socket.create_connection((self.host, self.port), timeout=seconds):
            pass
        return TCPStore(self.host, self.port, None, False, timedelta(seconds=seconds), wait_for_workers=False)


def launch() -> Launch | None:
    """The launch that this process belongs to, None if it was started alone."""
    if not all(os.environ.get(v) for v in _VARIABLES):
        return None
    try:
        rank, size, local_rank, port = (int(os.environ[v]) for v in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"))
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    except ValueError:
        return None
    run, restart = (os.environ.get(f"TORCHELASTIC_{v}", "0") for v in ("RUN_ID", "RESTART_COUNT"))
    return Launch(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        host=os.environ["MASTER_ADDR"],
        port=port,
        name=f"{run}/{restart}",
        agent=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def speaks(code: int) -> bool:
    """Whether this process tells why the command ends; a process alone always does, of many the first to ask.

    Args:
        code: the exit code that it ends with, for the others to end with too.
    """
    here = launch()
    if here is None or here.size == 1:
        return True
    try:
        found = here.client(_LOOK_S).compare_set(here.spoken_key, "", f"{code} {here.rank}").decode()
        return bool(found.split()[-1] == str(here.rank))
    except Exception:  # no store: it went with whoever served it
        return here.rank == 0


@contextlib.contextmanager
def first_rank_shows() -> Iterator[None]:
    """Silences what every rank but the first prints in this context; errors are told after it."""
    here = launch()
    if here is None or here.size == 1:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    if here.rank == 0:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def real_stderr() -> TextIO:
    """The process's own standard error, even while `sys.stderr` is replaced so that nothing is shown."""
    return sys.__stderr__ or sys.stderr
