"""Networks of torchvision: what is switched off in them, their own initialisation, grey images, refusals."""

from __future__ import annotations

import attrs
import pytest
import torch
import torchvision
from torch import nn

from ddfw import AbstractModel, ImageSpec, OptionError
from ddfw.engine.inner import Network, build_module, inner_loss
from ddfw.testing import check_model
from ddfw_plugins.models import torchvision as plugin
from ddfw_plugins.models.torchvision import Torchvision, _HardSigmoid


def spec(channels=3, side=32, classes=4, width=None):
    return ImageSpec(channels=channels, height=side, width=width or side, num_classes=classes)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def build(shape=None, **options):
    return build_module(Torchvision(**options), shape or spec())


def layers(module, kind):
    return [layer for layer in module.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_the_network_is_torchvisions(arch):
    """Broken: parameters lost or added when layers are replaced, so that published sizes do not hold."""
    with torch.device("meta"):
        original = torchvision.models.get_model(arch, num_classes=4)
    module = build(arch=arch)
    assert [p.shape for p in module.parameters()] == [p.shape for p in original.parameters()]
    assert not layers(module, nn.Hardsigmoid)
    assert not any(getattr(layer, "inplace", False) for layer in module.modules())


@pytest.mark.parametrize(
    ("norm", "groups"), [("instance", lambda c: c), ("group", lambda c: 2), ("batch", lambda c: None)]
)
def test_every_batch_norm_is_replaced(norm, groups):
    """Broken: running statistics are left, or the number of groups or ε is another one."""
    with torch.device("meta"):
        old = layers(torchvision.models.shufflenet_v2_x0_5(num_classes=4), nn.BatchNorm2d)
    new = layers(build(spec(side=64), arch="shufflenet_v2_x0_5", norm=norm, groups=2), nn.GroupNorm | nn.BatchNorm2d)
    assert len(new) == len(old) > 0
    for was, now in zip(old, new, strict=True):
        assert now.eps == was.eps and len(now.weight) == was.num_features
        assert getattr(now, "num_groups", None) == groups(was.num_features)
        assert getattr(now, "running_mean", None) is None


def test_without_what_was_replaced_the_logits_are_torchvisions():
    """Broken: the wrapper or a replaced layer computes something else."""
    module = build(arch="mobilenet_v3_small", norm="batch", shape=spec(side=40))
    original = torchvision.models.mobilenet_v3_small(num_classes=4, dropout=0.0).train()
    original.load_state_dict(module.network.state_dict(), strict=False)
    images = torch.rand(3, 3, 40, 40, generator=rng())
    assert torch.allclose(original(images), module(images), atol=1e-5, rtol=1e-5)
    values = torch.linspace(-5, 5, 101, dtype=torch.float64)
    assert torch.allclose(_HardSigmoid()(values), nn.functional.hardsigmoid(values), atol=1e-15, rtol=0)


def test_torchvision_is_not_loaded_with_the_plugin():
    """Broken: listing the networks takes the seconds that torchvision takes."""
    assert not hasattr(plugin, "torchvision")


@pytest.mark.parametrize("arch", ["efficientnet_b0", "squeezenet1_1"])
def test_nothing_is_drawn_in_a_step(arch):
    """Broken: dropout or stochastic depth is left on, and a step cannot be replayed."""
    module = build(arch=arch)
    drops = layers(module, nn.Dropout | torchvision.ops.StochasticDepth)
    assert drops and all(layer.p == 0 for layer in drops)
    before = torch.random.get_rng_state()
    images = torch.rand(2, 3, 32, 32, generator=rng())
    assert torch.equal(module(images), module(images))
    assert torch.equal(before, torch.random.get_rng_state())


def test_init_is_torchvisions_own_and_a_function_of_the_generator():
    """Broken: layers with torch's defaults instead, global state touched, or one θ for all networks of a run."""
    model = Torchvision(arch="mobilenet_v3_small")
    module = build_module(model, spec())
    torch.random.set_rng_state(rng(3).get_state())
    before, given = torch.random.get_rng_state(), rng(1)
    first, second = model.init(module, given), model.init(module, given)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(7)
    assert torch.equal(first, model.init(module, rng(1))) and not torch.equal(first, second)
    pieces = dict(zip(Network(module).names, first.split(Network(module).sizes), strict=True))
    # Its linear layers are normal with deviation 0.01 and have no shift; its convolutions are normal over fan_out.
    assert float(pieces["network.classifier.0.weight"].std()) == pytest.approx(0.01, rel=0.02)
    assert not pieces["network.classifier.0.bias"].any()
    assert float(pieces["network.features.12.0.weight"].std()) == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    with pytest.raises(TypeError, match="not a Linear"):
        model.init(nn.Linear(2, 2), rng())


def test_a_grey_image_is_the_colour_image_with_three_equal_channels():
    """Broken: one channel is refused, or spread otherwise."""
    grey, colour = build(spec(1), arch="squeezenet1_1"), build(spec(3), arch="squeezenet1_1")
    colour.load_state_dict(grey.state_dict())
    images = torch.rand(2, 1, 32, 32, generator=rng())
    assert torch.equal(grey(images), colour(images.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"arch": "squeezenet1_1"}, None),
        ({"arch": "mobilenet_v3_small"}, None),
        ({"arch": "shufflenet_v2_x0_5"}, spec(1, 32, 2)),
    ],
    ids=lambda v: str(v),
)
def test_the_public_check_passes(options, shape):
    """Broken: no second derivative, a hard-coded dtype, or anything else that the contract of models forbids."""
    check_model(Torchvision(**options), shape)


def test_attention_is_twice_differentiable():
    """Broken: a fused attention kernel, whose second derivative does not exist."""
    module = build(arch="mobilenet_v3_small")
    module.network = nn.Sequential(nn.Flatten(2), _Attention(), nn.Flatten(), nn.Linear(24, 4)).double()
    network = Network(module)
    theta = torch.randn(network.num_parameters, generator=rng(), dtype=torch.float64).requires_grad_()
    images = torch.rand(2, 1, 2, 4, generator=rng(1), dtype=torch.float64)
    targets = torch.eye(4, dtype=torch.float64)[:2]
    (gradient,) = torch.autograd.grad(inner_loss(network, theta, images, targets), theta, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), theta)
    assert second.isfinite().all() and second.any()


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.heads(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    ("options", "shape", "option", "words"),
    [
        ({"arch": "mobilnet_v3_small"}, spec(), "arch", r"Did you mean 'mobilenet_v3_small'\? See torchvision.models"),
        ({"arch": "fasterrcnn_resnet50_fpn"}, spec(), "arch", "no classification network"),
        ({"arch": "squeezenet1_1"}, spec(2), "", "3 channels .one is repeated., not 2"),
        ({"arch": "squeezenet1_1"}, spec(side=8), "arch", "cannot take 3×8×8 images .*larger images or another arch"),
        (
            {"arch": "mobilenet_v3_small", "norm": "instance"},
            spec(),
            "norm",
            "shrinks 32×32 images to maps of 1×1, and give zeros; take larger",
        ),
        (
            {"arch": "shufflenet_v2_x1_0"},
            spec(),
            "groups",
            "4 groups do not divide 58 channels; 2 would",
        ),
        ({"arch": "vit_b_16"}, spec(width=16), "arch", "square images, not 32×16"),
        ({"arch": "maxvit_t"}, spec(), "arch", "cannot take 3×32×32 images .*divisible by partition"),
        ({"arch": "swin_v2_t"}, spec(), "arch", "multiple of 256 pixels a side, or swin_t"),
    ],
    ids=lambda v: v["arch"] if isinstance(v, dict) else "",
)
def test_what_does_not_fit_is_refused_in_words(options, shape, option, words):
    """Broken: a traceback from inside torchvision, or no way out."""
    with pytest.raises(OptionError, match=words) as caught:
        build(shape, **options)
    assert caught.value.option == option


@attrs.frozen(kw_only=True)
class Foreign(AbstractModel):
    """Somebody else's model, as torchvision gives it or with one layer changed."""

    name = "foreign"
    layer: nn.Module

    def build(self, spec):
        return nn.Sequential(nn.Conv2d(spec.channels, 4, 3), self.layer, nn.Flatten(), nn.LazyLinear(spec.num_classes))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm2d(4), r"layer 1 \(BatchNorm2d\) keeps running statistics.*take group or instance normalisation"),
        (nn.Dropout(0.3), r"layer 1 \(Dropout, p = 0.3\) draws random numbers.*set its probability to 0"),
    ],
    ids=["running", "dropout"],
)
def test_a_network_that_cannot_be_replayed_is_refused_with_what_to_take(layer, words):
    """Broken: a third party's batch statistics or dropout would make replayed steps differ."""
    with pytest.raises(OptionError, match=words):
        build_module(Foreign(layer=layer), spec())
