"""Group normalisation whose second derivative is as cheap as its first.

PyTorch computes the second derivative of `group_norm` in some ninety operations, which took the largest part of a
student's time outside its convolutions. The closed form below needs five sums over each channel and one linear
combination of three maps.

With x̂ = (x − μ) r, r = 1/√(var + ε), u = w · dy and m(·) the mean over a group's L values:

    first:   dx = r P(u),   dw = Σ dy x̂,   db = Σ dy,        P(u) = u − m(u) − x̂ m(u x̂)
    second:  for cotangents v of dx, a of dw, b of db
             ∂dy = w r P(v) + a x̂ + b,       ∂w = Σ r P(v) dy
             ∂x  = r P(a · dy) − r² [ m(v x̂) P(u) + m(u x̂) P(v) + m(u P(v)) x̂ ]

Shapes: B images, C channels in G groups, H rows, W columns, L = C/G · H · W.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import group_norm

from ddfw.engine.pooling import SMALLEST, HalvingPool2d, halves


class TwiceGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` with a fast second derivative; values and gradients are equal, a third derivative is an error."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises maps [B, C, …] over groups of channels."""
        compiling, vectorised = torch.compiler.is_compiling(), torch._C._functorch.peek_interpreter_stack() is not None
        if vectorised and not compiling:
            input = input.contiguous()  # under vmap, torch 2.11 does not know of other layouts
        plain = compiling or vectorised
        plain = plain or self.weight is None or self.bias is None or input.numel() < SMALLEST
        # Under autocast the maps have a lower precision than the parameters, which only PyTorch's own layer accepts.
        if plain or input.dtype != self.weight.dtype:
            return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        # Copies are made outside the autograd function, because inside they would have no second derivative. The
        # function below PyTorch's layer reads weights as if they lay one after the other (wrong numbers in torch 2.11).
        weight, bias = self.weight.contiguous(), self.bias.contiguous()
        return _GroupNorm.apply(input.contiguous(), weight, bias, self.num_groups, self.eps)  # type: ignore[no-any-return]


def twice_differentiable(module: nn.Module) -> nn.Module:
    """Replaces layers of the module, in place, by equal ones that are cheaper to differentiate twice.

    `nn.GroupNorm` becomes `TwiceGroupNorm` and 2×2 average pooling becomes `HalvingPool2d`; parameters and their names
    stay.

    Args:
        module: the module to change; whoever else holds it gets the changed layers too.

    Returns:
        The changed module.
    """
    for layer in module.children():
        if type(layer) is nn.GroupNorm and layer.affine:
            layer.__class__ = TwiceGroupNorm
        elif halves(layer):
            layer.__class__ = HalvingPool2d
        else:
            twice_differentiable(layer)
    return module


class _GroupNorm(Function):
    """The normalisation, whose backward pass is an autograd function too, so that it has a closed-form derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        b, c = x.shape[:2]
        y, mean, rstd = torch.native_group_norm(x, weight, bias, b, c, x[0, 0].numel(), groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, mean, rstd = ctx.saved_tensors
        return *_GroupNormBackward.apply(dy, x, weight, mean, rstd, ctx.groups), None, None


class _GroupNormBackward(Function):
    """First derivative: from (dy, x, weight) to the gradients (dx, dw, db) of maps, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, groups: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        dy = dy.contiguous()
        ctx.save_for_backward(dy, x, weight, mean, rstd)
        ctx.groups = groups
        ctx.set_materialize_grads(False)
        b, c = x.shape[:2]
        return torch.ops.aten.native_group_norm_backward(  # type: ignore[no-any-return]
            dy, x, mean, rstd, weight, b, c, x[0, 0].numel(), groups, [True, True, True]
        )

    @staticmethod
    def backward(ctx: Any, v: Tensor | None, a: Tensor | None, b: Tensor | None) -> Any:
        return *_Second.apply(*ctx.saved_tensors, ctx.groups, v, a, b), None, None, None


class _Second(Function):
    """Second derivative: from cotangents (v, a, b) of (dx, dw, db) to those of (dy, x, weight).

    The cotangent of the weight is None if v is.
    """

    @staticmethod
    def forward(
        ctx: Any,
        dy: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        rstd: Tensor,
        groups: int,
        v: Tensor | None,
        a: Tensor | None,
        b: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        shape = x.shape
        n, c = shape[:2]
        maps = (n * c, -1)
        dy, x = dy.view(maps), x.view(maps)
        mean, rstd = mean.view(n, groups, 1), rstd.view(n, groups, 1)
        w = weight.view(1, groups, -1)
        sizes = _Sizes(n, groups, c // groups, x.shape[1] * (c // groups))
        channels, column, of_group = sizes.channels, sizes.column, sizes.of_group
        dy_sum = channels(dy.sum(dim=1))
        dy_x = rstd * (channels(_dots(dy, x)) - mean * dy_sum)
        zero = torch.zeros_like(dy_sum)
        on_dy, on_x, rest = zero, zero, zero  # ∂x = on_dy · dy + on_v · v + on_x · x̂ + rest
        w_grad = None
        if v is not None:
            v = v.contiguous().view(maps)
            v_sum = channels(v.sum(dim=1))
            v_x = rstd * (channels(_dots(v, x)) - mean * v_sum)
            dy_v = channels(_dots(dy, v))
            v_mean, v_along = of_group(v_sum), of_group(v_x)
            u_mean, u_along = of_group(w * dy_sum), of_group(w * dy_x)
            square = rstd * rstd
            on_dy = on_dy - square * v_along * w
            on_v = -square * u_along
            on_x = on_x - square * (of_group(w * dy_v) - u_mean * v_mean - 3 * u_along * v_along)
            rest = rest + square * (v_along * u_mean + u_along * v_mean)
            w_grad = (rstd * (dy_v - v_mean * dy_sum - v_along * dy_x)).sum(dim=0).view(-1)
        if a is not None:
            a = a.view(1, groups, -1)
            on_dy = on_dy + rstd * a
            on_x = on_x - rstd * of_group(a * dy_x)
            rest = rest - rstd * of_group(a * dy_sum)
        slope = rstd * on_x
        x_grad = torch.addcmul(column(rest - mean * slope), column(on_dy), dy).addcmul_(column(slope), x)
        if v is not None:
            x_grad.addcmul_(column(on_v), v)

        on_x, rest = zero, zero  # ∂dy = w r v + on_x · x̂ + rest
        if v is not None:
            on_x, rest = on_x - rstd * w * v_along, rest - rstd * w * v_mean
        if a is not None:
            on_x = on_x + a
        if b is not None:
            rest = rest + b.view(1, groups, -1)
        slope = rstd * on_x
        dy_grad = torch.addcmul(column(rest - mean * slope), column(slope), x)
        if v is not None:
            dy_grad.addcmul_(column(rstd * w), v)
        return dy_grad.view(shape), x_grad.view(shape), w_grad

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        # With `once_differentiable` in place of this error, autograd.grad would report a third derivative of zero.
        raise RuntimeError("the engine's group normalisation has two derivatives; a third one was asked for")


@frozen
class _Sizes:
    """The numbers of images, of groups, of a group's channels and of a group's values, to reshape sums by."""

    images: int
    groups: int
    members: int
    values: int

    def channels(self, sums: Tensor) -> Tensor:
        """Reshapes one number per image and channel to [B, G, C/G]."""
        return sums.view(self.images, self.groups, self.members)

    def column(self, factors: Tensor) -> Tensor:
        """Reshapes one number per image and channel to a column that multiplies maps [B·C, H·W]."""
        return factors.expand(self.images, self.groups, self.members).reshape(-1, 1)

    def of_group(self, sums: Tensor) -> Tensor:
        """Turns sums over each channel into means over each group."""
        means: Tensor = sums.sum(dim=2, keepdim=True) / self.values
        return means


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """Dot products [R] of the rows of two matrices [R, L]."""
    # torch.bmm is three times slower here on a CPU.
    sums: Tensor = (one * other).sum(dim=1)
    return sums
