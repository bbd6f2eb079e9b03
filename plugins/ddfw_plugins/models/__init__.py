"""Networks; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import hookimpl


class ConvNetPlugin:
    """Offers `convnet`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.models.convnet import ConvNet

        return [ConvNet]
