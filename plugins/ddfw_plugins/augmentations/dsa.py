"""`dsa`: differentiable siamese augmentation: one transformation for a whole batch, random parameters for each image.

Shapes: B images, C channels, H rows, W columns. Draws u are uniform in [0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, final

import torch
from attrs import frozen
from attrs.validators import ge, le
from torch import Tensor

from ddfw import AbstractAugmentation, Draws, option

Shape = tuple[int, int, int, int]
FAMILIES = ("color", "crop", "cutout", "flip", "scale", "rotate")


@final
@frozen(kw_only=True)
class Siamese(AbstractAugmentation):
    """Differentiable siamese augmentation: colour, crop, cutout, flip, scale, rotate.

    Each batch gets one of them.
    """

    name: ClassVar[str] = "dsa"
    citation: ClassVar[str] = """@inproceedings{zhao2021dsa,
  title = {Dataset Condensation with Differentiable Siamese Augmentation},
  author = {Zhao, Bo and Bilen, Hakan},
  booktitle = {ICML},
  year = {2021}
}"""

    families: tuple[str, ...] = option(FAMILIES, help=f"transformations to draw from: any of {', '.join(FAMILIES)}")
    flip: float = option(0.5, validator=[ge(0.0), le(1.0)], help="probability that an image is mirrored")
    scale: float = option(1.2, validator=ge(1.0), help="largest scale factor of each axis; the smallest is 1/scale")
    rotate: float = option(15.0, validator=[ge(0.0), le(180.0)], help="largest angle of rotation, in degrees")
    crop: float = option(0.125, validator=[ge(0.0), le(1.0)], help="largest shift, as a fraction of the image's side")
    cutout: float = option(0.5, validator=[ge(0.0), le(1.0)], help="side of the hole, as a fraction of the image's")
    brightness: float = option(1.0, validator=ge(0.0), help="the number added to an image lies in ±brightness/2")
    saturation: float = option(2.0, validator=ge(0.0), help="largest factor of a pixel's difference from its grey")
    contrast: float = option(
        0.5, validator=ge(0.0), help="factors of the difference from the mean lie in [contrast, contrast + 1)"
    )

    def __attrs_post_init__(self) -> None:
        unknown = [f for f in self.families if f not in FAMILIES]
        if unknown or not self.families:
            raise ValueError(f"families must name some of {', '.join(FAMILIES)}; got {', '.join(unknown) or 'none'}")

    def draw(self, shape: Shape, rng: torch.Generator) -> Draws:
        """Draws one transformation for the batch, then its random parameters for each image."""
        family = self.families[int(torch.randint(len(self.families), (), generator=rng))]
        return Draws(family=family, values=self.draw_family(family, shape, rng))

    def draw_family(self, family: str, shape: Shape, rng: torch.Generator) -> Mapping[str, Tensor]:
        """Draws the parameters of one transformation: tensors [B], uniform in [0, 1) or integer offsets in pixels."""
        b, _, h, w = shape

        def uniform() -> Tensor:
            return torch.rand(b, generator=rng)

        def integers(low: int, high: int) -> Tensor:
            return torch.randint(low, high + 1, (b,), generator=rng)

        if family == "color":
            return {"brightness": uniform(), "saturation": uniform(), "contrast": uniform()}
        if family == "crop":
            rows, columns = _portion(self.crop, h), _portion(self.crop, w)
            return {"rows": integers(-rows, rows), "columns": integers(-columns, columns)}
        if family == "cutout":
            # The centre of a hole of even size is between two pixels, so it has one more possible position.
            rows, columns = (side - _portion(self.cutout, side) % 2 for side in (h, w))
            return {"rows": integers(0, rows), "columns": integers(0, columns)}
        if family == "flip":
            return {"u": uniform()}
        if family == "scale":
            return {"x": uniform(), "y": uniform()}
        return {"u": uniform()}

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Applies the drawn transformation to images [B, C, H, W]; differentiable with respect to the images."""
        family: Callable[[Tensor, Mapping[str, Tensor]], Tensor] = getattr(self, f"apply_{draws.family}")
        return family(images, draws.values)

    def apply_color(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Changes brightness, then saturation, then contrast of images [B, C, H, W]."""
        images = images + self.brightness * (_column(values["brightness"], images) - 0.5)
        grey = images.mean(dim=1, keepdim=True)
        images = (images - grey) * (self.saturation * _column(values["saturation"], images)) + grey
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        return (images - mean) * (_column(values["contrast"], images) + self.contrast) + mean

    def apply_crop(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Shifts images [B, C, H, W] by whole pixels; pixels from outside the image are 0."""
        b, _, h, w = images.shape
        rows = torch.arange(h, device=images.device) + values["rows"][:, None]
        columns = torch.arange(w, device=images.device) + values["columns"][:, None]
        inside = ((rows >= 0) & (rows < h))[:, :, None] & ((columns >= 0) & (columns < w))[:, None, :]
        number = torch.arange(b, device=images.device)[:, None, None]
        moved = images.movedim(1, 3)[number, rows.clamp(0, h - 1)[:, :, None], columns.clamp(0, w - 1)[:, None, :]]
        return moved.movedim(3, 1) * inside[:, None]

    def apply_cutout(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Sets a hole in images [B, C, H, W] to 0; positions outside the image are moved to its edge row or column."""
        _, _, h, w = images.shape
        hole_rows = _hole(values["rows"], _portion(self.cutout, h), h)
        hole_columns = _hole(values["columns"], _portion(self.cutout, w), w)
        hole = hole_rows[:, None, :, None] & hole_columns[:, None, None, :]
        return images * ~hole

    def apply_flip(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Mirrors those images of [B, C, H, W] whose u is below `flip`, left to right."""
        return torch.where(_column(values["u"], images) < self.flip, images.flip(3), images)

    def apply_scale(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Scales each axis of images [B, C, H, W] by a factor in [1/scale, scale]; above 1 the image shrinks."""
        return _warp(images, self.scales({key: value.to(images) for key, value in values.items()}))

    def apply_rotate(self, images: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Rotates images [B, C, H, W] by angles in ±rotate; images that are not square are sheared as well."""
        return _warp(images, self.rotations({key: value.to(images) for key, value in values.items()}))

    def scales(self, values: Mapping[str, Tensor]) -> Tensor:
        """The matrices [B, 2, 2] of the transformation scale, for draws x and y [B]."""
        low = 1 / self.scale
        x, y = (values[key] * (self.scale - low) + low for key in ("x", "y"))
        zero = torch.zeros_like(x)
        return torch.stack([x, zero, zero, y], dim=1).view(-1, 2, 2)

    def rotations(self, values: Mapping[str, Tensor]) -> Tensor:
        """The matrices [B, 2, 2] of the transformation rotate, for draws u [B]."""
        angle = (values["u"] - 0.5) * (2 * self.rotate * math.pi / 180)
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)


def _portion(fraction: float, side: int) -> int:
    return int(fraction * side + 0.5)


def _column(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype).view(-1, 1, 1, 1)


def _hole(offset: Tensor, size: int, side: int) -> Tensor:
    """The rows (or columns) covered by holes of `size` around `offset` [B], as a mask [B, side]."""
    if size == 0:
        return torch.zeros(len(offset), side, dtype=torch.bool, device=offset.device)
    first = (offset - size // 2).clamp(0, side - 1)[:, None]
    last = (offset - size // 2 + size - 1).clamp(0, side - 1)[:, None]
    position = torch.arange(side, device=offset.device)
    return (position >= first) & (position <= last)


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Samples images bilinearly at positions multiplied by matrices [B, 2, 2]; 0 outside; corner pixels are at ±1."""
    rows, columns = (_positions(side, images) for side in images.shape[2:])
    # All x of an image come before all y, which the sampler reads faster than the pairs of affine_grid.
    moved = matrices[:, :, 0, None, None] * columns + matrices[:, :, 1, None, None] * rows[:, None]  # [B, 2, H, W]
    if images.device.type != "cpu" and torch.are_deterministic_algorithms_enabled():
        return _gathered(images, moved)
    # `grid_sample` would take cuDNN's sampler on a GPU: it refuses some memory layouts, and computes a gradient of the
    # positions that nobody reads. 0, 0: bilinear, and zeros outside.
    return torch.grid_sampler_2d(images, moved.permute(0, 2, 3, 1), 0, 0, True)


def _gathered(images: Tensor, positions: Tensor) -> Tensor:
    """Samples images bilinearly as `_warp` does, at positions [B, 2, H, W] in [−1, 1], by reading four pixels for each.

    The backward pass of reading by indices repeats to the bit on a GPU, which that of PyTorch's sampler does not.
    """
    b, _, h, w = images.shape
    x, y = ((positions[:, axis] + 1) * ((side - 1) / 2) for axis, side in ((0, w), (1, h)))  # [B, H, W], in pixels
    number, pixels = torch.arange(b, device=images.device)[:, None, None], images.movedim(1, 3)
    found = torch.zeros_like(pixels)
    for row in (y.floor(), y.floor() + 1):
        for column in (x.floor(), x.floor() + 1):
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            weight = (1 - (y - row).abs()) * (1 - (x - column).abs()) * inside
            place = number, row.clamp(0, h - 1).long(), column.clamp(0, w - 1).long()
            found = found + pixels[place] * weight[..., None]
    return found.movedim(3, 1)


def _positions(side: int, like: Tensor) -> Tensor:
    """The positions [side] of pixels along an axis, from −1 to 1; 0 for a single pixel."""
    if side == 1:
        return torch.zeros(1, dtype=like.dtype, device=like.device)
    return torch.linspace(-1, 1, side, dtype=like.dtype, device=like.device)
