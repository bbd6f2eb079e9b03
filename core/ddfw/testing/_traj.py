"""The conformance check of trajectory sources."""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from ddfw.contracts.trajectory import AbstractTrajectory, Segment
from ddfw.testing._common import Checked, generator, same
from ddfw.testing._component import checking
from ddfw.testing._devices import elsewhere, require_there
from ddfw.testing._fakes import FakeExperts
from ddfw.testing._tensors import require_tensor

DRAWS = 60


def check_traj(traj: AbstractTrajectory[Any], *, num_epochs: int = 6, seed: int = 0) -> None:
    """Checks the methods `prepare`, `segment`, `stored_bytes` and `latest_high` of a trajectory source.

    Args:
        traj: the trajectory source, with the options to check.
        num_epochs: number of epochs of the three experts that it is given; raise it if the options need more.
        seed: seed of the experts and of the generators.

    Raises:
        ConformanceError: the source breaks its contract; the text tells the first fault found.
    """
    with checking("traj", traj, AbstractTrajectory) as subject:
        high = subject.call("latest_high", traj.latest_high, num_epochs)
        subject.require(
            1 <= high <= num_epochs,
            f"latest_high is {high} for experts of {num_epochs} epochs; a window of starts ends at 1 … {num_epochs} "
            "(if the options need longer experts, pass num_epochs)",
        )
        for dtype in (torch.float32, torch.float64):
            case = _Case(subject=subject, traj=traj, num_epochs=num_epochs, high=float(high), dtype=dtype, seed=seed)
            prepared = case.check_prepare()
            case.check_windows(prepared)
            case.check_draws(prepared)
        elsewhere(subject, "segment", case.check_device)


@frozen(kw_only=True)
class _Case:
    """The checks of one trajectory source on experts of one dtype."""

    subject: Checked
    traj: AbstractTrajectory[Any]
    num_epochs: int
    high: float
    dtype: torch.dtype
    seed: int

    def experts(self) -> FakeExperts:
        return FakeExperts(self.num_epochs, self.dtype, self.seed)

    def segment(self, prepared: Any, low: float, high: float, seed: int) -> Segment:
        with self.subject.reporting(f"segment({low:g}, {high:g})"):
            return self.traj.segment(prepared, low, high, generator(seed))

    def all_checkpoints(self, experts: FakeExperts) -> list[Tensor]:
        return [experts.snapshots(e, range(self.num_epochs + 1)) for e in range(experts.num_experts)]

    def check_prepare(self) -> Any:
        """Checks that `prepare` does not change the experts, and that equal experts give equal segments."""
        subject, experts, whole = self.subject, self.experts(), (0, self.high, self.seed)
        wrong = "changes the experts' checkpoints; copy them"
        with subject.unchanged(wrong, lambda: self.all_checkpoints(experts)):
            hint = f"pass a num_epochs that the options fit if experts of {self.num_epochs} epochs are refused"
            prepared = subject.once("prepare", self.traj.prepare, experts, hint=hint)
            found = subject.call("segment", lambda: self.segment(self.traj.prepare(self.experts()), *whole))
            subject.require(isinstance(found, Segment), f"segment has to return a Segment, got {type(found).__name__}")
            subject.require(
                same(found, subject.once("segment", self.segment, prepared, *whole)),
                "segment depends on more than what prepare returned: equal experts prepared again give other segments",
            )
            self.check_bytes(prepared, experts)
            for draw in range(5):
                self.segment(prepared, 0, self.high, draw)
        return prepared

    def check_bytes(self, prepared: Any, experts: FakeExperts) -> None:
        """Checks that `stored_bytes` is positive and at most the size of all checkpoints and a few small tables."""
        found = self.subject.call("stored_bytes", self.traj.stored_bytes, prepared)
        rows = experts.num_experts * (self.num_epochs + 1)
        most = rows * (sum(experts.sizes) * self.dtype.itemsize + 8 * len(experts.sizes)) + 1024
        self.subject.require(
            isinstance(found, int) and 0 < found <= most,
            f"stored_bytes says {found!r}, expected an integer from 1 to {most} (all checkpoints and tables of a few "
            "numbers); it is the price of this source beside another",
        )

    def windows(self) -> list[tuple[float, float]]:
        """Windows [low, high) of start epochs to try; each contains a whole number."""
        high, last = self.high, math.ceil(self.high) - 1.0
        found = [(0.0, high), (0.0, 1.0), (0.0, 0.5), (last, high), (last, last + (high - last) / 4)]
        return [*found, (1.0, 2.0), (1.0, min(2.5, high)), (1.0, high)] if high > 2 else found

    def check_windows(self, prepared: Any) -> None:
        """Checks that each segment starts in its window, ends later, and holds two plain parameter vectors."""
        for low, high in self.windows():
            for draw in range(8):
                what = f"segment({low:g}, {high:g})"
                found = self.subject.once(what, self.segment, prepared, low, high, draw)
                self.check_segment(what, found, low, high)

    def check_segment(self, what: str, found: Segment, low: float, high: float) -> None:
        subject, experts = self.subject, self.experts()
        wrong = f"{what} starts at epoch {found.start_epoch}, outside the window; the engine refuses such a segment"
        subject.require(low <= found.start_epoch < high, wrong)
        subject.require(
            found.start_epoch < found.target_epoch <= self.num_epochs,
            f"{what} goes from epoch {found.start_epoch} to {found.target_epoch}; the target lies later, and not after "
            f"the last epoch {self.num_epochs}",
        )
        wrong = f"{what} names expert {found.expert} of 0 … {experts.num_experts - 1}"
        subject.require(0 <= found.expert < experts.num_experts, wrong)
        for part, point in (("start", found.start), ("target", found.target)):
            shape = (sum(experts.sizes),)
            require_tensor(subject, what, point, shape, self.dtype, part=part, given="checkpoints")

    def check_draws(self, prepared: Any) -> None:
        """Checks that every expert is drawn, start epochs vary, and a draw depends only on its generator."""
        first = self.subject.call("segment", self.segment, prepared, 0, self.high, self.seed)
        found = [self.segment(prepared, 0, self.high, self.seed + draw) for draw in range(DRAWS)]
        experts = self.experts().num_experts
        seen = {s.expert for s in found}
        self.subject.require(
            len(seen) == experts,
            f"segment draws only the experts {sorted(seen)} of {experts} in {DRAWS} draws; each has to have its turn",
        )
        starts = {(s.expert, s.start_epoch) for s in found}
        self.subject.require(
            len(starts) > experts or self.high <= 1, "segment always starts at the same epoch; draw it from the window"
        )
        self.subject.again("segment", first, self.segment, prepared, 0, self.high, self.seed)

    def check_device(self, device: torch.device) -> None:
        """Checks that segments are on the device of the checkpoints."""
        experts = FakeExperts(self.num_epochs, self.dtype, self.seed, device)
        prepared = self.traj.prepare(experts)
        for draw in range(3):
            found = self.traj.segment(prepared, 0, self.high, generator(draw))
            for point in (found.start, found.target):
                require_there(self.subject, "segment", point, device)
