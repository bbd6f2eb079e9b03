"""Trajectory sources; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import hookimpl


class CheckpointsPlugin:
    """Offers `mtt`."""

    @staticmethod
    @hookimpl
    def ddfw_register_trajectories() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.trajectories.mtt import Checkpoints

        return [Checkpoints]


class ConvexTrajectoryPlugin:
    """Offers `mct`."""

    @staticmethod
    @hookimpl
    def ddfw_register_trajectories() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.trajectories.mct import ConvexTrajectory

        return [ConvexTrajectory]
