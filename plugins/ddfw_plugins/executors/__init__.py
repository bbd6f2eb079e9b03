"""Plugins that offer the executors; each imports its executor only when executors are looked up."""

from __future__ import annotations

from ddfw import hookimpl


class CpuPlugin:
    """Offers the executor `cpu`."""

    @staticmethod
    @hookimpl
    def ddfw_register_executors() -> list[type]:
        """Called when executors are looked up."""
        from ddfw_plugins.executors.cpu import Cpu

        return [Cpu]


class CudaPlugin:
    """Offers the executor `cuda`."""

    @staticmethod
    @hookimpl
    def ddfw_register_executors() -> list[type]:
        """Called when executors are looked up."""
        from ddfw_plugins.executors.cuda import Cuda

        return [Cuda]


class TorchrunPlugin:
    """Offers the executor `torchrun`."""

    @staticmethod
    @hookimpl
    def ddfw_register_executors() -> list[type]:
        """Called when executors are looked up."""
        from ddfw_plugins.executors.torchrun import Torchrun

        return [Torchrun]


class RayPlugin:
    """Offers the executor `ray`."""

    @staticmethod
    @hookimpl
    def ddfw_register_executors() -> list[type]:
        """Called when executors are looked up."""
        from ddfw_plugins.executors.ray import Ray

        return [Ray]
