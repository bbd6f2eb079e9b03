"""A block of a ConvNet – convolution, group normalisation, ReLU, pooling – with its derivatives written down.

A block's four functions are called in turn, each once: `forward`; `backward`, for the gradient of the loss by θ; and for
the derivative of that gradient along a direction λ of parameters `forward_along` and `backward_along`. A dot means that
derivative: with the normalised maps x̂, u = w x̂ + b, a mask M where u > 0, r = 1/√(var + ε), and m(·) a group's mean,

    p = pool(M u)                 ṗ = pool(M u̇),   u̇ = w x̂̇ + ẇ x̂ + ḃ,   x̂̇ = r (ẏ − m(ẏ) − x̂ m(x̂ ẏ))
    dy = r (v − m(v) − x̂ m(v x̂)),   v = w M spread(dp)
    ḋy = −r m(x̂ ẏ) dy + r (v̇ − m(v̇) − x̂̇ m(v x̂) − x̂ m(v̇ x̂ + v x̂̇)),   v̇ = ẇ M spread(dp) + w M spread(ḋp)

All of it is linear in few maps, with coefficients for each channel of each image. Sums over du = M spread(dp) are sums of
pooled maps: Σ du x̂ = Σ dp pool(M x̂). So no map of full size is made that is not a result.

Shapes: B images, C channels in, O out in G groups; R = B·O columns of matrices [L, R] with the pixels L = H'·W' as rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ddfw.engine.convolving import Convolving, way_of

#: Derivatives by a block's parameters, flat and in their order.
Pieces = list[Tensor]


class Block:
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
        self.out_channels = convolution.out_channels
        self.groups, self.eps = norm.num_groups, norm.eps
        self.pooled = len(layers) == 3
        self.num_parameters = 4 if self.biased else 3
        self.sides = (self.way.height, self.way.width)
        self.out_sides = (self.sides[0] // 2, self.sides[1] // 2) if self.pooled else self.sides

    def prepared(self, parameters: Sequence[Tensor], images: int) -> Prepared:
        """The parameters, or a direction of them, as the block's functions read them for B = `images` images."""
        return Prepared(self, parameters, images)

    def forward(self, x: Tensor, parameters: Prepared) -> tuple[Tensor, BlockStep]:
        """Maps [H, W, B, C] to [H'', W'', B, O], and the step that holds what derivatives read."""
        step = BlockStep(self, x, parameters)
        return step.out, step

    def group_mean(self, sums: Tensor) -> Tensor:
        """Sums over each column [R], as means over the column's group [R]."""
        members = self.out_channels // self.groups
        values = members * self.sides[0] * self.sides[1]
        if members == 1:
            return sums / values
        grouped = sums.view(-1, members).sum(dim=1, keepdim=True) / values
        return grouped.expand(-1, members).reshape(-1)

    def over_images(self, sums: Tensor) -> Tensor:
        """Adds up sums over columns [R] by channel [O]."""
        return sums.view(-1, self.out_channels).sum(dim=0)


class Prepared:
    """Parameters of a block as factors of products [K, M, O] and as rows [R]."""

    def __init__(self, block: Block, parameters: Sequence[Tensor], images: int) -> None:
        weights, *bias, scale, shift = parameters
        self.factors = block.way.weights(weights)
        self.bias = bias[0].repeat(images) if bias else None
        self.scale = scale.repeat(images)
        self.shift = shift.repeat(images)


class BlockStep:
    """One use of a block: what its derivatives read, from `forward` on."""

    def __init__(self, block: Block, x: Tensor, parameters: Prepared) -> None:
        self.block, self.images = block, x.shape[2]
        p, way = parameters, block.way
        self.rows = way.rows(x)
        y = way.maps(torch.bmm(self.rows, p.factors))
        columns = y.sum(dim=0)
        length = len(y)
        if p.bias is None or block.groups == block.out_channels:
            offset = block.group_mean(columns)  # the bias is the mean's as well
            self.column_sums = None
        else:
            offset = block.group_mean(columns + length * p.bias) - p.bias
        y = y - offset
        self.rstd = (block.group_mean((y * y).sum(dim=0)) + block.eps).rsqrt()
        self.normal = y.mul_(self.rstd)
        self.column_sums = None if block.groups == block.out_channels else (columns - length * offset) * self.rstd
        self.mask = torch.addcmul(p.shift, self.normal, p.scale).gt_(0)
        self.mask_pool, self.normal_pool = self.pool(self.mask), self.pool(self.mask * self.normal)
        out = torch.addcmul(self.mask_pool * p.shift, self.normal_pool, p.scale)
        self.out = out.view(*block.out_sides, self.images, -1)

    def backward(self, dp: Tensor, p: Prepared, *, inputs: bool = True, parameters: bool = True) -> tuple[Tensor | None, Pieces]:
        """From the cotangent of the output [H'', W'', B, O] to those of the input [H, W, B, C] and the parameters.

        Either is left out where it is not wanted.
        """
        block, way = self.block, self.block.way
        self.dp = dp = dp.reshape(self.mask_pool.shape)
        self.du_sum, self.du_normal = (dp * self.mask_pool).sum(dim=0), (dp * self.normal_pool).sum(dim=0)
        self.v_mean = block.group_mean(p.scale * self.du_sum)
        self.v_normal = block.group_mean(p.scale * self.du_normal)
        on_du, on_normal, rest = self.rstd * p.scale, -self.rstd * self.v_normal, -self.rstd * self.v_mean
        self.dy = way.maps_adjoint(self._spread(dp * on_du, torch.addcmul(rest, self.normal, on_normal)))
        pieces = []
        if parameters:
            pieces.append(way.weights_adjoint(torch.bmm(self.rows.transpose(1, 2), self.dy)))
            if block.biased:
                pieces.append(self._bias(on_du * self.du_sum, on_normal, rest))
            pieces += [block.over_images(self.du_normal), block.over_images(self.du_sum)]
        dx = way.rows_adjoint(torch.bmm(self.dy, p.factors.transpose(1, 2)), self.images) if inputs else None
        return dx, pieces

    def forward_along(self, dot: Tensor | None, p: Prepared, d: Prepared) -> Tensor:
        """The derivative of the output along a direction: `dot` of the input (None: none) and `d` of the parameters."""
        block, way = self.block, self.block.way
        products = torch.bmm(self.rows, d.factors)
        self.dot_rows = None
        if dot is not None:
            self.dot_rows = way.rows(dot)
            products = products.baddbmm_(self.dot_rows, p.factors)
        self.dot_y = way.maps(products)
        length = len(self.dot_y)
        sums, along = self.dot_y.sum(dim=0), (self.dot_y * self.normal).sum(dim=0)
        self.dot_sums = sums
        if d.bias is not None:
            sums = sums + length * d.bias
            if self.column_sums is not None:
                along = along + d.bias * self.column_sums
        self.dot_mean, self.dot_normal = block.group_mean(sums), block.group_mean(along)
        # The direction of the bias less the mean: what is added to every pixel of a channel.
        self.dot_rest = -self.dot_mean if d.bias is None else d.bias - self.dot_mean
        self.dot_pool = self.pool(self.mask * self.dot_y)
        slope = p.scale * self.rstd
        out = self.mask_pool * (d.shift + slope * self.dot_rest)
        out.addcmul_(self.normal_pool, d.scale - slope * self.dot_normal).addcmul_(self.dot_pool, slope)
        return out.view(*block.out_sides, self.images, -1)

    def backward_along(
        self, dot: Tensor, p: Prepared, d: Prepared, *, parameters: bool = True
    ) -> tuple[Tensor, Pieces]:
        """The derivatives of `backward`'s results along the direction; `dot` is that of its argument."""
        block, way, r = self.block, self.block.way, self.rstd
        dot = dot.reshape(self.dp.shape)
        du_sum, du_normal = (dot * self.mask_pool).sum(dim=0), (dot * self.normal_pool).sum(dim=0)
        shared = (self.dp * self.dot_pool).sum(dim=0)
        shared = r * (shared + self.dot_rest * self.du_sum - self.dot_normal * self.du_normal)  # Σ du x̂̇
        v_mean = block.group_mean(d.scale * self.du_sum + p.scale * du_sum)
        v_normal = block.group_mean(d.scale * self.du_normal + p.scale * (du_normal + shared))
        square, slope = r * r, r * p.scale
        on_du = r * (d.scale - self.dot_normal * slope)
        on_dot_y = -square * self.v_normal
        on_normal = 2 * square * self.dot_normal * self.v_normal - r * v_normal
        rest = square * (self.dot_normal * self.v_mean - self.v_normal * self.dot_rest) - r * v_mean
        base = torch.addcmul(rest, self.normal, on_normal).addcmul_(self.dot_y, on_dot_y)
        dot_dy = way.maps_adjoint(self._spread((self.dp * on_du).addcmul_(dot, slope), base))
        pieces = []
        if parameters:
            weights = torch.bmm(self.rows.transpose(1, 2), dot_dy)
            if self.dot_rows is not None:
                weights = weights.baddbmm_(self.dot_rows.transpose(1, 2), self.dy)
            pieces.append(way.weights_adjoint(weights))
            if block.biased:
                sums = on_du * self.du_sum + slope * du_sum + on_dot_y * self.dot_sums
                pieces.append(self._bias(sums, on_normal, rest))
            pieces += [block.over_images(du_normal + shared), block.over_images(du_sum)]
        rows = torch.bmm(dot_dy, p.factors.transpose(1, 2)).baddbmm_(self.dy, d.factors.transpose(1, 2))
        return way.rows_adjoint(rows, self.images), pieces

    def pool(self, maps: Tensor) -> Tensor:
        """Pools maps [L, R] to [L'', R]."""
        if not self.block.pooled:
            return maps
        height, width = self.block.sides
        image = maps.view(1, height, width, -1).permute(0, 3, 1, 2)
        return avg_pool2d(image, 2).permute(0, 2, 3, 1).reshape(-1, maps.shape[1])

    def _spread(self, cotangent: Tensor, base: Tensor) -> Tensor:
        """Adds to maps [L, R], in place, the masked cotangent [L'', R] of pooled maps, spread over four pixels each."""
        if not self.block.pooled:
            return base.addcmul_(self.mask, cotangent)
        (height, width), (down, right) = self.block.sides, self.block.out_sides
        base_, mask = (
            maps.view(height, width, -1)[: 2 * down, : 2 * right].unflatten(1, (right, 2)).unflatten(0, (down, 2))
            for maps in (base, self.mask)
        )
        base_.addcmul_(mask, cotangent.view(down, 1, right, 1, -1), value=0.25)
        return base

    def _bias(self, sums: Tensor, on_normal: Tensor, rest: Tensor) -> Tensor:
        """The bias's cotangent: the sum of a linear combination of maps, from those of its parts."""
        block = self.block
        sums = sums + block.sides[0] * block.sides[1] * rest
        if self.column_sums is not None:
            sums = sums + on_normal * self.column_sums
        return block.over_images(sums)
