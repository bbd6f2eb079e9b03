"""What worker processes change in a forecast: stages are shorter by the clock, and memory is needed several times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from attrs import define, field
from torch import Tensor

from ddfw.remote.pool import START_S

if TYPE_CHECKING:
    from ddfw.contracts.executor import AbstractExecutor, ExecutorSession


@define
class SideBySide:
    """How long pieces of work take that a session's workers may share.

    Args:
        most: how many workers there are at most; 1 stands for none.
        always: whether they are given work however little it is, as where their number was named.
        used: how many the work so far has been shared by, 0 for none.
    """

    most: int
    always: bool = field(default=False, kw_only=True)
    used: int = 0

    @classmethod
    def of(cls, session: ExecutorSession, executor: AbstractExecutor) -> SideBySide:
        """By what a session says of itself, and whether its executor's option `workers` is a number."""
        workers = session.describe().get("workers", 1)
        named = isinstance(getattr(executor, "workers", None), int)
        return cls(most=workers if isinstance(workers, int) else 1, always=named)

    def shared(self, duration: Tensor, pieces: int, times: int = 1) -> Tensor:
        """What work takes whose pieces are done side by side if that is worth it.

        Args:
            duration: [2] by the clock and on processors, of all pieces one after another.
            pieces: how many there are, about equally long.
            times: how often they are all waited for.

        Returns:
            The same [2], with the start of the workers where this is their first work.
        """
        workers = min(self.most, pieces)
        rounds = -(-pieces // workers) if workers else 0
        saved = duration * (1 - rounds / pieces) if pieces else 0 * duration
        if workers < 2 or (not self.always and float(saved[0]) / times < (0 if self.used else START_S)):
            return duration
        started, self.used = max(0, workers - self.used), max(self.used, workers)
        loading = torch.tensor([START_S if started else 0.0, started * START_S], dtype=duration.dtype)
        return duration - saved * torch.tensor([1.0, 0.0], dtype=duration.dtype) + loading
