"""Networks that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import hookimpl


class ConvNetPlugin:
    """The plugin that offers `convnet`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.models.convnet import ConvNet

        return [ConvNet]


class MlpPlugin:
    """The plugin that offers `mlp`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.models.mlp import Mlp

        return [Mlp]


class AlexNetPlugin:
    """The plugin that offers `alexnet`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.models.alexnet import AlexNet

        return [AlexNet]


class VggPlugin:
    """The plugin that offers `vgg11`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.models.vgg11 import Vgg11

        return [Vgg11]


class ResNetPlugin:
    """The plugin that offers `resnet18`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.models.resnet18 import ResNet18

        return [ResNet18]


class TorchvisionPlugin:
    """The plugin that offers `torchvision`."""

    @staticmethod
    @hookimpl
    def ddfw_register_models() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.models.torchvision import Torchvision

        return [Torchvision]
