"""Cores and mappers as tensors: subspaces of images, projections into them, and how cores lie in memory.

Shapes: n or B images, C channels, H rows, W columns, r_c/r_h/r_w ranks, F floats of a core.
"""

from __future__ import annotations

import torch
from torch import Tensor


def leading(images: Tensor, mode: str, rank: int) -> Tensor:
    """The leading left singular vectors [size, rank] of the unfolding of images [n, C, H, W] along one mode.

    They are computed in float64 as eigenvectors of the unfolding's Gram matrix. The sign of each vector is chosen so
    that its largest entry is positive, since otherwise it would be arbitrary.
    """
    unfolded = images.double().movedim(1 + "chw".index(mode), 0).flatten(1)
    vectors: Tensor = torch.linalg.eigh(unfolded @ unfolded.T).eigenvectors.flip(1)[:, :rank]
    peaks = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return (vectors * peaks.sign()).to(images.dtype)


def project(images: Tensor, mappers: dict[str, Tensor]) -> Tensor:
    """Projects images [n, C, H, W] to cores [n, r_c, r_h, r_w] by orthonormal mappers [n, size, rank] of some modes."""
    equations = {"c": "nchw,ncr->nrhw", "h": "nchw,nhr->ncrw", "w": "nchw,nwr->nchr"}
    for mode, mapper in mappers.items():
        images = torch.einsum(equations[mode], images, mapper)
    return images


def flatten_cores(cores: Tensor, per_channel: tuple[int, ...] | None) -> Tensor:
    """Flattens cores [n, r_c, r_h, r_w] to [n, F], keeping the leading rows and columns of each rotated channel."""
    if per_channel is None:
        return cores.flatten(1).contiguous()
    return torch.cat([cores[:, j, :r, :r].flatten(1) for j, r in enumerate(per_channel)], dim=1)


def unflatten_cores(flat: Tensor, shape: list[int], per_channel: tuple[int, ...] | None) -> Tensor:
    """Restores cores [B, r_c, r_h, r_w] from [B, F], with zeros where a rotated channel keeps nothing."""
    channels, height, width = shape
    if per_channel is None:
        return flat.view(-1, channels, height, width)
    planes, first = [], 0
    for rank in per_channel:
        rows, columns = min(rank, height), min(rank, width)
        plane = flat[:, first : first + rows * columns].view(-1, rows, columns)
        planes.append(torch.nn.functional.pad(plane, (0, width - columns, 0, height - rows)))
        first += rows * columns
    return torch.stack(planes, dim=1)


def cosine_basis(channels: int) -> Tensor:
    """The orthonormal cosine basis [C, C] (float64), one vector per column; the first is the mean of the channels."""
    position = (torch.arange(channels, dtype=torch.float64) + 0.5) * torch.pi / channels
    basis = torch.cos(position[:, None] * torch.arange(channels, dtype=torch.float64))
    unit: Tensor = basis / basis.norm(dim=0)
    return unit
