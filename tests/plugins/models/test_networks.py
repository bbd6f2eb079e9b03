"""The field's networks: parameter counts and logits from outside facts, second derivatives, stacks, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.functional import (
    avg_pool2d,
    batch_norm,
    conv2d,
    group_norm,
    leaky_relu,
    linear,
    max_pool2d,
    relu,
    sigmoid,
    silu,
)

from ddfw import ImageSpec, OptionError
from ddfw.engine.inner import Network, build_module, inner_loss
from ddfw.testing import check_model
from ddfw_plugins.models.alexnet import AlexNet
from ddfw_plugins.models.convnet import ConvNet
from ddfw_plugins.models.mlp import Mlp
from ddfw_plugins.models.resnet18 import ResNet18
from ddfw_plugins.models.torchvision import Torchvision
from ddfw_plugins.models.vgg11 import Vgg11


def spec(channels=3, side=32, classes=10, width=None):
    return ImageSpec(channels=channels, height=side, width=width or side, num_classes=classes)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(shape, count=3, seed=5):
    return torch.randn(count, *shape.shape, generator=rng(seed), dtype=torch.float64)


def ready(model, shape, seed=0):
    """The network, a generic θ in float64 (scales and shifts too), and its tensors in order."""
    network = Network(build_module(model, shape))
    theta = model.init(network.module, rng(seed)).double()
    theta = theta + 0.1 * torch.randn(theta.shape, generator=rng(seed + 1), dtype=torch.float64)
    tensors = [p.view(s) for p, s in zip(theta.split(network.sizes), network.shapes, strict=True)]
    return network, theta, tensors


def count(model, shape):
    with torch.device("meta"):
        module = model.build(shape)
    return sum(p.numel() for p in module.parameters()), len(list(module.parameters()))


def close(a, b):
    return float((a - b).abs().max()) <= 1e-12


ALEX, VGG = (128, 192, 256, 192, 192), (64, 128, 256, 256, 512, 512, 512, 512)


def convolutions(channels, widths, kernels):
    pairs = zip((channels, *widths), widths, kernels, strict=False)
    return sum(before * after * kernel**2 + after for before, after, kernel in pairs)


class Ending(nn.Module):
    """A convolution and what follows it."""

    def __init__(self, *after):
        super().__init__()
        self.first, self.after = nn.Conv2d(3, 4, 3), nn.Sequential(*after)

    def forward(self, images):
        return self.after(self.first(images))


def hooked(module, theta, batch):
    """What the last linear layer of a copy of the module is given, by a hook of PyTorch's."""
    nn.utils.vector_to_parameters(theta, module.double().parameters())
    seen, last = [], [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    with last.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0])):
        module.eval()(batch)
    return seen[-1].detach()


@pytest.mark.parametrize(
    ("model", "width"),
    [
        (ConvNet(depth=2, width=4), 4 * 64),
        (Mlp(width=6), 6),
        (AlexNet(width=4), 6 * 16),
        (Vgg11(width=2), 16),
        (ResNet18(width=4), 32),
        (ResNet18(width=4, downsampling="average"), 32 * 16),
        (Torchvision(arch="mobilenet_v3_small"), 1024),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "name") else None,
)
def test_features_are_what_the_last_linear_layer_is_given(model, width):
    """Broken: coresets would be selected by something else than the features that papers take."""
    network, theta, _ = ready(model, spec())
    batch = images(spec())
    found = network.features(theta, batch)
    assert found.shape == (3, width) and found.dtype == torch.float64
    assert close(found, hooked(model.build(spec()), theta, batch))
    assert torch.equal(network.features(theta, batch), found)


@pytest.mark.parametrize(
    "after",
    [
        (nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (nn.Linear(30, 5), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
    ],
    ids=["no linear layer", "a linear layer in the middle"],
)
def test_a_network_that_does_not_end_in_a_linear_layer_has_its_logits_as_features(after):
    """Broken: a network of another form could not have coresets, or ones by something in its middle."""
    network = Network(Ending(*after).double())
    theta = torch.cat([p.detach().flatten() for p in network.module.parameters()])
    batch = images(spec())
    assert network.logits(theta, batch).shape == (3, 4)
    assert torch.equal(network.features(theta, batch), network.logits(theta, batch))


def test_features_are_found_where_the_last_layer_is_called_by_name_or_is_not_the_last_that_was_made():
    """Broken: an unusual but correct network would end a run, or have features of an earlier layer."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.body = nn.Linear(7, 4), nn.Linear(3 * 32 * 32, 7)

        def forward(self, images):
            return self.head(input=self.body(images.flatten(1)).relu())

    network = Network(Odd().double())
    theta = torch.cat([p.detach().flatten() for p in network.module.parameters()])
    batch = images(spec())
    assert close(network.features(theta, batch), network.module.body(batch.flatten(1)).relu().detach())


@pytest.mark.parametrize(
    ("model", "shape", "parameters", "tensors"),
    [
        (ConvNet(), spec(), 320010, 14),
        (ConvNet(norm="none"), spec(), 320010 - 3 * 256, 8),
        (ConvNet(depth=1, width=8, pooling="none"), spec(1, 8), 8 * 9 + 8 + 16 + 8 * 64 * 10 + 10, 6),
        (Mlp(), spec(), 3072 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10, 6),
        (AlexNet(), spec(), convolutions(3, ALEX, (5, 5, 3, 3, 3)) + 192 * 16 * 10 + 10, 12),
        (AlexNet(first_padding=4), spec(1, 28), convolutions(1, ALEX, (5, 5, 3, 3, 3)) + 192 * 16 * 10 + 10, 12),
        (Vgg11(), spec(), convolutions(3, VGG, (3,) * 8) + 2 * sum(VGG) + 512 * 10 + 10, 34),
        (Vgg11(first_padding=3), spec(1, 28), convolutions(1, VGG, (3,) * 8) + 2 * sum(VGG) + 512 * 10 + 10, 34),
        (ResNet18(norm="batch"), spec(), 11173962, 62),
        (ResNet18(), spec(3, 64), 11173962, 62),
        (ResNet18(downsampling="average"), spec(), 11173962 + 15 * 512 * 10, 62),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "name") else None,
)
def test_the_parameters_are_as_many_as_published_or_counted_by_hand(model, shape, parameters, tensors):
    """Broken: another architecture under a known name; stored experts would not fit."""
    assert count(model, shape) == (parameters, tensors)


def test_the_proportions_hold_at_another_width():
    """Broken: `width` scales only some of the channels."""
    outs = [p.shape[0] for p in AlexNet(width=8).build(spec()).parameters() if p.ndim == 4]
    assert outs == [8, 12, 16, 12, 12]
    outs = [p.shape[0] for p in Vgg11(width=2).build(spec()).parameters() if p.ndim == 4]
    assert outs == [w // 32 for w in VGG]
    outs = [p.shape[0] for p in ResNet18(width=2).build(spec()).parameters() if p.ndim == 4]
    assert outs == [2] * 5 + [4] * 5 + [8] * 5 + [16] * 5


TINY = [
    ConvNet(width=4),
    ConvNet(width=4, depth=2, norm="group", groups=2, activation="silu", pooling="max"),
    ConvNet(width=4, norm="layer", activation="leakyrelu"),
    ConvNet(width=4, norm="batch", activation="sigmoid", pooling="none"),
    Mlp(width=6),
    Mlp(width=6, depth=1, activation="sigmoid"),
    AlexNet(width=2),
    Vgg11(width=2),
    Vgg11(width=4, norm="group"),
    ResNet18(width=2),
    ResNet18(width=2, norm="batch"),
    ResNet18(width=2, downsampling="average"),
]


@pytest.mark.parametrize("model", TINY, ids=str)
@pytest.mark.parametrize("shape", [spec(1, 8, 3), spec(1, 28), spec(3, 32), spec(3, 64)], ids=lambda s: str(s.shape))
def test_every_size_that_fits_gives_finite_logits_for_every_class(model, shape):
    """Broken: sizes are counted wrongly, so that the linear layer does not fit."""
    least = {"vgg11": 32, "resnet18": 9}.get(model.name, 8)
    if model.name == "resnet18":
        least = {"stride": 9, "average": 16}[model.downsampling] if model.norm == "instance" else 1
    if shape.height < least:
        with pytest.raises(OptionError, match=f"at least {least} pixels"):
            model.build(shape)
        return
    network, theta, _ = ready(model, shape)
    logits = network.logits(theta, images(shape))
    assert logits.shape == (3, shape.num_classes)
    assert logits.isfinite().all() and logits.std(0).min() > 0


def test_the_default_convnet_is_what_it_always_was():
    """Broken: experts made before the options came have another order of parameters, or other logits."""
    old = nn.Sequential()
    for before in (3, 128, 128):
        old += nn.Sequential(nn.Conv2d(before, 128, 3, padding=1), nn.GroupNorm(128, 128), nn.ReLU(), nn.AvgPool2d(2))
    old += nn.Sequential(nn.Flatten(), nn.Linear(128, 10))
    new = ConvNet().build(spec(side=8))
    assert [(n, p.shape) for n, p in old.named_parameters()] == [(n, p.shape) for n, p in new.named_parameters()]
    assert repr(old) == repr(new)


@pytest.mark.parametrize("norm", ["instance", "group", "layer", "batch", "none"])
@pytest.mark.parametrize(
    ("activation", "function"), [("relu", relu), ("leakyrelu", leaky_relu), ("sigmoid", sigmoid), ("silu", silu)]
)
def test_the_convnet_says_what_its_options_say(norm, activation, function):
    """Broken: a norm over the wrong values, another activation or slope, the wrong order inside a block."""
    shape = spec(2, 12, 3, width=9)
    pooling, pool = {"silu": ("max", lambda x: max_pool2d(x, 2)), "sigmoid": ("none", lambda x: x)}.get(
        activation, ("avg", lambda x: avg_pool2d(x, 2))
    )
    model = ConvNet(width=6, depth=2, norm=norm, groups=3, activation=activation, pooling=pooling, first_padding=2)
    network, theta, tensors = ready(model, shape)
    values, left = images(shape), iter(tensors)
    batch = values
    for padding in (2, 1):
        batch = conv2d(batch, next(left), next(left), padding=padding)
        if norm != "none":
            batch = normalised(norm, batch, groups=3) * next(left).view(-1, 1, 1) + next(left).view(-1, 1, 1)
        batch = pool(function(batch))
    assert close(network.logits(theta, values), linear(batch.flatten(1), next(left), next(left)))


def normalised(norm, x, groups):
    """Mean 0 and variance 1 over what each norm is said to run over, written out."""
    b, c, h, w = x.shape
    parts = {"instance": c, "group": groups, "layer": 1}.get(norm)
    shaped = x.transpose(0, 1).reshape(c, -1) if parts is None else x.reshape(b * parts, -1)
    shaped = (shaped - shaped.mean(1, keepdim=True)) / (shaped.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    return shaped.reshape(c, b, h, w).transpose(0, 1) if parts is None else shaped.reshape(b, c, h, w)


@pytest.mark.parametrize("downsampling", ["stride", "average"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_resnet_is_the_fields(downsampling, norm):
    """Broken: pooling before the activation or after the shortcut's norm, or the wrong end of the network."""
    shape = spec(1, 20, 3, width=16)
    network, theta, tensors = ready(ResNet18(width=2, downsampling=downsampling, norm=norm), shape)
    values, left = images(shape), iter(tensors)
    average = downsampling == "average"

    def unit(x, stride=1, act=True, pool_after=False, pool_before=False, padding=1):
        x = conv2d(x, next(left), stride=stride, padding=padding)
        x = avg_pool2d(x, 2) if pool_before else x
        scale, shift = next(left), next(left)
        if norm == "batch":
            x = batch_norm(x, None, None, scale, shift, training=True)
        else:
            x = group_norm(x, len(scale), scale, shift)
        x = relu(x) if act else x
        return avg_pool2d(x, 2) if pool_after else x

    x = unit(values)
    for block in range(8):
        halve = block in (2, 4, 6)
        stride = 2 if halve and not average else 1
        inner = unit(unit(x, stride, pool_after=halve and average), act=False)
        shortcut = unit(x, stride, act=False, pool_before=average, padding=0) if halve else x
        x = relu(inner + shortcut)
    x = x.flatten(1) if average else x.mean((2, 3))
    assert close(network.logits(theta, values), linear(x, next(left), next(left)))
    assert next(left, None) is None


def test_alexnet_and_vgg_are_plain_stacks():
    """Broken: a pooling in the wrong place, or a norm after the activation."""
    for model, pools, kernels in (
        (AlexNet(width=2), (0, 1, 4), (5, 5, 3, 3, 3)),
        (Vgg11(width=2), (0, 1, 3, 5, 7), (3,) * 8),
    ):
        shape = spec(3, 37, 4, width=33)
        network, theta, tensors = ready(model, shape)
        values, left = images(shape), iter(tensors)
        x = values
        for number, kernel in enumerate(kernels):
            x = conv2d(x, next(left), next(left), padding=kernel // 2)
            if model.name == "vgg11":
                x = group_norm(x, x.shape[1], next(left), next(left))
            x = max_pool2d(relu(x), 2) if number in pools else relu(x)
        assert close(network.logits(theta, values), linear(x.flatten(1), next(left), next(left)))


TWICE = [
    (ConvNet(width=2, depth=1, activation="silu"), spec(1, 6, 2)),
    (ConvNet(width=2, depth=2, norm="batch", activation="sigmoid", pooling="none"), spec(1, 4, 2)),
    (ConvNet(width=4, depth=1, norm="layer", activation="leakyrelu", pooling="max"), spec(2, 6, 2)),
    (Mlp(width=3, activation="silu"), spec(1, 3, 2)),
    (AlexNet(width=2), spec(1, 8, 2)),
    (Vgg11(width=1, norm="layer"), spec(1, 32, 2)),
    (ResNet18(width=1, norm="batch"), spec(1, 10, 2)),
    (ResNet18(width=1, norm="layer", downsampling="average"), spec(1, 9, 2)),
]


@pytest.mark.parametrize(("model", "shape"), TWICE, ids=lambda v: v.name if hasattr(v, "name") else "")
def test_the_second_derivative_is_that_of_differences(model, shape):
    """Broken: a layer without a second derivative, or with a wrong one."""
    network, theta, _ = ready(model, shape, seed=3)
    pixels = images(shape, count=3)
    targets = torch.rand(3, shape.num_classes, generator=rng(4), dtype=torch.float64).softmax(1)
    cotangent = torch.randn(theta.shape, generator=rng(6), dtype=torch.float64)

    def value(t, x):
        (gradient,) = torch.autograd.grad(inner_loss(network, t, x, targets), t, create_graph=True)
        return gradient @ cotangent

    leaves = [t.clone().requires_grad_() for t in (theta, pixels)]
    found = torch.autograd.grad(value(*leaves), leaves)
    step = 1e-7
    ways = [torch.randn(t.shape, generator=rng(7), dtype=torch.float64) for t in leaves]
    ahead, behind = (
        value(*((t.detach() + side * step * w).requires_grad_() for t, w in zip(leaves, ways, strict=True))).item()
        for side in (1, -1)
    )
    exact = sum(float((g * w).sum()) for g, w in zip(found, ways, strict=True))
    assert exact != 0
    assert (ahead - behind) / (2 * step) == pytest.approx(exact, rel=1e-4)


# Batch normalisation without running statistics stacks as well, and so do ReLU and max pooling.
@pytest.mark.parametrize(
    ("model", "shape"),
    [(m, spec(3, 32, 3)) for m in (ConvNet(width=3), Mlp(width=3), AlexNet(width=2), Vgg11(width=1, norm="layer"))]
    + [(ResNet18(width=1, norm="batch"), spec(1, 10, 2)), (ConvNet(width=2, norm="batch"), spec(1, 8, 2))],
    ids=lambda v: v.name if hasattr(v, "name") else "",
)
def test_two_networks_run_as_one_stack(model, shape):
    """Broken: an operation that cannot be stacked, so that ensembles need a loop."""
    network, first, _ = ready(model, shape)
    thetas = torch.stack([first, ready(model, shape, seed=9)[1]])
    values = images(shape)

    def loss(theta):
        pieces = zip(network.names, theta.split(network.sizes), network.shapes, strict=True)
        logits = functional_call(network.module, {n: p.view(s) for n, p, s in pieces}, (values,))
        return logits.square().sum()

    stacked = vmap(torch.func.grad(loss))(thetas)
    for theta, gradient in zip(thetas, stacked, strict=True):
        assert torch.allclose(torch.func.grad(loss)(theta), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", TINY, ids=str)
def test_init_is_a_function_of_the_generator(model):
    """Broken: two runs of one seed differ, or all networks of a run are the same."""
    module = build_module(model, spec())
    before = torch.random.get_rng_state()
    first, again, other = (model.init(module, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "model",
    [
        ConvNet(width=4, norm="group", activation="silu", pooling="max"),
        ConvNet(width=4, depth=2, norm="batch", activation="leakyrelu", pooling="none"),
        Mlp(width=5),
        AlexNet(width=4),
        Vgg11(width=2),
        ResNet18(width=2),
        ResNet18(width=2, norm="layer", downsampling="average"),
    ],
    ids=str,
)
def test_the_public_check_passes(model):
    """Broken: a network that breaks the contract of its kind."""
    check_model(model)


@pytest.mark.parametrize(
    ("model", "shape", "option", "words"),
    [
        (ConvNet(depth=4), spec(1, 8), "depth", "halves a 8×8 image away; at most 3"),
        (ConvNet(norm="group", width=6), spec(), "groups", "4 groups do not divide 6 channels; 2 would"),
        (ConvNet(pooling="none"), spec(3, 1), "norm", "single values, since maps shrink to 1×1.*norm layer"),
        (ConvNet(pooling="none", norm="layer", width=1), spec(3, 1), "norm", "or norm none"),
        (AlexNet(), spec(1, 7), "first_padding", "needs at least 8 pixels a side"),
        (AlexNet(first_padding=4), spec(1, 3), "first_padding", "needs at least 4 pixels a side"),
        (Vgg11(), spec(1, 28), "first_padding", "first_padding 1 needs at least 32 pixels a side"),
        (Vgg11(norm="group", groups=7), spec(), "groups", "7 groups do not divide 64 channels; 1 would"),
        (ResNet18(), spec(1, 8), "norm", "1×1 map of a 8×8 image; .* at least 9 pixels a side, or norm layer"),
        (ResNet18(downsampling="average"), spec(1, 15), "norm", "at least 16 pixels"),
        (
            ResNet18(downsampling="average", norm="batch"),
            spec(1, 7),
            "downsampling",
            "at least 8 pixels a side, or downsampling stride",
        ),
    ],
    ids=lambda v: v.name if hasattr(v, "name") else "",
)
def test_what_does_not_fit_is_refused_in_words(model, shape, option, words):
    """Broken: a traceback from inside the network, zeros from a norm of one value, or no way out."""
    with pytest.raises(OptionError, match=words) as caught:
        model.build(shape)
    assert caught.value.option == option


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (AlexNet(width=1), spec(1, 8)),
        (AlexNet(width=1, first_padding=4), spec(1, 4)),
        (Vgg11(width=1, first_padding=3), spec(1, 28)),
        (ResNet18(width=1), spec(1, 9)),
        (ResNet18(width=1, norm="layer"), spec(1, 1)),
        (ResNet18(width=1, downsampling="average"), spec(1, 16)),
        (ResNet18(width=1, downsampling="average", norm="none"), spec(1, 8)),
    ],
    ids=lambda v: v.name if hasattr(v, "name") else "",
)
def test_the_least_size_that_a_refusal_names_fits(model, shape):
    """Broken: the way out that an error message shows is none."""
    if model.name == "resnet18" and model.norm == "layer":
        # One channel and one pixel are one value; two channels are not.
        model = ResNet18(width=2, norm="layer")
    network, theta, _ = ready(model, shape)
    assert network.logits(theta, images(shape)).std(0).min() > 0
