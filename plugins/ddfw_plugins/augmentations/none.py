"""`none`: no augmentation."""

from __future__ import annotations

from typing import ClassVar, final

from attrs import frozen

from ddfw.contracts.augmentation import IdentityAugmentation


@final
@frozen(kw_only=True)
class NoAugmentation(IdentityAugmentation):
    """No augmentation: images are not changed."""

    name: ClassVar[str] = "none"
