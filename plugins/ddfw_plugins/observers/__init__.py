"""Observers; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import hookimpl


class ProgressPlugin:
    """Offers `progress`."""

    @staticmethod
    @hookimpl
    def ddfw_register_observers() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.observers.progress import Progress

        return [Progress]


class MetricsPlugin:
    """Offers `metrics`."""

    @staticmethod
    @hookimpl
    def ddfw_register_observers() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.observers.metrics import Metrics

        return [Metrics]
