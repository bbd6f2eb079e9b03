"""Trajectory sources: they turn the checkpoints of experts into segments with a start and a target.

Shapes: E experts, K epochs, P parameters, T parameter tensors, S snapshots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from attrs import frozen

from ddfw.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Type of what a source's `prepare` returns and its `segment` takes; each source has its own.
PreparedT = TypeVar("PreparedT")


@frozen(kw_only=True)
class CompactExpert:
    """The tensors that a source keeps of one expert instead of all its checkpoints.

    Args:
        source: name of the source.
        options: the source's options that these tensors depend on, JSON-able; a source with other options refuses them.
        num_epochs: number K of epochs of the expert.
        tensors: the kept tensors by name, among them `points` [W, P], parameters at W way-points.
        rows: for each epoch whose exact checkpoint is among the points, its row in `points`.
    """

    source: str
    options: Mapping[str, Any]
    num_epochs: int
    tensors: Mapping[str, Tensor]
    rows: Mapping[int, int]


class ExpertSource(Protocol):
    """Read access to the checkpoints of the experts of one run."""

    @property
    def num_experts(self) -> int:
        """Number E of experts."""

    @property
    def num_epochs(self) -> int:
        """Number K of epochs; an expert has K + 1 checkpoints, the first before any training."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each of the T parameter tensors, in flat order; they sum to P."""

    def snapshots(self, expert: int, epochs: Sequence[int]) -> Tensor:
        """Reads checkpoints of one expert; only these are read from disk.

        Args:
            expert: number of the expert, in [0, E).
            epochs: the S epochs, each in [0, K].

        Returns:
            [S, P], one row for each epoch.

        Raises:
            OptionError: only way-points of the experts were kept, and one of these checkpoints was not.
        """

    def compact(self, expert: int) -> CompactExpert | None:
        """The tensors kept of expert number `expert` instead of its checkpoints; None if all checkpoints are kept."""


@frozen(kw_only=True)
class Segment:
    """A piece of an expert's path that a student has to follow.

    Args:
        start: [P], the parameters at which the student starts.
        target: [P], the parameters that the student should reach.
        expert: number of the expert, in [0, E).
        start_epoch: epoch of `start`; a whole number if it is a checkpoint.
        target_epoch: epoch of `target`.
    """

    start: Tensor
    target: Tensor
    expert: int
    start_epoch: float
    target_epoch: float


@frozen(kw_only=True)
class AbstractTrajectory(ABC, Generic[PreparedT]):
    """Draws the segments of expert paths that students have to follow.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def prepare(self, experts: ExpertSource) -> PreparedT:
        """Reads from the experts what `segment` will need; called once per run.

        Args:
            experts: the experts of the run.

        Raises:
            OptionError: the options do not fit the experts, for example because they have too few epochs.
        """

    @abstractmethod
    def segment(self, trajectories: PreparedT, low: float, high: float, rng: torch.Generator) -> Segment:
        """Draws an expert and a start epoch in the window [low, high) and returns the segment that starts there.

        Args:
            trajectories: what `prepare` returned.
            low: earliest start epoch.
            high: exclusive upper end of start epochs; low < high ≤ latest_high(K).
            rng: CPU generator; the only source of randomness.
        """

    @abstractmethod
    def stored_bytes(self, trajectories: PreparedT) -> int:
        """Bytes needed to keep `trajectories` on disk, so that sources can be compared."""

    def compact(self, checkpoints: Tensor, sizes: Sequence[int]) -> CompactExpert:
        """The tensors that this source needs of one expert, for stores that keep these instead of all checkpoints.

        Args:
            checkpoints: [K + 1, P], one row for each epoch.
            sizes: number of elements of each of the T parameter tensors, summing to P.

        Raises:
            OptionError: this source needs all checkpoints, which is the default.
        """
        raise OptionError(f"{self.name} needs every checkpoint, so there is nothing that could be left out")

    def latest_high(self, num_epochs: int) -> float:
        """The largest exclusive upper end of start epochs, for experts of `num_epochs` epochs."""
        return num_epochs

    def notes(self, num_epochs: int, high: float) -> tuple[str, ...]:
        """What a user has to know before the run about options that experts of this length cut; by default nothing.

        Args:
            num_epochs: number K of epochs of each expert.
            high: exclusive upper end of start epochs.
        """
        return ()
