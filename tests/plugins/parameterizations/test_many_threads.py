"""Gradients of what is shared between images: the same bits whatever threads do."""

from __future__ import annotations

import pytest
import torch

from ddfw import Budget, ImageSpec
from ddfw.config.catalog import catalog
from ddfw.testing._fakes import real_images

SPEC = ImageSpec(channels=3, height=32, width=32, num_classes=10)
# Which subspace an image belongs to is given by its class: clusters take seconds to find and are nothing to `decode`.
BY_CLASS = {"rank": 8, "assign": "class"}
OPTIONS = {
    "lss": [{**BY_CLASS, "subspaces": 2}, {**BY_CLASS, "subspaces": 4, "pairing": "all"}, {"ranks": (12, 4, 4)}],
    "multiformation": [{"factor": 2}],
}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def cases():
    for entry in catalog().entries("param"):
        for options in OPTIONS.get(entry.name, [{}]):
            yield pytest.param(entry.cls(**options), id=f"{entry.name}-{options}")


@pytest.mark.parametrize("param", list(cases()))
def test_a_gradient_through_decode_has_the_same_bits_every_time(param, two_threads):
    """Broken: two runs with one seed and one number of threads would drift apart after the first outer step."""
    layout = param.layout(SPEC, Budget(ipc=2), 10)
    real = real_images(SPEC, 20, torch.float32, 0)
    params = param.init(layout, real, torch.Generator().manual_seed(0))
    index = torch.arange(layout.num_images)
    towards = torch.randn(layout.num_images, *SPEC.shape, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[torch.Tensor]:
        leaves = {k: t.clone().requires_grad_(t.is_floating_point()) for k, t in params.items()}
        param.decode(leaves, index).backward(towards)
        return [t.grad for t in leaves.values() if t.requires_grad]

    first = gradients()
    for _ in range(15):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
