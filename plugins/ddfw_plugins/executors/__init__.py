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


class CudaPlugin:
    """Offers `cuda`."""

    @staticmethod
    @hookimpl
    def ddfw_register_executors() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.executors.cuda import Cuda

        return [Cuda]


class TorchrunPlugin:
    """Offers `torchrun`."""

    @staticmethod
    @hookimpl
    def ddfw_register_executors() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.executors.torchrun import Torchrun

        return [Torchrun]


class RayPlugin:
    """Offers `ray`."""

    @staticmethod
    @hookimpl
    def ddfw_register_executors() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.executors.ray import Ray

        return [Ray]
