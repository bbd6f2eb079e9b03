"""Observers; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import offers

ProgressPlugin = offers("ddfw_register_observers", "ddfw_plugins.observers.progress:Progress")
MetricsPlugin = offers("ddfw_register_observers", "ddfw_plugins.observers.metrics:Metrics")
