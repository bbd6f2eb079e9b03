"""Group normalisation with a closed second derivative, against PyTorch's own in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from attrs import frozen
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from ddfw import ImageSpec
from ddfw.contracts.executor import LabelledImages, Problem, Schedule
from ddfw.contracts.settings import TrainingSettings
from ddfw.contracts.trajectory import Segment
from ddfw.engine import norms
from ddfw.engine.inner import Network, build_module, inner_gradient
from ddfw.engine.metagradient import meta_gradient
from ddfw.engine.norms import TwiceGroupNorm, twice_differentiable
from ddfw.engine.training import train_network
from ddfw_plugins.augmentations.dsa import FAMILIES, Siamese
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.convnet import ConvNet

SPEC = ImageSpec(channels=2, height=8, width=8, num_classes=3)
#: Those of the layer's cotangents (dx, dw, db) that are given.
ALL = (True, True, True)
SOME = [(a, b, c) for a in (True, False) for b in (True, False) for c in (True, False) if a or b or c]


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Small maps, which would go PyTorch's way, go ours."""
    monkeypatch.setattr(norms, "SMALLEST", 1)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(groups, channels=6, dtype=torch.float64):
    """PyTorch's layer with parameters far from the identity, and ours with the same."""
    plain = nn.GroupNorm(groups, channels).to(dtype)
    with torch.no_grad():
        plain.weight.copy_(normal(channels, seed=1))
        plain.bias.copy_(normal(channels, seed=2))
    ours = twice_differentiable(nn.Sequential(copy.deepcopy(plain)))[0]
    assert type(ours) is TwiceGroupNorm and type(plain) is nn.GroupNorm
    return plain, ours


def first_and_second(layer, x, given=ALL):
    """Value, first derivatives, and the gradient of a combination of them with respect to x, dy and w."""
    dtype = layer.weight.dtype
    point, dy = x.detach().to(dtype).requires_grad_(), normal(*x.shape, seed=3).to(dtype).requires_grad_()
    value = layer(point)
    first = torch.autograd.grad(value, (point, layer.weight, layer.bias), dy, create_graph=True)
    chosen = [(f, normal(*f.shape, seed=4 + i).to(dtype)) for i, f in enumerate(first) if given[i]]
    combination = sum((f * cotangent).sum() for f, cotangent in chosen)
    second = torch.autograd.grad(combination, (point, dy, layer.weight), allow_unused=True)
    return [value.detach(), *(f.detach() for f in first)], list(second)


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-9))


def apart(found, wanted):
    """The largest relative error; what is not connected counts as zeros."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if a is not None and b is not None:
            worst = max(worst, relative(a.detach().double(), b.detach().double()))
        else:
            worst = max(worst, *(float(t.detach().abs().max()) for t in (a, b) if t is not None), 0.0)
    return worst


@pytest.mark.parametrize("given", SOME, ids=lambda given: "".join(n for n, g in zip("xwb", given, strict=True) if g))
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_values_and_both_derivatives_are_those_of_pytorch(groups, given):
    """Broken: a term of the closed second derivative is missing or wrong, for all cotangents or for some."""
    plain, ours = pair(groups)
    x = normal(3, 6, 4, 5) + 0.3
    for found, wanted in zip(first_and_second(ours, x, given), first_and_second(plain, x, given), strict=True):
        assert apart(found, wanted) <= 1e-12


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_finite_differences_agree(groups):
    """Broken: PyTorch's derivatives and ours share a mistake, or a gradient misses one of its arguments."""
    _, ours = pair(groups, 4)

    def layer(x, weight, bias):
        return functional_call(ours, {"weight": weight, "bias": bias}, (x,))

    inputs = tuple(t.requires_grad_() for t in (normal(2, 4, 3), normal(4, seed=1), normal(4, seed=2)))
    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)


@pytest.mark.parametrize("smallest", [1, 10**9], ids=["ours", "PyTorch's"])
def test_weights_may_lie_apart(monkeypatch, smallest):
    """Broken: weights that are a column of a table are read as if they lay one after the other (torch 2.11)."""
    monkeypatch.setattr(norms, "SMALLEST", smallest)
    plain, ours = pair(2)
    table = torch.stack([plain.weight.detach(), plain.bias.detach(), normal(6, seed=9)], dim=1).requires_grad_()
    x = normal(3, 6, 4, 5).requires_grad_()

    def derivatives(layer, weight, bias):
        value = functional_call(layer, {"weight": weight, "bias": bias}, (x,))
        first = torch.autograd.grad(value.sin().sum(), (x, table), create_graph=True)
        return value, *first, *torch.autograd.grad(sum(f.square().sum() for f in first), (x, table))

    found = derivatives(ours, table[:, 0], table[:, 1])
    wanted = derivatives(plain, table[:, 0].contiguous(), table[:, 1].contiguous())
    assert apart(found, wanted) <= 1e-12


@pytest.mark.parametrize("smallest", [1, 10**9], ids=["ours", "PyTorch's"])
def test_many_at_once_may_lie_channels_last(monkeypatch, smallest):
    """Broken: several networks at a time cannot take images that lie channels last (torch 2.11)."""
    monkeypatch.setattr(norms, "SMALLEST", smallest)
    _, ours = pair(2)
    x = normal(3, 2, 6, 4, 4)
    last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (3, 2))
    with torch.no_grad():
        assert torch.allclose(vmap(ours)(last), torch.stack([ours(some) for some in x]), rtol=1e-12, atol=1e-12)


FORMS = {
    "channels last": lambda: normal(3, 6, 4, 4).contiguous(memory_format=torch.channels_last),
    "transposed": lambda: normal(3, 6, 5, 4).transpose(2, 3),
    "expanded": lambda: normal(3, 6, 1, 4).expand(3, 6, 5, 4),
    "every second row": lambda: normal(6, 6, 4, 4)[::2],
    "[B, C]": lambda: normal(3, 6),
    "[B, C, L]": lambda: normal(3, 6, 7),
    "[B, C, D, H, W]": lambda: normal(2, 6, 2, 3, 2),
    "one image": lambda: normal(1, 6, 4, 4),
    "one pixel": lambda: normal(3, 6, 1, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_maps_of_any_form_are_taken(form):
    """Broken: a memory layout or a number of axes other than the usual gives other numbers or an error."""
    plain, ours = pair(2)
    x = FORMS[form]()
    for found, wanted in zip(first_and_second(ours, x), first_and_second(plain, x), strict=True):
        assert apart(found, wanted) <= 1e-12


def test_cotangents_of_any_form_are_taken():
    """Broken: a gradient that comes back transposed or expanded, as pooling and sums make them, is misread."""
    found = []
    for layer in pair(2):
        x = normal(3, 6, 4, 4).requires_grad_()
        (dx,) = torch.autograd.grad(layer(x).transpose(2, 3).square().sum(), x, create_graph=True)
        dw, db = torch.autograd.grad((layer(x) ** 3).sum(), (layer.weight, layer.bias), create_graph=True)
        wide = dx.transpose(1, 3).contiguous(memory_format=torch.channels_last).sin().sum()
        found.append(torch.autograd.grad(wide + dw.sum() + db.sum(), (x, layer.weight, layer.bias)))
    assert apart(found[1], found[0]) <= 1e-12


def test_parameters_may_lie_scattered_in_memory():
    """Broken: weights that are rows of a matrix, as a stacked parameter vector has them, are read in a wrong order."""
    found = []
    for layer in pair(2):
        table, x = normal(6, 2).requires_grad_(), normal(3, 6, 4).requires_grad_()
        value = functional_call(layer, {"weight": table[:, 0], "bias": table[:, 1]}, (x,))
        first = torch.autograd.grad(value.sin().sum(), (x, table), create_graph=True)
        found.append([value, *first, *torch.autograd.grad(sum(f.sin().sum() for f in first), (x, table))])
    assert apart(found[1], found[0]) <= 1e-12


@pytest.mark.parametrize("groups", [1, 2])
def test_an_empty_batch_has_gradients_as_with_pytorch(groups):
    """Broken: the last, empty batch of a data set ends a run."""
    found = []
    for layer in pair(groups):
        x = torch.zeros(0, 6, 4, 4, dtype=torch.float64, requires_grad=True)
        value = layer(x)
        found.append([value.shape, *(g.tolist() for g in torch.autograd.grad(value.sum(), (x, layer.weight)))])
    assert found[0] == found[1]


def test_transformed_functions_get_pytorchs_own():
    """Broken: vmap, grad and hessian, which cannot go through the closed form, fail or give other numbers."""
    plain, ours = pair(2)
    x, weights = normal(4, 3, 6, 5), normal(4, 6, seed=8)

    def transformed(layer):
        def value(weight, images):
            out = functional_call(layer, {"weight": weight, "bias": layer.bias.detach()}, (images,))
            return (out**3).sum()

        return [
            vmap(value)(weights, x),
            vmap(grad(value))(weights, x),
            grad(value, argnums=1)(weights[0], x[0]),
            jacrev(grad(value))(weights[0], x[0]),
        ]

    assert apart(transformed(ours), transformed(plain)) <= 1e-12


@pytest.mark.parametrize("which", ["x", "w", "b"])
def test_a_third_derivative_is_refused(which):
    """Broken: a loss that differentiates once more gets zeros or wrong numbers without a word."""
    _, ours = pair(2)
    x = normal(2, 6, 4).requires_grad_()
    first = torch.autograd.grad((ours(x) ** 3).sum(), (x, ours.weight, ours.bias), create_graph=True)
    second = torch.autograd.grad(first["xwb".index(which)].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="two derivatives"):
        torch.autograd.grad(second[0].square().sum(), x)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_far_from_zero_nothing_is_lost_that_pytorch_keeps(groups):
    """Broken: sums over uncentred maps cancel, so that bright images get worse gradients than without the layer."""
    x = normal(4, 6, 8, 8) + 1000
    exact = [t for part in first_and_second(pair(groups)[0], x) for t in part]
    plain, ours = (
        [t for part in first_and_second(layer.float(), x) for t in part] for layer in pair(groups, dtype=torch.float32)
    )
    for found, theirs, wanted in zip(ours, plain, exact, strict=True):
        # Two ways to round; neither is always ahead.
        assert apart([found], [wanted]) <= 2 * apart([theirs], [wanted]) + 1e-6


class Nested(nn.Module):
    """Normalisations in a list, in a block, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), nn.GroupNorm(1, 4)])
        self.twice = nn.GroupNorm(4, 4)
        self.bare = nn.GroupNorm(2, 4, affine=False)
        self.end = nn.Linear(4, 3)

    def forward(self, x):
        x = self.twice(self.bare(self.twice(self.blocks[1](self.blocks[0](x)))).relu())
        return self.end(x.mean(dim=(2, 3)))


class Own(nn.GroupNorm):
    """Somebody's own layer."""

    def forward(self, input):
        return 2 * super().forward(input)


def test_layers_are_exchanged_wherever_they_are_and_nothing_else_changes():
    """Broken: a nested layer keeps the slow derivative, or names, parameters or other layers change."""
    plain = Nested()
    plain.own = Own(2, 4)
    ours = twice_differentiable(copy.deepcopy(plain))
    kinds = {name: type(layer) for name, layer in ours.named_modules()}
    assert all(kinds[name] is TwiceGroupNorm for name in ("blocks.0.1", "blocks.1", "twice"))
    assert kinds["bare"] is nn.GroupNorm and kinds["own"] is Own
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert repr(ours.twice).replace("Twice", "") == repr(plain.twice)
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize("model", [ConvNet(depth=2, width=4), ConvNet(depth=2, width=4, norm="group", groups=2)])
def test_a_students_module_has_only_such_layers(model):
    """Broken: the engine builds networks without the exchange."""
    kinds = [type(layer) for layer in build_module(model, SPEC).modules() if isinstance(layer, nn.GroupNorm)]
    assert kinds == [TwiceGroupNorm] * 2


def networks(model=None):
    """The same student with PyTorch's normalisation and with ours."""
    model = model or ConvNet(depth=2, width=4)
    return model, Network(model.build(SPEC).train()), Network(build_module(model, SPEC))


def test_first_order_training_gives_the_same_bits():
    """Broken: experts of stores and runs from before would be other experts now."""
    model, plain, ours = networks()
    theta = model.init(plain.module, torch.Generator().manual_seed(0))
    data = LabelledImages(images=normal(12, *SPEC.shape).float(), targets=torch.arange(12) % 3)
    settings = TrainingSettings(epochs=3, lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=5)
    ends = [
        train_network(n, theta, data, settings, NoAugmentation(), *[lambda e: torch.Generator().manual_seed(e)] * 2)
        for n in (plain, ours)
    ]
    assert torch.equal(*ends)
    assert torch.equal(*(inner_gradient(n, theta, data.images, torch.eye(3)[data.targets]) for n in (plain, ours)))


@frozen
class Squares:
    """A loss that reads every point of the path."""

    name = "squares"

    def loss(self, path, segment):
        return sum((point - segment.target).square().sum() for point in path)


def meta_gradients(model, loss, held, *, augmentation=None, dtype=torch.float64):
    """With our layer and with PyTorch's: loss, ∂L/∂X, ∂L/∂Y, ∂L/∂a."""
    model, plain, ours = networks(model)
    augmentation, rng = augmentation or NoAugmentation(), torch.Generator().manual_seed(0)
    theta = model.init(plain.module, rng).to(dtype)
    batches = tuple(torch.randperm(6, generator=rng)[:4] for i in range(4))
    problem = Problem(
        images=normal(6, *SPEC.shape).to(dtype),
        targets=normal(6, 3, seed=1).softmax(dim=1).to(dtype),
        step_size=torch.tensor(0.1, dtype=dtype),
        schedules=(Schedule(batches=batches, draws=tuple(augmentation.draw((4, *SPEC.shape), rng) for _ in batches)),),
    )
    target = theta + 0.1 * normal(len(theta), seed=2).to(dtype)
    segment = Segment(start=theta, target=target, expert=0, start_epoch=0, target_epoch=1)
    found = [meta_gradient(n, augmentation, loss, problem, [segment], held_steps=held) for n in (ours, plain)]
    return [[getattr(one, name) for name in ("loss", "images", "targets", "step_size")] for one in found]


@pytest.mark.parametrize("held", [0, 3])
@pytest.mark.parametrize("loss", [Ratio(), Squares()], ids=lambda loss: loss.name)
@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_the_meta_gradient_is_the_one_of_pytorchs_layer(norm, loss, held):
    """Broken: whole runs change by more than rounding."""
    found, wanted = meta_gradients(ConvNet(depth=2, width=4, norm=norm), loss, held)
    assert apart(found, wanted) <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32_the_meta_gradient_is_the_one_of_pytorchs_layer_for_every_augmentation(family):
    """Broken: a family leaves images channels last, which float32 convolutions pass on, and gradients get lost."""
    model, augmentation = ConvNet(depth=2, width=8), Siamese(families=(family,))
    found, wanted = meta_gradients(model, Ratio(), 0, augmentation=augmentation, dtype=torch.float32)
    assert apart(found, wanted) <= 1e-4


def test_maps_in_a_lower_precision_than_the_parameters_go_to_pytorch():
    """Broken: under autocast a GPU, which mixes them only inside group_norm, ends training with an error."""
    plain, ours = pair(2, dtype=torch.float32)
    x = normal(3, 6, 4, 4).bfloat16().requires_grad_()
    assert "NativeGroupNorm" in type(ours(x).grad_fn).__name__
    assert torch.equal(ours(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), plain(x))
        assert torch.equal(ours(x.float()), plain(x.float()))


def test_small_maps_go_to_pytorch(monkeypatch):
    """Broken: the tiny networks of quick runs pay for calls from Python."""
    _, ours = pair(2)
    x = normal(3, 6, 4, 4).requires_grad_()
    for smallest, native in ((x.numel() + 1, True), (x.numel(), False)):
        monkeypatch.setattr(norms, "SMALLEST", smallest)
        assert ("NativeGroupNorm" in type(ours(x).grad_fn).__name__) == native


def test_inference_needs_no_gradients():
    """Broken: judging networks keeps maps for a derivative that nobody asks for, or fails."""
    plain, ours = pair(2)
    x = normal(3, 6, 4, 4)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(ours(x), plain(x)) and not ours(x).requires_grad
