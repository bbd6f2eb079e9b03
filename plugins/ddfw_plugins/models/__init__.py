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


class MlpPlugin:
    """Offers `mlp`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.models.mlp import Mlp

        return [Mlp]


class AlexNetPlugin:
    """Offers `alexnet`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.models.alexnet import AlexNet

        return [AlexNet]


class VggPlugin:
    """Offers `vgg11`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.models.vgg11 import Vgg11

        return [Vgg11]


class ResNetPlugin:
    """Offers `resnet18`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.models.resnet18 import ResNet18

        return [ResNet18]


class TorchvisionPlugin:
    """Offers `torchvision`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.models.torchvision import Torchvision

        return [Torchvision]
