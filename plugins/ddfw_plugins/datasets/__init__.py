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


class ImageFolderPlugin:
    """Offers `imagefolder`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.imagefolder import ImageFolder

        return [ImageFolder]


class Cifar10Plugin:
    """Offers `cifar10`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.cifar import Cifar10

        return [Cifar10]


class Cifar100Plugin:
    """Offers `cifar100`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.cifar import Cifar100

        return [Cifar100]


class MnistPlugin:
    """Offers `mnist`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.mnist import Mnist

        return [Mnist]


class FashionMnistPlugin:
    """Offers `fashionmnist`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.mnist import FashionMnist

        return [FashionMnist]


class SvhnPlugin:
    """Offers `svhn`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.svhn import Svhn

        return [Svhn]


class TinyImageNetPlugin:
    """Offers `tinyimagenet`."""

    @staticmethod
    @hookimpl
    def ddfw_register_datasets() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.datasets.tinyimagenet import TinyImageNet

        return [TinyImageNet]
