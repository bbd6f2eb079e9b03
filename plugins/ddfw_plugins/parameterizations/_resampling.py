"""Bilinear upsampling by a matrix product, which is deterministic on every device and has a least-squares inverse."""

from __future__ import annotations

import torch
from torch import Tensor


def upsampling(small: int, large: int) -> Tensor:
    """The matrix [large, small] (float64) that upsamples a row of pixels bilinearly, without aligned corners.

    Pixel i of the large row is at position (i + ½) · small / large − ½ of the small row; positions outside the small
    row have the value of its first or last pixel.
    """
    position = (torch.arange(large, dtype=torch.float64) + 0.5) * small / large - 0.5
    position = position.clamp(0, small - 1)
    # A small pixel's weight falls linearly to 0 at distance 1, so that the weights at every position sum to 1.
    return (1 - (position[:, None] - torch.arange(small, dtype=torch.float64)).abs()).clamp(min=0)


def upsample(images: Tensor, height: int, width: int) -> Tensor:
    """Upsamples images [n, C, h, w] to [n, C, height, width]; returns the same tensor if the size is unchanged."""
    if images.shape[2] != height:
        images = upsampling(images.shape[2], height).to(images) @ images
    if images.shape[3] != width:
        images = images @ upsampling(images.shape[3], width).to(images).T
    return images


def least_squares(images: Tensor, height: int, width: int) -> Tensor:
    """The small images [n, C, height, width] whose upsampled versions are nearest to images [n, C, H, W]."""
    if images.shape[2] != height:
        images = torch.linalg.pinv(upsampling(height, images.shape[2])).to(images) @ images
    if images.shape[3] != width:
        images = images @ torch.linalg.pinv(upsampling(width, images.shape[3])).to(images).T
    return images
