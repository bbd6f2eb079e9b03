"""Matching losses that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import hookimpl


class RatioPlugin:
    """The plugin that offers `ratio`."""

    @staticmethod
    @hookimpl
    def ddfw_register_losses() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.losses.ratio import Ratio

        return [Ratio]


class NearestStepPlugin:
    """The plugin that offers `nearest`."""

    @staticmethod
    @hookimpl
    def ddfw_register_losses() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.losses.nearest import NearestStep

        return [NearestStep]


class MaskedPlugin:
    """The plugin that offers `masked`."""

    @staticmethod
    @hookimpl
    def ddfw_register_losses() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.losses.masked import Masked

        return [Masked]
