"""Observers that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import offers

ProgressPlugin = offers("ddfw_register_observers", "ddfw_plugins.observers.progress:Progress")
MetricsPlugin = offers("ddfw_register_observers", "ddfw_plugins.observers.metrics:Metrics")
