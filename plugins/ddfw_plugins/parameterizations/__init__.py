"""Parameterisations that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import hookimpl


class PixelPlugin:
    """The plugin that offers `pixel`."""

    @staticmethod
    @hookimpl
    def ddfw_register_parameterizations() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.parameterizations.pixel import Pixel

        return [Pixel]


class LowRankSpacePlugin:
    """The plugin that offers `lss`."""

    @staticmethod
    @hookimpl
    def ddfw_register_parameterizations() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.parameterizations.lss import LowRankSpace

        return [LowRankSpace]


class LinearBasesPlugin:
    """The plugin that offers `linba`."""

    @staticmethod
    @hookimpl
    def ddfw_register_parameterizations() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.parameterizations.linba import LinearBases

        return [LinearBases]


class FrequencyPlugin:
    """The plugin that offers `fred`."""

    @staticmethod
    @hookimpl
    def ddfw_register_parameterizations() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.parameterizations.fred import FrequencyCoefficients

        return [FrequencyCoefficients]


class MultiFormationPlugin:
    """The plugin that offers `multiformation`."""

    @staticmethod
    @hookimpl
    def ddfw_register_parameterizations() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.parameterizations.multiformation import MultiFormation

        return [MultiFormation]
