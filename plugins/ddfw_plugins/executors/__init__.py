"""Executors; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import hookimpl


class CpuPlugin:
    """Offers `cpu`."""

    @staticmethod
    @hookimpl
    def ddfw_register_executors() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.executors.cpu import Cpu

        return [Cpu]
