"""A block of a ConvNet – convolution, group normalisation, ReLU, pooling – with its derivatives written down.

A block's step goes forward when it is made, and then `backward`, which gives the gradient of the loss by θ. The
derivative of that gradient along a direction λ of θ is what `forward_along` and `backward_along` give, called in this
order. A dot means that derivative: with the normalised maps x̂, u = w x̂ + b, a mask M where u > 0, r = 1/√(var + ε), and
m(·) a group's mean,

    p = pool(M u)                 ṗ = pool(M u̇),   u̇ = w x̂̇ + ẇ x̂ + ḃ,   x̂̇ = r (ẏ − m(ẏ) − x̂ m(x̂ ẏ))
    dy = r (v − m(v) − x̂ m(v x̂)),   v = w M spread(dp)
    ḋy = −r m(x̂ ẏ) dy + r (v̇ − m(v̇) − x̂̇ m(v x̂) − x̂ m(v̇ x̂ + v x̂̇)),   v̇ = ẇ M spread(dp) + w M spread(ḋp)

All of it is linear in few maps, with coefficients for each channel of each image, and sums over du = M spread(dp) are
sums over pooled maps: Σ du x̂ = Σ dp pool(M x̂). So few operations touch maps of full size.

Shapes: B images, C channels in, O out; L = H'·W' pixels of the convolution's output, L'' = H''·W'' of the block's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ddfw.engine.convolving import Convolving, way_of

#: Derivatives by a block's parameters, flat and in their order.
Pieces = list[Tensor]


class ConvBlock:
    """The sizes of a block of layers on maps of height × width.

    Args:
        layers: a convolution, a group normalisation with scale and shift, and maybe 2×2 pooling.
        height: rows of the input.
        width: columns of the input.
    """

    def __init__(self, layers: Sequence[nn.Module], height: int, width: int) -> None:
        convolution, norm = layers[:2]
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.GroupNorm)
        self.way: Convolving = way_of(convolution, height, width)
        self.biased = convolution.bias is not None
        self.out_channels, self.groups, self.eps = convolution.out_channels, norm.num_groups, norm.eps
        self.pooled = len(layers) == 3
        self.num_parameters = 4 if self.biased else 3
        self.sides = (self.way.height, self.way.width)
        self.out_sides = (self.sides[0] // 2, self.sides[1] // 2) if self.pooled else self.sides
        self.length = self.sides[0] * self.sides[1]
        self.members = self.out_channels // self.groups

    def group_mean(self, sums: Tensor) -> Tensor:
        """Sums over each channel of an image [..., B, O], as means over the channel's group, of the same shape."""
        means: Tensor = sums * (1.0 / (self.length * self.members))
        if self.members == 1:
            return means
        grouped = means.unflatten(-1, (self.groups, self.members)).sum(dim=-1, keepdim=True)
        means = grouped.expand(*grouped.shape[:-1], self.members).reshape(sums.shape)
        return means

    def pool(self, maps: Tensor) -> Tensor:
        """Pools maps [L, B, O] to [L'', B, O]."""
        if not self.pooled:
            return maps
        image = maps.view(1, *self.sides, -1).permute(0, 3, 1, 2)
        return avg_pool2d(image, 2).permute(0, 2, 3, 1).reshape(-1, *maps.shape[1:])

    def spread(self, cotangent: Tensor, mask: Tensor, base: Tensor) -> Tensor:
        """Adds the masked cotangent [L'', B, O] of one pooled map, spread over four pixels each, to a map `base`."""
        if not self.pooled:
            return base.addcmul_(mask, cotangent)
        down, right = self.out_sides
        parts = [
            maps.view(*self.sides, -1)[: 2 * down, : 2 * right].unflatten(1, (right, 2)).unflatten(0, (down, 2))
            for maps in (base, mask)
        ]
        parts[0].addcmul_(parts[1], cotangent.view(down, 1, right, 1, -1), value=0.25)
        return base


class Prepared:
    """Parameters of a block, or a direction of them: the factors [K, M, O] of its products, and vectors [O]."""

    def __init__(self, block: ConvBlock, parameters: Sequence[Tensor]) -> None:
        weights, *bias, self.scale, self.shift = parameters
        self.factors = block.way.weights(weights)
        self.bias = bias[0] if bias else None


class BlockStep:
    """One use of a block on maps [H, W, B, C]: its output, and what its derivatives read.

    Args:
        block: the sizes.
        x: [H, W, B, C] maps.
        p: the parameters.
    """

    def __init__(self, block: ConvBlock, x: Tensor, p: Prepared) -> None:
        self.block, self.images = block, x.shape[2]
        self.rows = block.way.rows(x)
        y = block.way.maps(torch.bmm(self.rows, p.factors)).view(block.length, self.images, -1)
        sums = y.sum(dim=0)
        if p.bias is None or block.members == 1:
            offset = block.group_mean(sums)  # a channel's bias is taken away with its mean
        else:
            offset = block.group_mean(sums + block.length * p.bias) - p.bias
        y = y - offset
        variance = block.group_mean((y * y).sum(dim=0))
        # Where squares overflow, 1/√∞ = 0 would hide it: ∞ − 0·∞ is not a number, and the run stops.
        self.rstd = (torch.sub(variance, variance, alpha=0) + block.eps).rsqrt()
        self.normal = y.mul_(self.rstd)
        # Sums of the normalised maps over each channel, which are not zero where a group has several channels.
        self.normal_sums = None if block.members == 1 else (sums - block.length * offset) * self.rstd
        self.mask: Tensor | None = self._mask(p)
        self.pools = torch.stack([block.pool(self.mask), block.pool(self.mask * self.normal)])

    def out(self, p: Prepared) -> Tensor:
        """The output [H'', W'', B, O]."""
        mask, normal = self.pools.unbind()
        return torch.addcmul(mask * p.shift, normal, p.scale).view(*self.block.out_sides, self.images, -1)

    def backward(self, dp: Tensor, p: Prepared, *, inputs: bool, parameters: bool) -> tuple[Tensor | None, Pieces]:
        """From the cotangent of the output [H'', W'', B, O] to those of the input [H, W, B, C] and the parameters.

        Either is None, or empty, where it is not wanted.
        """
        block, way = self.block, self.block.way
        self.dp = dp.reshape(self.pools.shape[1:])
        self.du = (self.dp * self.pools).sum(dim=1)  # Σ du and Σ du x̂
        self.means = block.group_mean(p.scale * self.du)  # m(v) and m(v x̂)
        self.dy: Tensor | None = None
        pieces: Pieces = []
        if not (inputs or parameters):
            return None, pieces
        self.dy = self._dy(p)
        if parameters:
            pieces.append(way.weights_adjoint(torch.bmm(self.rows.transpose(1, 2), self.dy)))
            if block.biased:
                rest, on_normal = self.means.unbind()
                pieces.append(self._bias(p.scale * self.du[0], -on_normal, -rest, self.rstd))
            shift, scale = self.du.sum(dim=1).unbind()
            pieces += [scale, shift]
        return way.inputs([(self.dy, p.factors)], self.images) if inputs else None, pieces

    def release(self) -> None:
        """Drops what `forward_along` and `backward_along` can compute again from what is kept."""
        self.mask = self.dy = None

    def tensors(self) -> list[Tensor]:
        """The tensors that are held now."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def forward_along(self, dot: Tensor | None, p: Prepared, d: Prepared) -> Tensor:
        """The derivative of the output along a direction: `dot` of the input (None: none) and `d` of the parameters."""
        block, way = self.block, self.block.way
        if self.mask is None:
            self.mask = self._mask(p)
        products = torch.bmm(self.rows, d.factors)
        self.dot_rows = None
        if dot is not None:
            self.dot_rows = way.rows(dot)
            products = products.baddbmm_(self.dot_rows, p.factors)
        self.dot_y = dot_y = way.maps(products).view(self.normal.shape)
        self.dot_sums = sums = dot_y.sum(dim=0)
        along = (dot_y * self.normal).sum(dim=0)
        if d.bias is not None:
            sums = sums + block.length * d.bias
            if self.normal_sums is not None:
                along = along + d.bias * self.normal_sums
        mean, self.dot_normal = block.group_mean(torch.stack([sums, along])).unbind()  # m(ẏ) and m(x̂ ẏ)
        # What is added to every pixel of a channel: the direction of the bias less the mean.
        self.dot_rest = -mean if d.bias is None else d.bias - mean
        self.dot_pool = block.pool(self.mask * dot_y)
        mask, normal = self.pools.unbind()
        slope = p.scale * self.rstd
        out = mask * torch.addcmul(d.shift, slope, self.dot_rest)
        out.addcmul_(normal, torch.addcmul(d.scale, slope, self.dot_normal, value=-1)).addcmul_(self.dot_pool, slope)
        return out.view(*block.out_sides, self.images, -1)

    def backward_along(self, dot: Tensor, p: Prepared, d: Prepared, *, parameters: bool) -> tuple[Tensor, Pieces]:
        """The derivatives of `backward`'s results along the direction; `dot` is that of its argument."""
        block, way, r = self.block, self.block.way, self.rstd
        assert self.mask is not None
        if self.dy is None:
            self.dy = self._dy(p)
        dot = dot.reshape(self.dp.shape)
        du = (dot * self.pools).sum(dim=1)  # Σ ḋu and Σ ḋu x̂
        shared = torch.addcmul((self.dp * self.dot_pool).sum(dim=0), self.dot_rest, self.du[0])
        shared = r * shared.addcmul_(self.dot_normal, self.du[1], value=-1)  # Σ du x̂̇
        du[1] += shared
        means = block.group_mean(torch.addcmul(d.scale * self.du, p.scale, du))  # m(v̇) and m(v̇ x̂ + v x̂̇)
        # ḋy is r times: these coefficients times du, ḋu, ẏ, x̂, and a rest.
        slope = r * self.dot_normal
        on_du = torch.addcmul(d.scale, slope, p.scale, value=-1)
        on_dot_y = -r * self.means[1]
        on_normal = torch.addcmul(means[1], slope, self.means[1], value=-2).neg_()
        rest = torch.addcmul(means[0], slope, self.means[0], value=-1).neg_().addcmul_(on_dot_y, self.dot_rest)
        base = torch.addcmul(r * rest, self.normal, r * on_normal).addcmul_(self.dot_y, r * on_dot_y)
        pooled = torch.addcmul(dot * (r * p.scale), self.dp, r * on_du)
        dot_dy = way.maps_adjoint(block.spread(pooled, self.mask, base))
        pieces = []
        if parameters:
            weights = torch.bmm(self.rows.transpose(1, 2), dot_dy)
            if self.dot_rows is not None:
                weights = weights.baddbmm_(self.dot_rows.transpose(1, 2), self.dy)
            pieces.append(way.weights_adjoint(weights))
            if block.biased:
                sums = torch.addcmul(on_du * self.du[0], p.scale, du[0]).addcmul_(on_dot_y, self.dot_sums)
                pieces.append(self._bias(sums, on_normal, rest, r))
            shift, scale = du.sum(dim=1).unbind()
            pieces += [scale, shift]
        return way.inputs([(dot_dy, p.factors), (self.dy, d.factors)], self.images), pieces

    def _mask(self, p: Prepared) -> Tensor:
        """1 where u > 0, else 0."""
        return torch.addcmul(p.shift, self.normal, p.scale).gt_(0)

    def _dy(self, p: Prepared) -> Tensor:
        """The cotangent of the convolution's products [K, T, O]."""
        assert self.mask is not None
        rest, on_normal = (self.rstd * self.means).neg_().unbind()
        base = torch.addcmul(rest, self.normal, on_normal)
        pooled = self.dp * (self.rstd * p.scale)
        return self.block.way.maps_adjoint(self.block.spread(pooled, self.mask, base))

    def _bias(self, sums: Tensor, on_normal: Tensor, rest: Tensor, factor: Tensor) -> Tensor:
        """The bias's cotangent [O]: the sum of a linear combination of maps, from the sums of its parts."""
        sums = torch.add(sums, rest, alpha=self.block.length)
        if self.normal_sums is not None:
            sums.addcmul_(on_normal, self.normal_sums)
        return (sums * factor).sum(dim=0)
