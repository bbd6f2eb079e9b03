"""Augmentations; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import hookimpl


class NoAugmentationPlugin:
    """Offers `none`."""

    @staticmethod
    @hookimpl
    def ddfw_register_augmentations() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.augmentations.none import NoAugmentation

        return [NoAugmentation]


class SiamesePlugin:
    """Offers `dsa`."""

    @staticmethod
    @hookimpl
    def ddfw_register_augmentations() -> list[type]:
        """Called when components of this kind are looked up."""
        from ddfw_plugins.augmentations.dsa import Siamese

        return [Siamese]
