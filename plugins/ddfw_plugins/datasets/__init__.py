"""Data sets that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import hookimpl


class DigitsPlugin:
    """The plugin that offers `digits`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.digits import Digits

        return [Digits]


class NpzPlugin:
    """The plugin that offers `npz`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.npz import Npz

        return [Npz]


class ImageFolderPlugin:
    """The plugin that offers `imagefolder`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.imagefolder import ImageFolder

        return [ImageFolder]


class Cifar10Plugin:
    """The plugin that offers `cifar10`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.cifar import Cifar10

        return [Cifar10]


class Cifar100Plugin:
    """The plugin that offers `cifar100`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.cifar import Cifar100

        return [Cifar100]


class MnistPlugin:
    """The plugin that offers `mnist`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.mnist import Mnist

        return [Mnist]


class FashionMnistPlugin:
    """The plugin that offers `fashionmnist`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.mnist import FashionMnist

        return [FashionMnist]


class SvhnPlugin:
    """The plugin that offers `svhn`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.svhn import Svhn

        return [Svhn]


class TinyImageNetPlugin:
    """The plugin that offers `tinyimagenet`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.datasets.tinyimagenet import TinyImageNet

        return [TinyImageNet]
