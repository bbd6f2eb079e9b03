"""GSAM, the experts' other optimiser, against an implementation with one tensor per parameter and torch.optim.SGD."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddfw import ImageSpec
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.settings import ExpertSettings, SharpnessSettings, TrainingSettings
from ddfw.engine.inner import Network, build_module
from ddfw.engine.training import gsam_gradient, train_network
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.models.convnet import ConvNet

SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=3)
MODEL = ConvNet(depth=2, width=4)


def orders(epoch):
    return torch.Generator().manual_seed(100 + epoch)


@pytest.fixture
def data():
    """20 images in float64."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(20, *SPEC.shape, generator=rng, dtype=torch.float64)
    return LabelledImages(images=images, targets=torch.arange(20) % 3)


@pytest.fixture
def network():
    return Network(build_module(MODEL, SPEC))


@pytest.fixture
def theta(network):
    return MODEL.init(network.module, torch.Generator().manual_seed(1)).double()


def module_at(theta):
    module = build_module(MODEL, SPEC).double()
    nn.utils.vector_to_parameters(theta.clone(), module.parameters())
    return module


def slopes(module, images, targets):
    loss = nn.functional.cross_entropy(module(images), targets)
    return [g.detach() for g in torch.autograd.grad(loss, list(module.parameters()))]


def whole_norm(tensors):
    return sum(float((t * t).sum()) for t in tensors) ** 0.5


def by_tensors(module, images, targets, rho, alpha):
    """The formula of the paper, tensor by tensor; the module is left as it was."""
    parameters = list(module.parameters())
    g1 = slopes(module, images, targets)
    length = whole_norm([p.detach().abs() * g for p, g in zip(parameters, g1, strict=True)])
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, g in zip(parameters, g1, strict=True):
            p += rho * p**2 * g / (length + 1e-12)
    g2 = slopes(module, images, targets)
    with torch.no_grad():
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    inner = sum(float((a * b).sum()) for a, b in zip(g1, g2, strict=True))
    share = inner / whole_norm(g2) ** 2
    return [b - alpha * (a - share * b) for a, b in zip(g1, g2, strict=True)], g2


@pytest.mark.parametrize("augmentation", [NoAugmentation(), Siamese()], ids=lambda a: a.name)
def test_training_with_gsam_is_torch_sgd_on_the_papers_gradient(network, theta, data, augmentation):
    """Broken: FTD's experts would be others: a norm per tensor, another batch or momentum on the wrong gradient."""
    settings = TrainingSettings(
        epochs=3, lr=0.1, momentum=0.9, weight_decay=5e-3, batch_size=6,
        sharpness=SharpnessSettings(rho=0.5, alpha=0.4),
    )  # fmt: skip
    found = train_network(
        network, theta, data, settings, augmentation, orders, lambda e: torch.Generator().manual_seed(e)
    )

    module = module_at(theta)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
    for epoch in range(3):
        rng = torch.Generator().manual_seed(epoch)
        for rows in torch.randperm(20, generator=orders(epoch)).split(6):
            images = data.images[rows]
            images = augmentation.apply(images, augmentation.draw((len(rows), *SPEC.shape), rng))
            gradient, _ = by_tensors(module, images, data.targets[rows], 0.5, 0.4)
            for p, g in zip(module.parameters(), gradient, strict=True):
                p.grad = g
            optimiser.step()
    expected = nn.utils.parameters_to_vector(module.parameters()).detach()
    assert float((found - expected).abs().max()) <= 1e-12

    plain = TrainingSettings(epochs=3, lr=0.1, momentum=0.9, weight_decay=5e-3, batch_size=6)
    other = train_network(network, theta, data, plain, augmentation, orders, lambda e: torch.Generator().manual_seed(e))
    assert float((found - other).abs().max()) > 1e-4, "it has to differ from plain SGD by more than rounding"


def test_without_alpha_it_is_the_gradient_uphill(network, theta, data):
    """Broken: α = 0 would not be SAM, and ablations would mean something else."""
    module = module_at(theta)
    g1 = torch.cat([g.flatten() for g in slopes(module, data.images, data.targets)])
    found = gsam_gradient(network, theta, data.images, data.targets, g1, SharpnessSettings(rho=0.5, alpha=0.0))
    _, g2 = by_tensors(module, data.images, data.targets, 0.5, 0.0)
    assert torch.allclose(found, torch.cat([g.flatten() for g in g2]), rtol=0, atol=1e-13)
    assert float((found - g1).abs().max()) > 1e-3


def test_with_a_vanishing_rho_it_is_the_plain_gradient(network, theta, data):
    """Broken: something besides the step uphill would enter the gradient."""
    g1 = torch.cat([g.flatten() for g in slopes(module_at(theta), data.images, data.targets)])
    gaps = []
    for rho in (1e-4, 1e-6):
        settings = SharpnessSettings(rho=rho, alpha=0.4)
        found = gsam_gradient(network, theta, data.images, data.targets, g1, settings)
        gaps.append(float((found - g1).norm() / g1.norm()))
    assert gaps[1] < 1e-5 and gaps[1] < 0.02 * gaps[0]


def test_the_surrogate_gap_is_lowered_only_across_the_gradient_uphill(network, theta, data):
    """Broken: subtracting along g₂ as well would slow down the descent of the perturbed loss."""
    g1 = torch.cat([g.flatten() for g in slopes(module_at(theta), data.images, data.targets)])
    arguments = network, theta, data.images, data.targets, g1
    uphill = gsam_gradient(*arguments, SharpnessSettings(rho=0.5, alpha=0.0))
    change = gsam_gradient(*arguments, SharpnessSettings(rho=0.5, alpha=1.0)) - uphill
    assert abs(float(change.dot(uphill))) <= 1e-10 * float(uphill.norm() * g1.norm())
    assert float(change.dot(g1)) < 0


def test_a_standing_network_stays_finite(network, data):
    """Broken: 0/0 in the step uphill would fill θ with NaN."""
    theta = torch.zeros(network.num_parameters, dtype=torch.float64)
    settings = SharpnessSettings(rho=0.1, alpha=0.4)
    g1 = torch.zeros_like(theta)
    assert gsam_gradient(network, theta, data.images, data.targets, g1, settings).isfinite().all()


def test_sgd_has_no_sharpness_and_gsam_has_both_numbers():
    """Broken: `experts.optimiser` would not choose anything."""
    assert ExpertSettings(gsam_rho=0.3, gsam_alpha=0.2).training.sharpness is None
    chosen = ExpertSettings(optimiser="gsam", gsam_rho=0.3, gsam_alpha=0.2).training
    assert chosen.sharpness == SharpnessSettings(rho=0.3, alpha=0.2)
    with pytest.raises(ValueError, match="optimiser"):
        ExpertSettings(optimiser="adam")
