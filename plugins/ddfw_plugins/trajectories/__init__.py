"""Trajectory sources that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import hookimpl


class CheckpointsPlugin:
    """The plugin that offers `mtt`."""

    @staticmethod
    @hookimpl
    def ddfw_register_trajectories() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.trajectories.mtt import Checkpoints

        return [Checkpoints]


class ConvexTrajectoryPlugin:
    """The plugin that offers `mct`."""

    @staticmethod
    @hookimpl
    def ddfw_register_trajectories() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.trajectories.mct import ConvexTrajectory

        return [ConvexTrajectory]
