"""Trajectory sources; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import offers

CheckpointsPlugin = offers("ddfw_register_trajectories", "ddfw_plugins.trajectories.mtt:Checkpoints")
ConvexTrajectoryPlugin = offers("ddfw_register_trajectories", "ddfw_plugins.trajectories.mct:ConvexTrajectory")
