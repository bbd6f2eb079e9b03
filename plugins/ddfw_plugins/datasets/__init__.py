"""Data sets; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import hookimpl


class DigitsPlugin:
    """Offers `digits`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.digits import Digits

        return [Digits]


class NpzPlugin:
    """Offers `npz`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.npz import Npz

        return [Npz]
