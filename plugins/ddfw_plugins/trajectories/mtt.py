"""`mtt`: segments between two stored checkpoints of an expert.

Shapes: E experts, K epochs, P parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from attrs import frozen
from attrs.validators import ge

from ddfw import AbstractTrajectory, OptionError, Segment, option
from ddfw_plugins.citations import MTT

if TYPE_CHECKING:
    from ddfw import ExpertSource


@final
@frozen(kw_only=True)
class Checkpoints(AbstractTrajectory["ExpertSource"]):
    """An expert's own checkpoints: from one epoch to the one some epochs later.

    These are the segments of MTT: from the checkpoint after epoch t to that M epochs later.
    """

    name: ClassVar[str] = "mtt"
    citation: ClassVar[str] = MTT

    expert_epochs: int = option(2, validator=ge(1), help="M, epochs from start to target")

    def prepare(self, experts: ExpertSource) -> ExpertSource:
        """Returns the experts unchanged, since each segment reads its two checkpoints from them.

        Raises:
            OptionError: the store keeps only another source's way-points of an expert.
        """
        for expert in range(experts.num_experts):
            if (kept := experts.compact(expert)) is not None:
                raise OptionError(
                    f"mtt needs every checkpoint, but this store keeps what {kept.source} made of them; "
                    f"take traj {kept.source}, or import the buffer again without --as"
                )
        return experts

    def segment(self, trajectories: ExpertSource, low: float, high: float, rng: torch.Generator) -> Segment:
        """Draws an expert and a whole start epoch in [low, high), both uniformly."""
        expert = int(torch.randint(trajectories.num_experts, (), generator=rng))
        first, end = int(-(-low // 1)), int(-(-high // 1))
        epoch = first + int(torch.randint(end - first, (), generator=rng))
        start, target = trajectories.snapshots(expert, [epoch, epoch + self.expert_epochs])
        return Segment(
            start=start,
            target=target,
            expert=expert,
            start_epoch=epoch,
            target_epoch=epoch + self.expert_epochs,
        )

    def stored_bytes(self, trajectories: ExpertSource) -> int:
        """Bytes of E · (K + 1) · P floats."""
        first = trajectories.snapshots(0, [0])
        return trajectories.num_experts * (trajectories.num_epochs + 1) * first.numel() * first.element_size()

    def latest_high(self, num_epochs: int) -> float:
        """K − M + 1, since the last possible start is epoch K − M."""
        return num_epochs - self.expert_epochs + 1
