"""A ConvNet's step with its derivatives written down, against PyTorch's automatic differentiation in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from attrs import evolve
from torch import nn
from torch.nn.utils import parametrizations

from ddfw import ImageSpec
from ddfw.engine import chain as chains
from ddfw.engine import convolving
from ddfw.engine.budget import graph_bytes, peak_bytes
from ddfw.engine.chain import chain_of
from ddfw.engine.convolving import Patches, Tiles, way_of
from ddfw.engine.inner import EagerSteps, Network, StepGraph, build_module, inner_gradient, inner_loss
from ddfw.engine.norms import twice_differentiable
from ddfw_plugins.models.convnet import ConvNet

SPEC = ImageSpec(channels=2, height=8, width=8, num_classes=3)
MODEL = ConvNet(depth=2, width=6)


class PlainNetwork(Network):
    """A network that PyTorch differentiates."""

    def chain(self, theta, images):
        return None


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-9))


def problem(model, spec, count=3, dtype=torch.float64):
    """The module, and θ, images, targets and a direction far from anything special."""
    module = build_module(model, spec)
    size = sum(p.numel() for p in module.parameters())
    theta, direction = 0.3 * normal(size, seed=1), normal(size, seed=2)
    targets = normal(count, spec.num_classes, seed=4).softmax(dim=1) * normal(count, 1, seed=5).abs()
    given = theta, normal(count, *spec.shape, seed=3), targets, direction
    return module, tuple(t.to(dtype) for t in given)


def both(module, theta, images, targets, direction, **how):
    """Gradient and pullback, written down and by PyTorch."""
    results = []
    for network in (Network(module), PlainNetwork(module)):
        assert (network.chain(theta, images) is None) == isinstance(network, PlainNetwork)
        graph = StepGraph(network, theta, images, targets)
        gradient = graph.gradient.clone()
        results.append([gradient, graph.pull(direction, **how)])
    return results


SHAPES = {
    "even": (MODEL, 8, 3),
    "odd": (MODEL, 9, 3),
    "one image": (MODEL, 8, 1),
    "unequal sides": (MODEL, (7, 10), 2),
    "no pooling": (evolve(MODEL, pooling="none"), 8, 3),
    "groups": (evolve(MODEL, norm="group", groups=3), 8, 3),
    "one group": (evolve(MODEL, norm="layer"), 7, 2),
    "wide margins": (evolve(MODEL, first_padding=3), 8, 3),
    "three blocks": (evolve(MODEL, depth=3), 12, 2),
}


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_and_its_pullback_are_those_of_automatic_differentiation(shape, tiles, monkeypatch):
    """Broken: a term of a written derivative is missing, for some shape of maps or one way to convolve."""
    monkeypatch.setattr(convolving, "TILES_CHANNELS", 1 if tiles else 1000)
    monkeypatch.setattr(convolving, "TILES_PIXELS", 0)
    model, side, count = SHAPES[shape]
    height, width = side if isinstance(side, tuple) else (side, side)
    module, given = problem(model, evolve(SPEC, height=height, width=width), count)
    (gradient, found), (plain, wanted) = both(module, *given, through_theta=True)
    assert relative(gradient, plain) <= 1e-12
    for name in ("s", "theta", "images", "targets"):
        assert relative(getattr(found, name), getattr(wanted, name)) <= 1e-12, name


def test_finite_differences_agree():
    """Broken: automatic differentiation and the written derivatives share a mistake."""
    module, (theta, images, targets, direction) = problem(MODEL, SPEC)
    steps, plain = EagerSteps(Network(module)), PlainNetwork(module)
    step = 1e-6
    turned = normal(len(theta), seed=9)

    def loss(point):
        return float(inner_loss(plain, point, images, targets))

    slope = (loss(theta + step * turned) - loss(theta - step * turned)) / (2 * step)
    assert abs(slope - float(steps.gradient(theta, images, targets) @ turned)) <= 1e-7 * abs(slope)
    pulled = steps.pull(theta, images, targets, direction, through_theta=True)
    sides = {
        "theta": lambda by: steps.gradient(theta + by * turned, images, targets) @ direction,
        "images": lambda by: steps.gradient(theta, images + by * normal(*images.shape, seed=8), targets) @ direction,
        "targets": lambda by: steps.gradient(theta, images, targets + by * normal(*targets.shape, seed=7)) @ direction,
    }
    ways = {"theta": turned, "images": normal(*images.shape, seed=8), "targets": normal(*targets.shape, seed=7)}
    for name, along in sides.items():
        slope = float(along(step) - along(-step)) / (2 * step)
        assert abs(slope - float((getattr(pulled, name) * ways[name]).sum())) <= 1e-6 * abs(slope), name


@pytest.mark.parametrize("form", ["channels last", "transposed", "expanded"])
def test_images_of_any_layout_are_taken(form):
    """Broken: batches that an augmentation leaves in another order are misread."""
    module, (theta, images, targets, direction) = problem(MODEL, SPEC)
    images = {
        "channels last": lambda: images.contiguous(memory_format=torch.channels_last),
        "transposed": lambda: images.transpose(2, 3),
        "expanded": lambda: images[:1].expand_as(images),
    }[form]()
    (gradient, found), (plain, wanted) = both(module, theta, images, targets, direction, through_theta=True)
    assert relative(gradient, plain) <= 1e-12 and relative(found.images, wanted.images) <= 1e-12
    assert found.images.shape == images.shape


@pytest.mark.parametrize("most", [1, 800, 10**9])
def test_parts_of_a_batch_add_up_to_the_batch(most, monkeypatch):
    """Broken: a batch that is computed a few images at a time has another gradient or loses images."""
    monkeypatch.setattr(chains, "MOST_VALUES", most)
    module, given = problem(MODEL, SPEC, count=5)
    (gradient, found), (plain, wanted) = both(module, *given, through_theta=True)
    again = EagerSteps(Network(module)).pull(*given, through_theta=True)
    assert relative(gradient, plain) <= 1e-12
    assert torch.equal(EagerSteps(Network(module)).gradient(*given[:3]), gradient)
    for name in ("s", "theta", "images", "targets"):
        assert relative(getattr(found, name), getattr(wanted, name)) <= 1e-12
        assert torch.equal(getattr(found, name), getattr(again, name))


@pytest.mark.parametrize("images", [1, 7, 10, 36, 100])
def test_parts_are_as_large_as_allowed_and_alike_where_they_can_be(images):
    """Broken: a part is larger than the cache, images are left out, or more than two sizes have to be compiled."""
    chain = chain_of(build_module(ConvNet(), evolve(SPEC, height=32, width=32)), 32, 32)
    rows = chain.rows(images)
    assert sum(rows) == images and max(rows) * chain.values <= chains.MOST_VALUES and len(set(rows)) <= 2
    assert len(set(rows)) == 1 or images == 7 or images % 12 == 1 or images == 37


def test_a_released_step_gives_the_same_bits(monkeypatch):
    """Broken: held and recomputed steps differ, so that a run's numbers depend on the memory of the machine."""
    monkeypatch.setattr(convolving, "TILES_CHANNELS", 4)
    module, given = problem(evolve(MODEL, depth=3), evolve(SPEC, height=16, width=16), dtype=torch.float32)
    found = []
    for large in (1, 10**9):
        monkeypatch.setattr(chains, "LARGE", large)
        graph = StepGraph(Network(module), *given[:3])
        found.append((graph.gradient, graph.pull(given[3], through_theta=True)))
    (one, first), (other, second) = found
    assert torch.equal(one, other)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("s", "theta", "images", "targets"))


def test_a_held_step_keeps_less_than_what_autograd_keeps():
    """Broken: a held step keeps what it could compute again, and fewer steps fit in a machine's memory."""
    module, (theta, images, targets, _) = problem(ConvNet(), evolve(SPEC, channels=3, height=32, width=32), 10)
    ours, plain = (graph_bytes(n, theta, images, targets) for n in (Network(module), PlainNetwork(module)))
    assert ours <= 0.75 * plain


def test_a_step_without_a_held_graph_takes_less_than_two_graphs_of_autograd():
    """Broken: `gradient.memory = 0`, the way that takes the least memory, takes as much as holding graphs."""
    module, given = problem(ConvNet(width=64), evolve(SPEC, channels=3, height=32, width=32), 10)
    ours, plain = (
        peak_bytes(lambda: EagerSteps(n).pull(*given, through_theta=True))  # noqa: B023
        for n in (Network(module), PlainNetwork(module))
    )
    assert ours <= 1.8 * plain


def test_through_theta_alone_decides_what_is_computed():
    """Broken: TESLA's recursion pays for Hessian-vector products, or gets other image gradients."""
    module, given = problem(MODEL, SPEC)
    network = Network(module)
    whole, part = (EagerSteps(network).pull(*given, through_theta=through) for through in (True, False))
    assert part.theta is None and torch.equal(part.images, whole.images) and torch.equal(part.s, whole.s)


class Own(nn.Conv2d):
    """Somebody's own layer."""


def sequence(**changes):
    """A chain's module, with some layers exchanged or added by their position's name."""
    layers = {
        "conv": nn.Conv2d(2, 4, 3, padding=1),
        "norm": nn.GroupNorm(4, 4),
        "relu": nn.ReLU(),
        "pool": nn.AvgPool2d(2),
        "flat": nn.Flatten(),
        "end": nn.Linear(64, 3),
        **changes,
    }
    return twice_differentiable(nn.Sequential(*(layer for layer in layers.values() if layer is not None)))


def exchanged(layer, **values):
    """A layer with other attributes or parameters, in this order, than it was made with."""
    for name, value in values.items():
        if name in layer._parameters:
            del layer._parameters[name]
            layer.register_parameter(name, value)
        else:
            setattr(layer, name, value)
    return layer


def ones(*shape):
    return nn.Parameter(torch.ones(shape))


OTHERS = {
    "another convolution class": {"conv": Own(2, 4, 3, padding=1)},
    "grouped": {"conv": nn.Conv2d(2, 4, 3, padding=1, groups=2)},
    "circular": {"conv": nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")},
    "padding by name": {"conv": nn.Conv2d(2, 4, 3, padding="same")},
    "strided": {"conv": nn.Conv2d(2, 4, 3, padding=1, stride=2)},
    "dilated": {"conv": nn.Conv2d(2, 4, 3, padding=2, dilation=2)},
    "parametrised": {"conv": parametrizations.weight_norm(nn.Conv2d(2, 4, 3, padding=1))},
    "norm without parameters": {"norm": nn.GroupNorm(4, 4, affine=False)},
    "batch norm": {"norm": nn.BatchNorm2d(4, track_running_stats=False)},
    "leaky": {"relu": nn.LeakyReLU()},
    "maximum": {"pool": nn.MaxPool2d(2)},
    "pooling by three": {"pool": nn.AvgPool2d(3)},
    "padding set as a number": {"conv": exchanged(nn.Conv2d(2, 4, 3, padding=1), padding=1)},
    "stride set as a number": {"conv": exchanged(nn.Conv2d(2, 4, 3, padding=1), stride=1)},
    "weights of more channels": {"conv": exchanged(nn.Conv2d(1, 4, 3, padding=1), weight=ones(4, 2, 3, 3))},
    "bias before weights": {"conv": exchanged(nn.Conv2d(2, 4, 3, padding=1), weight=ones(4, 2, 3, 3))},
    "shift before scale": {"norm": exchanged(nn.GroupNorm(4, 4), weight=ones(4))},
    "norm without shift": {"norm": exchanged(nn.GroupNorm(4, 4), bias=None)},
    "end with its bias first": {"end": exchanged(nn.Linear(64, 3), weight=ones(3, 64))},
    "flattened otherwise": {"flat": nn.Flatten(1, 2)},
    "no end": {"end": None},
    "two ends": {"more": nn.Linear(3, 3)},
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_layers_are_left_to_pytorch(other):
    """Broken: a network that is not made of these layers is computed as if it were."""
    assert chain_of(sequence(**OTHERS[other]), 8, 8) is None


@pytest.mark.parametrize("other", ["weights of more channels", "shift before scale", "norm without shift"])
def test_layers_with_exchanged_parameters_are_those_of_pytorch(other):
    """Broken: a network whose first layer was given other weights, say, stops, or has a scale taken for a shift."""
    network = Network(sequence(**OTHERS[other]))
    theta, images, direction = 0.3 * normal(network.num_parameters), normal(2, 2, 8, 8), normal(network.num_parameters)
    given = theta, images, normal(2, 3).softmax(dim=1)
    steps, plain = EagerSteps(network), EagerSteps(PlainNetwork(network.module))
    assert relative(steps.gradient(*given), plain.gradient(*given)) <= 1e-12
    found, wanted = (way.pull(*given, direction, through_theta=True) for way in (steps, plain))
    assert relative(found.theta, wanted.theta) <= 1e-12


def test_layers_with_hooks_or_their_own_forward_are_left_to_pytorch():
    """Broken: somebody's hook is not called."""
    assert chain_of(sequence(), 8, 8) is not None
    for hook in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        module = sequence()
        getattr(module[2], hook)(lambda *arguments: None)
        assert chain_of(module, 8, 8) is None
    module = sequence()
    module[1].forward = module[1].forward
    assert chain_of(module, 8, 8) is None


def test_shared_parameters_are_left_to_pytorch():
    """Broken: a parameter that two layers share is taken twice from θ."""
    module = sequence(again=None)
    twice = nn.Sequential(*list(module)[:3], nn.Conv2d(4, 4, 3, padding=1), module[1], nn.ReLU(), *list(module)[3:])
    assert chain_of(twice, 8, 8) is None


def test_a_layer_without_a_bias_is_taken():
    """Broken: pieces of θ are counted as if every layer had a bias."""
    module = sequence(conv=nn.Conv2d(2, 4, 3, padding=1, bias=False), end=nn.Linear(64, 3, bias=False))
    size = sum(p.numel() for p in module.parameters())
    given = normal(size, seed=1), normal(3, 2, 8, 8), normal(3, 3, seed=2).softmax(dim=1), normal(size, seed=3)
    (gradient, found), (plain, wanted) = both(module, *given, through_theta=True)
    assert relative(gradient, plain) <= 1e-12 and relative(found.theta, wanted.theta) <= 1e-12


class Doubled(Network):
    """A network that does more than its module."""

    def logits(self, theta, images):
        return 2 * super().logits(theta, images)


def test_what_a_chain_does_not_take_goes_to_pytorch():
    """Broken: an empty batch, another precision than the parameters' or a network of another kind is misread."""
    network = Network(build_module(MODEL, SPEC))
    theta = normal(network.num_parameters)
    assert network.chain(theta, normal(2, *SPEC.shape)) is not None
    assert network.chain(theta, normal(0, *SPEC.shape)) is None
    assert network.chain(theta, normal(2, *SPEC.shape).float()) is None
    assert network.chain(theta, normal(2, *SPEC.shape).to("meta")) is None
    assert Doubled(network.module).chain(theta, normal(2, *SPEC.shape)) is None
    assert Network(MODEL.build(SPEC)).chain(theta, normal(2, *SPEC.shape)) is None  # not made by the engine


def test_function_transforms_and_training_go_through_the_layers():
    """Broken: several networks at once, or networks that are trained, meet derivatives that cannot be transformed."""
    module, (theta, images, targets, _) = problem(MODEL, SPEC)
    network = Network(copy.deepcopy(module))
    found = torch.func.grad(lambda point: inner_loss(network, point, images, targets))(theta)
    assert relative(EagerSteps(network).gradient(theta, images, targets), found) <= 1e-12
    assert relative(inner_gradient(network, theta, images, targets), found) <= 1e-12
    many = torch.func.vmap(lambda point: inner_loss(network, point, images, targets))(torch.stack([theta, -theta]))
    assert many.shape == (2,)


def test_statistics_that_overflow_are_no_numbers():
    """Broken: a student that has left the numbers' range goes on with gradients of zero, and nobody is told."""
    module, (theta, images, targets, _) = problem(MODEL, SPEC, dtype=torch.float32)
    assert EagerSteps(Network(module)).gradient(theta, images * 1e30, targets).isnan().any()


def adjoint(forward, backward, x, y):
    """How far ⟨forward(x), y⟩ and ⟨x, backward(y)⟩ are apart, relative to them."""
    one, other = (forward(x) * y).sum(), (x * backward(y).view(x.shape)).sum()
    return float((one - other).abs() / one.abs())


@pytest.mark.parametrize("kind", [Patches, Tiles])
@pytest.mark.parametrize("sides", [(8, 8), (7, 9), (2, 3)])
def test_ways_to_convolve_equal_pytorchs_and_their_maps_have_these_adjoints(kind, sides):
    """Broken: a transform of tiles or neighbourhoods, or its adjoint, is wrong."""
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
    way, x = kind(layer, *sides), normal(*sides, 2, 3)
    rows, factors = way.rows(x), way.weights(layer.weight.detach())
    products = rows @ factors
    wanted = layer(x.permute(2, 3, 0, 1)).permute(2, 3, 0, 1).detach()
    assert relative(way.maps(products).view(wanted.shape), wanted) <= 1e-14
    assert adjoint(way.rows, lambda c: way.rows_adjoint(c, 2), x, normal(*rows.shape, seed=1)) <= 1e-12
    assert adjoint(way.weights, way.weights_adjoint, layer.weight.detach(), normal(*factors.shape, seed=2)) <= 1e-12
    maps = way.maps(products)
    assert adjoint(way.maps, way.maps_adjoint, products, normal(*maps.shape, seed=3)) <= 1e-12
    cotangent = normal(*products.shape, seed=4)
    by_parts = way.rows_adjoint(cotangent @ factors.transpose(1, 2), 2)
    assert relative(way.inputs([(cotangent, factors)], 2), by_parts) <= 1e-13


def test_the_way_to_convolve_follows_from_the_shape():
    """Broken: small convolutions pay for transforms, or large ones take more than twice the multiplications."""
    wide, narrow = nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(3, 128, 3, padding=1)
    assert type(way_of(wide, 16, 16)) is Tiles and type(way_of(wide, 8, 8)) is Tiles
    assert (
        type(way_of(narrow, 32, 32)) is Patches and type(way_of(nn.Conv2d(128, 128, 5, padding=2), 16, 16)) is Patches
    )
    assert type(way_of(nn.Conv2d(32, 32, 3, padding=1), 4, 4)) is Patches
