"""Augmentations that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import hookimpl


class NoAugmentationPlugin:
    """The plugin that offers `none`."""

    @staticmethod
    @hookimpl
    def ddfw_register_augmentations() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.augmentations.none import NoAugmentation

        return [NoAugmentation]


class SiamesePlugin:
    """The plugin that offers `dsa`."""

    @staticmethod
    @hookimpl
    def ddfw_register_augmentations() -> list[type]:
        """Called when components of this kind are looked up; returns the class."""
        from ddfw_plugins.augmentations.dsa import Siamese

        return [Siamese]
