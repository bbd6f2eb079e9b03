"""The student's step for a ConvNet, with its first and second derivatives written down layer by layer.

PyTorch's automatic differentiation makes the second derivative of a step out of some hundred small operations a layer.
A chain of blocks and a linear layer – the network of most papers – needs far fewer: the pullback of a cotangent λ
through the gradient g is the derivative of g along λ, because second derivatives are symmetric. So a pullback goes once
forward and once backward through the layers, with the derivative along λ of everything that the step computed.

Shapes: B images in a batch, m classes, P parameters, F features of the last layer; maps lie as [H, W, B, C].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from ddfw.engine.blocks import BlockStep, ConvBlock, Prepared
from ddfw.engine.norms import TwiceGroupNorm
from ddfw.engine.pooling import HalvingPool2d

#: Images of a batch are computed a few at a time, so that no map has more values than this: maps stay in the cache.
MOST_VALUES = 3 * 2**19
#: Steps whose largest map has fewer values than this are held whole: computing again costs calls, and saves little.
LARGE = 2**16


#: The parameters of a layer that a chain takes, in their order.
_WEIGHTED = (["weight"], ["weight", "bias"])
#: s, ∂s/∂θ (None if it was not asked for), ∂s/∂images and ∂s/∂weights for s = g·λ.
Pulled = tuple[Tensor, Tensor | None, Tensor, Tensor]


class Chain:
    """A network of blocks of convolution, group normalisation, ReLU and maybe pooling, then one linear layer.

    Args:
        blocks: the layers of each block but its activation.
        last: the linear layer.
        height: rows of an image.
        width: columns of an image.
    """

    def __init__(self, blocks: Sequence[Sequence[nn.Module]], last: nn.Linear, height: int, width: int) -> None:
        self.blocks: list[ConvBlock] = []
        for layers in blocks:
            self.blocks.append(ConvBlock(layers, height, width))
            height, width = self.blocks[-1].out_sides
        layers = [*(layer for some in blocks for layer in some), last]
        self.shapes = [tuple(p.shape) for layer in layers for p in layer.parameters()]
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes]
        self.values = max(block.out_channels * block.sides[0] * block.sides[1] for block in self.blocks)

    def prepared(self, theta: Tensor) -> tuple[list[Prepared], list[Tensor]]:
        """θ [P], or a direction of it, as blocks and the last layer read it."""
        views = [piece.view(shape) for piece, shape in zip(theta.split(self.sizes), self.shapes, strict=True)]
        blocks, at = [], 0
        for block in self.blocks:
            blocks.append(Prepared(block, views[at : at + block.num_parameters]))
            at += block.num_parameters
        return blocks, views[at:]

    def rows(self, images: int) -> list[int]:
        """The sizes of the parts in which B = `images` images are computed; equal ones if that takes few parts more."""
        fewest = -(-images * self.values // MOST_VALUES)
        even = next((count for count in range(fewest, 2 * fewest) if images % count == 0), None)
        if even is not None:
            return [images // even] * even
        most = -(-images // fewest)
        return [min(most, images - first) for first in range(0, images, most)]

    def steps(self, theta: Tensor, images: Tensor, targets: Tensor, *, gradient: bool = True) -> Iterator[ChainStep]:
        """The steps of each part of a batch; their gradients add up to that of the batch.

        Args:
            theta: [P] parameters.
            images: [B, C, H, W].
            targets: [B, m] probabilities.
            gradient: whether steps compute their gradients.
        """
        for some, weights in self.parts(images, targets):
            yield ChainStep(self, theta.detach(), some, weights, gradient=gradient)

    def parts(self, images: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The parts of a batch: images, and their weights, which are probabilities [B, m] over the batch's size."""
        rows = self.rows(len(images))
        weights = targets.detach() / len(images)
        if len(rows) == 1:
            return [(images.detach(), weights)]
        return list(zip(images.detach().split(rows), weights.split(rows), strict=True))


class ChainStep:
    """One step: the gradient g [P] of the inner loss at θ [P], and what its pullback reads.

    Args:
        chain: the network.
        theta: [P] parameters.
        images: [B, C, H, W].
        weights: [B, m] probabilities, each divided by the number of images of the batch.
        gradient: whether the gradient is computed; it is empty otherwise.
    """

    #: The gradient [P], or an empty tensor.
    gradient: Tensor

    def __init__(self, chain: Chain, theta: Tensor, images: Tensor, weights: Tensor, *, gradient: bool = True) -> None:
        self.chain, self.images, self.theta = chain, len(images), theta
        blocks, (self.last, *bias) = chain.prepared(theta)
        self.prepared: list[Prepared] | None = blocks
        self.steps: list[BlockStep] = []
        x = images.permute(2, 3, 0, 1)
        for block, p in zip(chain.blocks, blocks, strict=True):
            self.steps.append(BlockStep(block, x, p))
            x = self.steps[-1].out(p)
        self.maps = x.shape
        self.features = self._flat(x)
        logits = torch.addmm(bias[0], self.features, self.last.t()) if bias else self.features @ self.last.t()
        self.mass = weights.sum(dim=1, keepdim=True)
        self.probabilities = softmax(logits, dim=1)
        self.dz = self.probabilities * self.mass - weights
        pieces: list[Tensor] = []
        if gradient:
            pieces = [(self.dz.t() @ self.features).view(-1), *([self.dz.sum(dim=0)] if bias else [])]
        dx: Tensor | None = self._unflat(self.dz @ self.last)
        for at in reversed(range(len(self.steps))):
            assert dx is not None  # only the first block's is left out
            dx, found = self.steps[at].backward(dx, blocks[at], inputs=at > 0, parameters=gradient)
            pieces = found + pieces
        self.gradient = torch.cat(pieces) if gradient else theta[:0]

    def release(self) -> None:
        """Drops the gradient, and what is large and can be computed again from the rest in a few operations."""
        self.gradient = self.theta[:0]
        if self.images * self.chain.values < LARGE:
            return
        self.prepared = None
        for step in self.steps:
            step.release()

    def tensors(self) -> list[Tensor]:
        """The tensors that are held now."""
        own = [value for value in vars(self).values() if isinstance(value, Tensor)]
        prepared = [value for some in self.prepared or () for value in vars(some).values() if isinstance(value, Tensor)]
        return [*own, *prepared, *(tensor for step in self.steps for tensor in step.tensors())]

    def along(self, direction: Tensor, *, parameters: bool) -> Pulled:
        """The derivatives of s = g·λ for λ = `direction`: s, ∂s/∂θ (if `parameters`), ∂s/∂images, ∂s/∂weights.

        It can be called once.
        """
        points = self.prepared or self.chain.prepared(self.theta)[0]
        directions, (last, *bias) = self.chain.prepared(direction)
        dot: Tensor | None = None
        for step, p, d in zip(self.steps, points, directions, strict=True):
            dot = step.forward_along(dot, p, d)
        assert dot is not None
        features = self._flat(dot)
        logits = self.features @ last.t()
        if bias:
            logits += bias[0]
        logits = torch.addmm(logits, features, self.last.t())
        centred = logits - (self.probabilities * logits).sum(dim=1, keepdim=True)
        dot_dz = self.probabilities * centred * self.mass
        pieces: list[Tensor] = []
        if parameters:
            head = (dot_dz.t() @ self.features).addmm_(self.dz.t(), features)
            pieces = [head.view(-1), *([dot_dz.sum(dim=0)] if bias else [])]
        dx = self._unflat((dot_dz @ self.last).addmm_(self.dz, last))
        for at in reversed(range(len(self.steps))):
            step = self.steps.pop()  # what a block holds is freed as soon as it was read
            dx, found = step.backward_along(dx, points[at], directions[at], parameters=parameters)
            pieces = found + pieces
        s = (self.dz * logits).sum()
        return s, torch.cat(pieces) if parameters else None, dx.permute(2, 3, 0, 1).contiguous(), -centred

    def _flat(self, x: Tensor) -> Tensor:
        """Maps [H, W, B, C] as features [B, C·H·W]."""
        return x.permute(2, 3, 0, 1).reshape(self.images, -1)

    def _unflat(self, features: Tensor) -> Tensor:
        """Features [B, C·H·W] as maps [H, W, B, C]."""
        height, width, images, channels = self.maps
        return features.view(images, channels, height, width).permute(2, 3, 0, 1)


def joined(parts: Iterable[Pulled]) -> Pulled:
    """Joins the derivatives of s = g·λ that `ChainStep.along` gives for the parts of a batch.

    Returns:
        s; ∂s/∂θ [P], or None; ∂s/∂images [B, C, H, W]; ∂s/∂targets [B, m], of the probabilities instead of the weights.
    """
    found = list(parts)
    s, theta, images, weights = found[0]
    if len(found) > 1:
        s = torch.stack([one[0] for one in found]).sum()
        theta = None if theta is None else torch.stack([one[1] for one in found if one[1] is not None]).sum(dim=0)
        images, weights = torch.cat([one[2] for one in found]), torch.cat([one[3] for one in found])
    return s, theta, images, weights / len(images)


def chain_of(module: nn.Module, height: int, width: int) -> Chain | None:
    """A module of `twice_differentiable` as a chain, if it is one for images of height × width.

    It is one if its layers are exactly of a chain's classes, in this order, without hooks, shared parameters, and
    parameters that were exchanged for others of another size or order.
    """
    if type(module) is not nn.Sequential or any(_changed(layer) for layer in module.modules()):
        return None
    layers = list(module)
    blocks: list[list[nn.Module]] = []
    while len(layers) >= 3 and _begins_block(*layers[:3]):
        convolution, norm, _ = layers[:3]
        pools = type(layers[3]) is HalvingPool2d if len(layers) > 3 else False
        blocks.append([convolution, norm, *layers[3 : 3 + pools]])
        layers = layers[3 + pools :]
    if not blocks or [type(layer) for layer in layers] != [nn.Flatten, nn.Linear]:
        return None
    flat, last = layers
    assert isinstance(flat, nn.Flatten) and isinstance(last, nn.Linear)
    if _parameters(last) not in _WEIGHTED:
        return None
    chain = Chain(blocks, last, height, width)
    same = chain.shapes == [tuple(p.shape) for p in module.parameters()]
    return chain if same and (flat.start_dim, flat.end_dim) == (1, -1) else None


def _begins_block(convolution: nn.Module, norm: nn.Module, activation: nn.Module) -> bool:
    if type(convolution) is not nn.Conv2d or convolution.groups != 1 or convolution.padding_mode != "zeros":
        return False
    sizes = (convolution.kernel_size, convolution.padding, convolution.stride, convolution.dilation)
    if not all(type(size) is tuple for size in sizes) or {*convolution.stride, *convolution.dilation} != {1}:
        return False  # padding may be a word, and PyTorch also takes a number that was set in place of a pair
    if type(norm) is not TwiceGroupNorm or type(activation) is not nn.ReLU:
        return False
    # PyTorch's layers go by their parameters, a chain by the sizes that the layers name.
    shape = (convolution.out_channels, convolution.in_channels, *convolution.kernel_size)
    same = convolution.weight.shape == shape and norm.num_channels == convolution.out_channels
    return same and _parameters(convolution) in _WEIGHTED and _parameters(norm) == _WEIGHTED[1]


def _parameters(layer: nn.Module) -> list[str]:
    """The names of a layer's parameters in the order in which they lie in θ."""
    return [name for name, _ in layer.named_parameters()]


def _changed(layer: nn.Module) -> bool:
    """Whether a layer has hooks or a `forward` of its own, which a chain would not call."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in vars(layer) or any(getattr(layer, name) for name in hooks)
