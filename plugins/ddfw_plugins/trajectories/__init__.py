"""Trajectory sources that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import offers

CheckpointsPlugin = offers("ddfw_register_trajectories", "ddfw_plugins.trajectories.mtt:Checkpoints")
ConvexTrajectoryPlugin = offers("ddfw_register_trajectories", "ddfw_plugins.trajectories.mct:ConvexTrajectory")
