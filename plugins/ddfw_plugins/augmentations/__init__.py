"""Augmentations that ship with ddfw, one plugin each; a component is imported when its hook is called."""

from __future__ import annotations

from ddfw import offers

NoAugmentationPlugin = offers("ddfw_register_augmentations", "ddfw_plugins.augmentations.none:NoAugmentation")
SiamesePlugin = offers("ddfw_register_augmentations", "ddfw_plugins.augmentations.dsa:Siamese")
