"""Augmentations; the hooks are light, components load on demand."""

from __future__ import annotations

from ddfw import offers

NoAugmentationPlugin = offers("ddfw_register_augmentations", "ddfw_plugins.augmentations.none:NoAugmentation")
SiamesePlugin = offers("ddfw_register_augmentations", "ddfw_plugins.augmentations.dsa:Siamese")
