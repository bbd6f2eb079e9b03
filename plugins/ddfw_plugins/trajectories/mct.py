"""`mct`: convexified trajectories: straight lines between way-points, along which each tensor has its own progress.

For parameter tensor l, with d_l(p) the length of its step from epoch p to p + 1 and two way-points at 0 and K,

    β_l(t) = Σ_{p<t} d_l(p) / Σ_{p<K} d_l(p),        θ̂_l(t) = (1 − β_l(t)) θ_l⁰ + β_l(t) θ_l^K

With more way-points, these equations hold for each piece between two of them. Only way-points and β are kept.

Shapes: E experts, K epochs, P parameters in T tensors, W way-points, L epochs of one piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from attrs import frozen
from attrs.validators import ge, in_
from torch import Tensor

from ddfw import AbstractTrajectory, CompactExpert, OptionError, Segment, option

if TYPE_CHECKING:
    from ddfw import ExpertSource

Progress = Literal["arc_length", "uniform", "projected", "decreasing"]
Smoothing = Literal["none", "official", "legacy"]


@frozen(kw_only=True)
class ConvexExpert:
    """An expert whose path was replaced by straight lines.

    Args:
        epochs: the W epochs of the way-points, the first 0 and the last K.
        points: [W, P], the parameters at the way-points.
        betas: for each of the W − 1 pieces the progress β [T, L + 1] of each tensor.
        sizes: number of elements of each of the T tensors.
    """

    epochs: tuple[int, ...]
    points: Tensor
    betas: tuple[Tensor, ...]
    sizes: tuple[int, ...]

    def at(self, t: float) -> Tensor:
        """The point θ̂(t) [P] for a real number t in [0, K]; β is linear between neighbouring integer epochs.

        Raises:
            ValueError: t is outside [0, K].
        """
        if not self.epochs[0] <= t <= self.epochs[-1]:
            raise ValueError(f"t must lie in [{self.epochs[0]}, {self.epochs[-1]}], got {t}")
        # The last piece includes its end, so that t = K has a value for every number of way-points.
        piece = max(i for i, epoch in enumerate(self.epochs[:-1]) if epoch <= t)
        betas = self.betas[piece]
        local = t - self.epochs[piece]
        left = min(int(local), betas.shape[1] - 2)
        beta = torch.lerp(betas[:, left], betas[:, left + 1], local - left)
        weight = beta.repeat_interleave(torch.tensor(self.sizes, device=beta.device))
        return (1 - weight) * self.points[piece] + weight * self.points[piece + 1]


@final
@frozen(kw_only=True)
class ConvexTrajectory(AbstractTrajectory[tuple[ConvexExpert, ...]]):
    """Straight lines between a few of an expert's checkpoints, in place of its path.

    Segments start anywhere on them.
    """

    name: ClassVar[str] = "mct"
    citation: ClassVar[str] = """@inproceedings{zhong2025mct,
  title = {Towards Stable and Storage-efficient Dataset Distillation: Matching Convexified Trajectory},
  author = {Zhong, Wenliang and Tang, Haoyu and Zheng, Qinghai and Xu, Mingzhu and Hu, Yupeng and Guan, Weili},
  booktitle = {CVPR},
  year = {2025}
}"""

    expert_epochs: int = option(2, validator=ge(1), help="M, epochs from start to target, which is at most epoch K")
    waypoints: Literal["two-point", "official", "paper"] | tuple[int, ...] = option(
        "two-point",
        help="two-point (formerly called paper): first and last checkpoint; official: the released code's four, "
        "smoothed; or a list of epochs",
    )
    smoothing: Smoothing = option(
        "none",
        validator=in_(("none", "official", "legacy")),
        help="how way-points are averaged with their neighbours; with waypoints = official it is always official",
    )
    progress: Progress = option(
        "arc_length",
        validator=in_(("arc_length", "uniform", "projected", "decreasing")),
        help="β. arc_length: relative path length of each tensor; the others are the ablations of the authors' code",
    )
    continuous: bool = option(True, help="true: real-valued start epochs; false: whole ones, as in mtt")

    def __attrs_post_init__(self) -> None:
        if self.waypoints == "paper":
            object.__setattr__(self, "waypoints", "two-point")  # the former name, so that older configurations run
        if isinstance(self.waypoints, tuple):
            epochs = self.waypoints
            if len(epochs) < 2 or epochs[0] != 0 or any(a >= b for a, b in pairwise(epochs)):
                raise ValueError(f"waypoints must rise from 0 to the last epoch, got {list(epochs)}")

    def waypoint_epochs(self, num_epochs: int) -> tuple[int, ...]:
        """The epochs whose checkpoints the path joins by straight lines, for experts of K = `num_epochs` epochs.

        Raises:
            OptionError: the last epoch listed in the option `waypoints` is not K.
        """
        if isinstance(self.waypoints, tuple):
            if self.waypoints[-1] != num_epochs:
                raise OptionError(
                    f"the last way-point is {self.waypoints[-1]}, but experts have {num_epochs} epochs", "waypoints"
                )
            return self.waypoints
        if self.waypoints == "official":
            stride = max((num_epochs + 1) // 3, 1)
            epochs = list(range(0, num_epochs + 1, stride))
            return tuple(epochs if epochs[-1] == num_epochs else [*epochs, num_epochs])
        return 0, num_epochs

    def convexify(self, trajectory: Tensor, sizes: Sequence[int]) -> ConvexExpert:
        """Convexifies one expert.

        Args:
            trajectory: [K + 1, P], one row per epoch.
            sizes: number of elements of each of the T tensors, summing to P.
        Source: Zhong et al., CVPR 2025, and the authors' released code for `official` and the ablations.
        """
        epochs = self.waypoint_epochs(len(trajectory) - 1)
        smoothing = self._smoothing
        if smoothing == "legacy":
            trajectory = smoothed(trajectory, epochs, "legacy")
        betas = tuple(progress(trajectory[a : b + 1], sizes, self.progress) for a, b in pairwise(epochs))
        if smoothing == "official":
            trajectory = smoothed(trajectory, epochs, "official")
        return ConvexExpert(epochs=epochs, points=trajectory[list(epochs)].clone(), betas=betas, sizes=tuple(sizes))

    def prepare(self, experts: ExpertSource) -> tuple[ConvexExpert, ...]:
        """Reads every expert once and keeps way-points and β; a store may hold these instead of checkpoints.

        Raises:
            OptionError: the way-points in the store were made with other options.
        """
        epochs = range(experts.num_epochs + 1)
        found = []
        for number in range(experts.num_experts):
            kept = experts.compact(number)
            if kept is None:
                found.append(self.convexify(experts.snapshots(number, epochs), experts.sizes))
            else:
                found.append(self._restored(kept, experts.sizes))
        return tuple(found)

    def compact(self, checkpoints: Tensor, sizes: Sequence[int]) -> CompactExpert:
        """Keeps of one expert `points` [W, P] and for each piece i the progress `beta_<i>` [T, L + 1]."""
        expert = self.convexify(checkpoints, sizes)
        epochs = expert.epochs
        # Smoothed way-points differ from the checkpoints of their epochs.
        exact = [row for row, epoch in enumerate(epochs) if torch.equal(expert.points[row], checkpoints[epoch])]
        return CompactExpert(
            source=self.name,
            options=self._made_with(epochs),
            num_epochs=epochs[-1],
            tensors={"points": expert.points, **{f"beta_{i}": beta for i, beta in enumerate(expert.betas)}},
            rows={epochs[row]: row for row in exact},
        )

    def _restored(self, kept: CompactExpert, sizes: Sequence[int]) -> ConvexExpert:
        epochs = self.waypoint_epochs(kept.num_epochs)
        wanted = self._made_with(epochs)
        if kept.source != self.name or dict(kept.options) != wanted:
            raise OptionError(
                f"the store keeps what {kept.source} made with {_listed(kept.options)}; this run asks {self.name} for "
                f"{_listed(wanted)}; change traj, or import the buffer again"
            )
        betas = tuple(kept.tensors.get(f"beta_{i}", torch.empty(0, 0)) for i in range(len(epochs) - 1))
        shapes = [(len(sizes), b - a + 1) for a, b in pairwise(epochs)]
        if [tuple(beta.shape) for beta in betas] != shapes or len(kept.tensors["points"]) != len(epochs):
            raise OptionError("the store's way-points or their progress are damaged; import the buffer again")
        return ConvexExpert(epochs=epochs, points=kept.tensors["points"], betas=betas, sizes=tuple(sizes))

    def _made_with(self, epochs: tuple[int, ...]) -> dict[str, object]:
        return {"waypoints": list(epochs), "smoothing": self._smoothing, "progress": self.progress}

    @property
    def _smoothing(self) -> Smoothing:
        return "official" if self.waypoints == "official" else self.smoothing

    def segment(self, trajectories: tuple[ConvexExpert, ...], low: float, high: float, rng: torch.Generator) -> Segment:
        """Draws an expert and a start in [low, high), both uniformly; the start is whole unless `continuous`."""
        expert = int(torch.randint(len(trajectories), (), generator=rng))
        path = trajectories[expert]
        if self.continuous:
            start = low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))
        else:
            first, end = int(-(-low // 1)), int(-(-high // 1))
            start = float(first + int(torch.randint(end - first, (), generator=rng)))
        last = float(path.epochs[-1])
        target = min(start + self.expert_epochs, last)
        return Segment(
            start=path.at(start), target=path.at(target), expert=expert, start_epoch=start, target_epoch=target
        )

    def stored_bytes(self, trajectories: tuple[ConvexExpert, ...]) -> int:
        """Bytes of way-points and β of all experts."""
        tensors = [tensor for expert in trajectories for tensor in (expert.points, *expert.betas)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def latest_high(self, num_epochs: int) -> float:
        """K − 1 for real-valued starts and K for whole ones, so that a segment is at least one epoch long."""
        return num_epochs - 1 if self.continuous else num_epochs

    def notes(self, num_epochs: int, high: float) -> tuple[str, ...]:
        """Says from which start on targets are cut to the last epoch, if the window reaches such starts."""
        last = max(0, num_epochs - self.expert_epochs)
        if high <= last + (not self.continuous):
            return ()
        which = "all targets" if last == 0 else f"targets of segments that start after epoch {last}"
        lengths = f"traj.expert_epochs is {self.expert_epochs}, experts have {num_epochs} epochs"
        return (f"{lengths}: {which} are cut to the last epoch, {num_epochs}",)


def progress(trajectory: Tensor, sizes: Sequence[int], kind: Progress = "arc_length") -> Tensor:
    """The progress β of each tensor along a piece of an expert's path.

    Args:
        trajectory: [L + 1, P], one row per epoch of the piece.
        sizes: number of elements of each of the T tensors, summing to P.
        kind: `arc_length`: relative path length; `uniform`: t/L; `projected`: projection on the straight line, the same
            for all tensors; `decreasing`: increments in the ratio L + 1, L, …, 1, so that β(0) > 0.

    Returns:
        [T, L + 1]. For `arc_length` in [0, 1], non-decreasing, 0 in the first column and 1 in the last (all 0 for a
        tensor that never moves).

    Raises:
        ValueError: there are fewer than two rows, or the sizes do not sum to P.
    Source: Zhong et al., Matching Convexified Trajectory, CVPR 2025; ablations as in the authors' code.
    """
    if len(trajectory) < 2:
        raise ValueError(f"a path needs at least two checkpoints, got {len(trajectory)}")
    if sum(sizes) != trajectory.shape[1]:
        raise ValueError(f"sizes sum to {sum(sizes)}, but checkpoints have {trajectory.shape[1]} parameters")
    length = len(trajectory) - 1
    if kind == "arc_length":
        moved = torch.stack([_steps(piece) for piece in trajectory.split(list(sizes), dim=1)])
        # These few numbers are added up on the CPU: on a GPU torch 2.11 cannot do so in the same order each time.
        far = moved.cpu().cumsum(dim=1).to(moved.device)
        travelled = torch.cat([torch.zeros_like(moved[:, :1]), far], dim=1)
        total = travelled[:, -1:]
        return travelled / torch.where(total == 0, torch.ones_like(total), total)
    if kind == "uniform":
        beta = torch.arange(length + 1).to(trajectory) / length
    elif kind == "projected":
        line = trajectory[-1] - trajectory[0]
        squared = line.dot(line)
        beta = (trajectory - trajectory[0]) @ line / torch.where(squared == 0, torch.ones_like(squared), squared)
    else:
        weights = torch.arange(length + 1, 0, -1).to(trajectory.dtype)
        beta = (weights.cumsum(dim=0) / weights.sum()).to(trajectory.device)
    return beta.expand(len(sizes), -1)


def _listed(options: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(options.items()))


def _steps(path: Tensor) -> Tensor:
    """The lengths [L] of the steps of one tensor's path [L + 1, n]; computed in pieces to save memory."""
    return torch.cat([path[i : i + 5].diff(dim=0).norm(dim=1) for i in range(0, len(path) - 1, 4)])


def smoothed(trajectory: Tensor, epochs: Sequence[int], kind: Literal["official", "legacy"]) -> Tensor:
    """Copies a trajectory and averages its way-points with the checkpoints of neighbouring epochs.

    Args:
        trajectory: [K + 1, P], one row per epoch.
        epochs: epochs of the way-points, from 0 to K.
        kind: `official`: an interior way-point becomes the mean of its two neighbours, then the last one the mean of
            the last two checkpoints; they are changed one after the other in place, so that a neighbour may be a new
            value. `legacy`: an interior one becomes θ_w/2 + (θ_{w−1} + θ_{w+1})/4, the last one
            θ_K/2 + (θ_{K−2} + θ_{K−1})/4.

    Returns:
        [K + 1, P], the copy.
    """
    path, last = trajectory.clone(), epochs[-1]
    for w in epochs[1:-1]:
        neighbours = (path[w - 1] + path[w + 1]) / 2
        path[w] = neighbours if kind == "official" else (path[w] + neighbours) / 2
    if kind == "official":
        path[last] = (path[last - 1] + path[last]) / 2
    elif last >= 2:
        path[last] = (path[last] + (path[last - 2] + path[last - 1]) / 2) / 2
    return path
