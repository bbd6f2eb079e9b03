"""Convolutions as matrix products, in one of two ways that a fixed rule chooses by shape.

Both ways have the same form: three linear maps around a (batched) matrix product, so that every derivative of a
convolution, of any order, is made of the same three maps, their adjoints, and products.

    y = maps(rows(x) · weights(w)),   ∂y/∂x is rows_adjoint(maps_adjoint(dy) · weights(w)ᵀ), and so on

`Patches` puts the k×k neighbourhood of each pixel in a row. `Tiles` is Winograd's F(2×2, 3×3): sixteen products of C
channels stand for the nine of four pixels, 2.25 times fewer multiplications than the definition has.

Shapes: B images, C channels to O channels, H rows and W columns to H' and W', k×k kernels; maps lie as [H, W, B, C], so
that operations on rows, columns and neighbourhoods run along B·C numbers that are next to each other.
Source of `Tiles`: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

#: Fewest input and output channels with which a 3×3 convolution goes by `Tiles`: transforms cost as much as products
#: with fewer.
TILES_CHANNELS = 48
#: Fewest pixels H·W with which a 3×3 convolution goes by `Tiles`; smaller maps cost more calls than arithmetic.
TILES_PIXELS = 32

#: `Patches` finds the input's cotangent as a convolution with at most this many output channels to an input channel.
TURNED = 4

Binary = Callable[..., Tensor]


class Convolving(ABC):
    """A way to convolve maps [H, W, B, C]; K is the number of products, T the number of rows of each.

    Args:
        layer: the convolution, of which only the sizes are read.
        height: rows H of the input.
        width: columns W of the input.
    """

    def __init__(self, layer: nn.Conv2d, height: int, width: int) -> None:
        assert not isinstance(layer.padding, str)
        self.channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel, self.padding = ((int(pair[0]), int(pair[1])) for pair in (layer.kernel_size, layer.padding))
        self.sides = (height, width)
        self.height, self.width = (
            side + 2 * padding - kernel + 1
            for side, padding, kernel in zip(self.sides, self.padding, self.kernel, strict=True)
        )

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """Turns maps [H, W, B, C] into the left factors [K, T, M] of the products."""

    @abstractmethod
    def rows_adjoint(self, cotangent: Tensor, images: int) -> Tensor:
        """Turns a cotangent [K, T, M] of `rows` of B = `images` images into that of the maps [H, W, B, C]."""

    def inputs(self, pairs: Sequence[tuple[Tensor, Tensor]], images: int) -> Tensor:
        """The cotangent of maps [H, W, B, C], from pairs of products' cotangents [K, T, O] and factors [K, M, O]."""
        (products, factors), *others = pairs
        rows = torch.bmm(products, factors.transpose(1, 2))
        for products, factors in others:
            rows = rows.baddbmm_(products, factors.transpose(1, 2))
        return self.rows_adjoint(rows, images)

    @abstractmethod
    def weights(self, w: Tensor) -> Tensor:
        """Turns weights [O, C, k, k] into the right factors [K, M, O] of the products."""

    @abstractmethod
    def weights_adjoint(self, cotangent: Tensor) -> Tensor:
        """Turns a cotangent [K, M, O] of `weights` into that of the weights, flat [O·C·k·k]."""

    @abstractmethod
    def maps(self, products: Tensor) -> Tensor:
        """Turns the products [K, T, O] into maps [H'·W', B·O]."""

    @abstractmethod
    def maps_adjoint(self, cotangent: Tensor) -> Tensor:
        """Turns a cotangent [H'·W', B·O] of `maps` into that of the products [K, T, O]."""


class Patches(Convolving):
    """One product with the neighbourhood of each pixel; takes any kernel and padding."""

    def rows(self, x: Tensor) -> Tensor:
        """Copies each pixel's neighbourhood: [H, W, B, C] to [1, H'·W'·B, k·k·C]."""
        return self._neighbourhoods(_padded(x, self.padding))

    def rows_adjoint(self, cotangent: Tensor, images: int) -> Tensor:
        """Adds up what each pixel's copies got."""
        (height, width), (above, left) = self.sides, self.padding
        parts = cotangent.view(self.height, self.width, images, *self.kernel, self.channels)
        places = [(i, j) for i in range(self.kernel[0]) for j in range(self.kernel[1])]
        if torch.compiler.is_compiling():
            # Additions to slices in place would be nested conditions, which take the compiler minutes.
            rows, columns = self.kernel[0] - 1, self.kernel[1] - 1
            wide = [pad(parts[:, :, :, i, j], (0, 0, 0, 0, j, columns - j, i, rows - i)) for i, j in places]
            padded = sum(wide[1:], start=wide[0])
        else:
            padded = cotangent.new_zeros(height + 2 * above, width + 2 * left, images, self.channels)
            for i, j in places:
                padded[i : i + self.height, j : j + self.width] += parts[:, :, :, i, j]
        return padded[above : above + height, left : left + width]

    def inputs(self, pairs: Sequence[tuple[Tensor, Tensor]], images: int) -> Tensor:
        """The cotangent of the maps [H, W, B, C], itself a convolution of that of the products, with turned kernels."""
        margin = (self.kernel[0] - 1 - self.padding[0], self.kernel[1] - 1 - self.padding[1])
        if min(margin) < 0 or self.out_channels > TURNED * self.channels:
            return super().inputs(pairs, images)
        found: Tensor | None = None
        for products, factors in pairs:
            maps = products.view(self.height, self.width, images, self.out_channels)
            rows = self._neighbourhoods(_padded(maps, margin))
            kernels = factors.view(-1, self.channels, self.out_channels).flip(0).transpose(1, 2)
            turned = kernels.reshape(1, -1, self.channels)
            found = torch.bmm(rows, turned) if found is None else found.baddbmm_(rows, turned)
        assert found is not None
        return found.view(*self.sides, images, self.channels)

    def _neighbourhoods(self, padded: Tensor) -> Tensor:
        """The k×k neighbourhoods in maps that have their margin, as rows."""
        height, width, images, channels = padded.shape
        down, right, image, channel = padded.stride()
        view = padded.as_strided(
            (height - self.kernel[0] + 1, width - self.kernel[1] + 1, images, *self.kernel, channels),
            (down, right, image, down, right, channel),
        )
        return view.reshape(1, -1, self.kernel[0] * self.kernel[1] * channels)

    def weights(self, w: Tensor) -> Tensor:
        """Weights [O, C, k, k] as a matrix [1, k·k·C, O]."""
        return w.permute(2, 3, 1, 0).reshape(1, -1, self.out_channels)

    def weights_adjoint(self, cotangent: Tensor) -> Tensor:
        """The inverse of `weights`, flat."""
        return cotangent.view(*self.kernel, self.channels, self.out_channels).permute(3, 2, 0, 1).reshape(-1)

    def maps(self, products: Tensor) -> Tensor:
        """The products are the maps."""
        return products.view(self.height * self.width, -1)

    def maps_adjoint(self, cotangent: Tensor) -> Tensor:
        """The maps are the products."""
        return cotangent.view(1, -1, self.out_channels)


class Tiles(Convolving):
    """Sixteen products with tiles of 4×4 pixels, which overlap by two; for 3×3 kernels, stride 1 and padding 1."""

    def __init__(self, layer: nn.Conv2d, height: int, width: int) -> None:
        super().__init__(layer, height, width)
        self.tiles = ((height + 1) // 2, (width + 1) // 2)

    def rows(self, x: Tensor) -> Tensor:
        """Tiles of [H, W, B, C], transformed along both sides: [16, T, C] for T = tiles · B."""
        down, right = self.tiles
        padded = _padded(x, (1, 1), (2 * down + 2, 2 * right + 2))
        by_rows = _spread_tiles(padded, 0, down)
        return _spread_tiles(by_rows, 2, right).view(16, -1, x.shape[3])

    def rows_adjoint(self, cotangent: Tensor, images: int) -> Tensor:
        """Tiles back to maps [H, W, B, C]."""
        down, right = self.tiles
        by_columns = cotangent.view(4, 4, down, right, images, self.channels)
        by_rows = _gather_tiles(by_columns, 2)
        padded = _gather_tiles(by_rows, 0)
        return padded[1 : 1 + self.sides[0], 1 : 1 + self.sides[1]]

    def weights(self, w: Tensor) -> Tensor:
        """G w Gᵀ of each 3×3 kernel, as [16, C, O]."""
        matrix = _kernel_matrix(w)
        return (matrix @ w.view(-1, 9).t()).view(16, self.out_channels, self.channels).transpose(1, 2)

    def weights_adjoint(self, cotangent: Tensor) -> Tensor:
        """Gᵀ u G of each, flat."""
        kernels = _kernel_matrix(cotangent).t() @ cotangent.reshape(16, -1)
        return kernels.view(9, self.channels, self.out_channels).permute(2, 1, 0).reshape(-1)

    def maps(self, products: Tensor) -> Tensor:
        """Two by two pixels from each tile, cropped to [H'·W', B·O]."""
        down, right = self.tiles
        by_columns = products.view(4, 4, down, right, -1)
        by_rows = _shrink_tiles(by_columns, 2)
        found = _shrink_tiles(by_rows, 0)
        return found[: self.height, : self.width].reshape(self.height * self.width, -1)

    def maps_adjoint(self, cotangent: Tensor) -> Tensor:
        """Pixels back to the products of tiles [16, T, O]."""
        down, right = self.tiles
        maps = cotangent.view(self.height, self.width, -1)
        if self.height % 2 or self.width % 2:
            maps = _padded(maps, (0, 0), (2 * down, 2 * right))
        by_rows = _widen_tiles(maps, 0)
        return _widen_tiles(by_rows, 2).view(16, -1, self.out_channels)


def way_of(layer: nn.Conv2d, height: int, width: int) -> Convolving:
    """The way in which a convolution of maps of height × width is computed: by shape alone, never by timing."""
    plain = (layer.kernel_size, layer.padding) == ((3, 3), (1, 1))
    wide = min(layer.in_channels, layer.out_channels) >= TILES_CHANNELS
    return (Tiles if plain and wide and height * width >= TILES_PIXELS else Patches)(layer, height, width)


def _padded(x: Tensor, padding: tuple[int, int], shape: tuple[int, int] | None = None) -> Tensor:
    """Maps [H, W, …] with zeros around: `padding` above and left of them, the rest up to `shape` below and right."""
    (above, left), (height, width) = padding, x.shape[:2]
    if shape is None:
        shape = (height + 2 * above, width + 2 * left)
    if shape == (height, width):
        return x.contiguous()
    found = x.new_zeros(*shape, *x.shape[2:])
    found[above : above + height, left : left + width] = x
    return found


def _kernel_matrix(like: Tensor) -> Tensor:
    """The Kronecker product G ⊗ G [16, 9] of Winograd's matrix for kernels."""
    rows = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]]
    g = torch.tensor(rows, dtype=like.dtype, device=like.device)
    # The columns of tiles come first, as in `Tiles.rows`.
    return torch.einsum("ai,bj->baij", g, g).reshape(16, 9)


def _stacked(parts: Sequence[tuple[Binary, Tensor, Tensor]]) -> Tensor:
    """The results of operations on two tensors, stacked along a new first axis."""
    if torch.compiler.is_compiling():
        return torch.stack([operation(a, b) for operation, a, b in parts])
    found = parts[0][1].new_empty(len(parts), *parts[0][1].shape)
    for out, (operation, a, b) in zip(found, parts, strict=True):
        operation(a, b, out=out)
    return found


def _every_second(x: Tensor, axis: int, first: int, count: int) -> Tensor:
    """The `count` slices at first, first + 2, … along an axis."""
    return x[(slice(None),) * axis + (slice(first, first + 2 * count - 1, 2),)]


def _spread_tiles(x: Tensor, axis: int, count: int) -> Tensor:
    """Along one axis of 2n + 2 pixels, n tiles of four: Bᵀ of each, stacked first."""
    a, b, c, d = [_every_second(x, axis, first, count) for first in range(4)]
    return _stacked([(torch.sub, a, c), (torch.add, b, c), (torch.sub, c, b), (torch.sub, b, d)])


def _gather_tiles(t: Tensor, axis: int) -> Tensor:
    """The adjoint of `_spread_tiles`: stacked tiles back to 2n + 2 pixels along the axis that was `axis` before."""
    zero, one, two, three = t.unbind()
    count, shape = zero.shape[axis], list(zero.shape)
    both = one + two
    difference = one - two
    if torch.compiler.is_compiling():
        before, behind = [0, 0] * (zero.ndim - axis), [0, 0] * (zero.ndim - axis)
        before[-2], behind[-1] = 1, 1
        even = pad(zero, behind) + pad(both - zero, before)
        odd = pad(difference + three, behind) - pad(three, before)
        return torch.stack([even, odd], dim=axis + 1).flatten(axis, axis + 1)
    shape[axis] = 2 * count + 2
    found = t.new_empty(shape)
    even, odd = _every_second(found, axis, 0, count + 1), _every_second(found, axis, 1, count + 1)
    even.narrow(axis, 0, count).copy_(zero)
    odd.narrow(axis, 0, count).copy_(difference.add_(three))
    even.narrow(axis, count, 1).zero_()
    odd.narrow(axis, count, 1).zero_()
    even.narrow(axis, 1, count).add_(both.sub_(zero))
    odd.narrow(axis, 1, count).sub_(three)
    return found


def _shrink_tiles(t: Tensor, axis: int) -> Tensor:
    """Along one axis, Aᵀ of stacked tiles: two pixels from each, interleaved."""
    zero, one, two, three = t.unbind()
    even, odd = (one + two).add_(zero), (one - two).sub_(three)
    return torch.stack([even, odd], dim=axis + 1).flatten(axis, axis + 1)


def _widen_tiles(x: Tensor, axis: int) -> Tensor:
    """The adjoint of `_shrink_tiles`: 2n pixels along an axis to n stacked tiles."""
    count = x.shape[axis] // 2
    even, odd = _every_second(x, axis, 0, count), _every_second(x, axis, 1, count)
    if torch.compiler.is_compiling():
        return torch.stack([even, even + odd, even - odd, -odd])
    found = x.new_empty(4, *even.shape)
    found[0].copy_(even)
    torch.add(even, odd, out=found[1])
    torch.sub(even, odd, out=found[2])
    torch.neg(odd, out=found[3])
    return found
