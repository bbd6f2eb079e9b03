"""Observers that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import hookimpl


class ProgressPlugin:
    """The plugin that offers `progress`."""

    @staticmethod
    @hookimpl
    def ddfw_register_observers() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.observers.progress import Progress

        return [Progress]


class MetricsPlugin:
    """The plugin that offers `metrics`."""

    @staticmethod
    @hookimpl
    def ddfw_register_observers() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.observers.metrics import Metrics

        return [Metrics]
