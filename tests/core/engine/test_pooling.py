"""2×2 average pooling as one addition and one matrix product."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddfw.engine import pooling
from ddfw.engine.norms import twice_differentiable
from ddfw.engine.pooling import HalvingPool2d, halves


@pytest.fixture
def small(monkeypatch):
    """Small maps go the same way as large ones."""
    monkeypatch.setattr(pooling, "SMALLEST", 0)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("side", [(2, 2), (4, 6), (5, 7), (8, 3)])
def test_values_and_derivatives_are_pytorchs(side):
    """Broken: halving gives other values than nn.AvgPool2d(2), or wrong first or second derivatives."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *side, generator=rng, dtype=torch.float64, requires_grad=True)
    ours, theirs = HalvingPool2d(2), nn.AvgPool2d(2)

    def found(pool):
        y = pool(x).sin()
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return y.detach(), first.detach(), second

    for mine, other in zip(found(ours), found(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-13, atol=1e-14)
    assert torch.autograd.gradgradcheck(ours, (x,))


@pytest.mark.usefixtures("small")
def test_views_and_other_layouts_are_taken():
    """Broken: a map that is not contiguous, or lies channels last, is read in the wrong order."""
    x = torch.randn(4, 6, 8, 3, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    wanted = nn.AvgPool2d(2)(x)
    for layout in (x, x.contiguous(memory_format=torch.channels_last), x[:, :, ::1], x.flip(3).flip(3)):
        torch.testing.assert_close(HalvingPool2d(2)(layout), wanted)


@pytest.mark.usefixtures("small")
def test_function_transforms_go_pytorchs_way():
    """Broken: networks cannot be trained several at a time, or compiled, because of this layer."""
    x = torch.randn(3, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    pool = HalvingPool2d(2)
    found = torch.func.vmap(torch.func.grad(lambda image: pool(image).square().sum()))(x)
    leaf = x.clone().requires_grad_()
    nn.AvgPool2d(2)(leaf.flatten(0, 1)).square().sum().backward()
    torch.testing.assert_close(found, leaf.grad)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3),
        nn.AvgPool2d(2, stride=1),
        nn.AvgPool2d(2, padding=1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AvgPool2d((2, 3)),
        nn.MaxPool2d(2),
    ],
)
def test_other_poolings_stay(layer):
    """Broken: a pooling that is not 2×2 is exchanged for one that is."""
    assert not halves(layer)
    kind = type(layer)
    assert type(twice_differentiable(nn.Sequential(layer))[0]) is kind


@pytest.mark.parametrize("layer", [nn.AvgPool2d(2), nn.AvgPool2d((2, 2)), nn.AvgPool2d(2, 2, 0)])
def test_this_pooling_is_exchanged(layer):
    """Broken: networks keep the slow pooling."""
    found = twice_differentiable(nn.Sequential(nn.ReLU(), nn.Sequential(layer)))
    assert type(found[1][0]) is HalvingPool2d
