"""Ordinary training against torch.optim, experts, evaluation networks, refused networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddfw import AbstractModel, ImageSpec, OptionError
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.settings import EvalSettings, TrainingSettings
from ddfw.engine.evaluate import confusion, evaluate_network, mean_std, predict_with_network
from ddfw.engine.experts import ExpertTeachers, train_expert
from ddfw.engine.inner import Network, build_module
from ddfw.engine.training import accuracy, train_network
from ddfw.errors import DivergedError
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.models.convnet import ConvNet

SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=3)


def network_and_data(dtype=torch.float64, n=20):
    model = ConvNet(depth=2, width=4)
    network = Network(build_module(model, SPEC))
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 8, 8, generator=rng, dtype=torch.float64).to(dtype)
    return model, network, LabelledImages(images=images, targets=torch.arange(n) % 3)


def settings(**changes):
    return TrainingSettings(
        **{"epochs": 4, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3, "batch_size": 6, "decay_after": 2, **changes}
    )


def orders(epoch):
    return torch.Generator().manual_seed(100 + epoch)


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
def test_training_is_torch_sgd_with_an_optimiser_that_is_rebuilt_after_the_decay(soft):
    """Broken: momentum, weight decay, the learning-rate drop or the batches differ from the field's protocol."""
    model, network, data = network_and_data()
    if soft:
        rng = torch.Generator().manual_seed(5)
        targets = torch.randn(20, 3, generator=rng, dtype=torch.float64).softmax(dim=1)
        data = LabelledImages(images=data.images, targets=targets)
    start = model.init(network.module, torch.Generator().manual_seed(1)).double()
    found = train_network(network, start, data, settings(), NoAugmentation(), orders, orders)

    module = build_module(model, SPEC).double()
    nn.utils.vector_to_parameters(start.clone(), module.parameters())
    for epoch in range(4):
        if epoch in (0, 2):
            rate = 0.1 if epoch == 0 else 0.01
            optimiser = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, weight_decay=5e-3)
        for rows in torch.randperm(20, generator=orders(epoch)).split(6):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(data.images[rows]), data.targets[rows]).backward()
            optimiser.step()
    expected = nn.utils.parameters_to_vector(module.parameters()).detach()
    assert float((found - expected).abs().max()) < 1e-12
    assert not torch.allclose(found, start)


def test_a_loss_that_is_not_finite_is_a_divergence_with_advice():
    """Broken: training would go on with NaN."""
    model, network, data = network_and_data(torch.float32)
    start = model.init(network.module, torch.Generator().manual_seed(1))
    with pytest.raises(DivergedError, match="lower it"):
        train_network(
            network, start, data, settings(lr=1e20, epochs=9, decay_after=None), NoAugmentation(), orders, orders
        )


def test_an_expert_keeps_a_snapshot_of_every_epoch_and_is_a_function_of_its_seed():
    """Broken: aliased snapshots (all equal to the last), a missing initialisation, hidden random state."""
    model, network, data = network_and_data(torch.float32)
    before, done = torch.get_rng_state(), []
    one, same, other = (
        train_expert(model, network, Siamese(), settings(), data, data, seed, done.append) for seed in (3, 3, 4)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert done[:4] == [1, 2, 3, 4]
    assert one.snapshots.shape == (5, network.num_parameters)
    assert torch.equal(one.snapshots, same.snapshots)
    assert not torch.equal(one.snapshots[0], other.snapshots[0])
    distances = one.snapshots.diff(dim=0).norm(dim=1)
    assert (distances > 0).all()
    assert len(one.validation_accuracy) == len(one.train_loss) == 4
    assert one.validation_accuracy[-1] == accuracy(network, one.snapshots[-1], data)


def test_evaluation_networks_are_numbered_functions_of_the_seed():
    """Broken: network i would depend on how many are trained, or selection would reuse the final networks."""
    model, network, data = network_and_data(torch.float32, n=60)

    def judge(seed, number, purpose):
        return evaluate_network(model, network, NoAugmentation(), settings(epochs=2), data, data, seed, number, purpose)

    assert judge(0, 1, "eval") == judge(0, 1, "eval")
    seen = []

    class Noting(ConvNet.__mro__[1]):
        """Notes the initial parameters of every network."""

        name = "noting"

        def build(self, spec):
            raise AssertionError("the network is there already")

        def init(self, module, rng):
            seen.append(model.init(module, rng))
            return seen[-1]

    for seed, number, purpose in ((0, 0, "eval"), (0, 1, "eval"), (1, 0, "eval"), (0, 0, "select"), (0, 0, "eval")):
        evaluate_network(Noting(), network, NoAugmentation(), settings(epochs=1), data, data, seed, number, purpose)
    assert torch.equal(seen[0], seen[4])
    for i in range(4):
        for j in range(i):
            assert not torch.equal(seen[i], seen[j]), (i, j)


def test_accuracy_counts_right_answers_in_chunks():
    """Broken: the last, shorter chunk would count like a full one."""
    _, network, data = network_and_data(torch.float32, n=25)
    theta = torch.zeros(network.num_parameters)
    theta[-3:] = torch.tensor([0.0, 1.0, 0.0])  # the last bias: everything is class 1
    assert accuracy(network, theta, data, chunk=7) == 8 / 25


def test_mean_and_sample_deviation():
    """Broken: a population deviation would be reported (ddof 0)."""
    assert mean_std([0.5, 0.7]) == (pytest.approx(0.6), pytest.approx(0.02**0.5))
    assert mean_std([0.5]) == (0.5, 0.0)


def test_the_fields_schedule_drops_the_rate_after_half_of_the_passes():
    """Broken: METHODS' 1001 passes with a drop after pass 501."""
    assert EvalSettings(epochs=1001).small_set(0.01).decay_after == 501
    assert EvalSettings(epochs=10, decay=False).small_set(0.01).decay_after is None
    assert EvalSettings(epochs=1001).small_set(0.01, 11).epochs == 11


def test_teachers_give_each_experts_logits_at_an_epoch():
    """Broken: teacher labels would come from another epoch or expert."""
    _, network, data = network_and_data(torch.float32, n=6)
    paths = torch.randn(2, 4, network.num_parameters, generator=torch.Generator().manual_seed(0))

    class Experts:
        num_experts, num_epochs = 2, 3

        def snapshots(self, expert, epochs):
            return paths[expert][list(epochs)]

    teachers = ExpertTeachers(network, Experts())
    for epoch, row in ((None, 3), (0, 0), (2, 2)):
        found = teachers.logits(data.images, epoch)
        for expert in range(2):
            assert torch.equal(found[expert], network.logits(paths[expert, row], data.images))
    with pytest.raises(ValueError, match="0 … 3"):
        teachers.logits(data.images, 4)


def test_features_are_those_of_the_first_expert_after_its_last_epoch_and_repeat():
    """Broken: coresets would be selected by another expert, by an unfinished one, or differ from run to run."""
    _, network, data = network_and_data(torch.float32, n=1100)  # more than one piece
    paths = torch.randn(2, 4, network.num_parameters, generator=torch.Generator().manual_seed(0))

    class Experts:
        num_experts, num_epochs = 2, 3

        def snapshots(self, expert, epochs):
            return paths[expert][list(epochs)]

    before = torch.random.get_rng_state()
    found = ExpertTeachers(network, Experts()).features(data.images)
    assert torch.equal(torch.random.get_rng_state(), before)
    expected = [network.features(paths[0, 3], part) for part in data.images.split(1024)]
    assert torch.equal(found, torch.cat(expected)) and not found.requires_grad
    assert torch.equal(ExpertTeachers(network, Experts()).features(data.images), found)
    assert all(not layer._forward_hooks for layer in network.module.modules())


class Custom(AbstractModel):
    """A model around a given module."""

    name = "custom"

    def __init__(self, make):
        object.__setattr__(self, "_make", make)

    def build(self, spec):
        return self._make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), "running statistics"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "random numbers"),
    ],
)
def test_networks_that_cannot_be_replayed_are_refused_with_a_way_out(make, words):
    """Broken: running statistics or dropout would make the reverse pass recompute another step."""
    with pytest.raises(OptionError, match=words):
        build_module(Custom(make), SPEC)
    build_module(Custom(lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))), SPEC)
    build_module(Custom(lambda: nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False))), SPEC)


def test_the_default_initialisation_is_pytorchs_from_an_explicit_generator():
    """Broken: experts would start elsewhere than the field's, or from the global generator."""
    module = build_module(ConvNet(depth=2, width=64), ImageSpec(channels=3, height=8, width=8, num_classes=10))
    before = torch.get_rng_state()
    model = ConvNet(depth=2, width=64)
    theta = model.init(module, torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(theta, model.init(module, torch.Generator().manual_seed(0)))
    names, sizes = zip(*[(n, p.numel()) for n, p in module.named_parameters()], strict=True)
    pieces = dict(zip(names, theta.split(sizes), strict=True))
    for name, fan_in in (("0.weight", 27), ("0.bias", 27), ("4.weight", 576), ("4.bias", 576), ("9.weight", 256)):
        bound = fan_in**-0.5
        assert float(pieces[name].abs().max()) <= bound
        assert float(pieces[name].std()) == pytest.approx(bound / 3**0.5, rel=0.25)
    assert (pieces["1.weight"] == 1).all() and (pieces["1.bias"] == 0).all()

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 3))

    with pytest.raises(TypeError, match="override init"):
        model.init(Odd(), torch.Generator())


def test_the_convnet_has_the_fields_size_and_refuses_images_that_are_too_small():
    """Broken: ConvNet-D3 W128 on CIFAR-10 has 320,010 parameters in 14 tensors."""
    cifar = ImageSpec(channels=3, height=32, width=32, num_classes=10)
    network = Network(build_module(ConvNet(), cifar))
    assert network.num_parameters == 320_010 and len(network.sizes) == 14
    with pytest.raises(OptionError, match="at most 3"):
        ConvNet(depth=4).build(SPEC)
    for padding in (1, 3):
        module = ConvNet(depth=2, width=4, first_padding=padding).build(SPEC)
        assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_classes_are_those_behind_the_accuracy_and_the_matrix_counts_them():
    """Broken: a confusion matrix would belong to other networks than the accuracy beside it."""
    model, network, data = network_and_data(torch.float32, n=60)
    arguments = (model, network, NoAugmentation(), settings(epochs=2), data, data, 0)
    predicted = torch.stack([predict_with_network(*arguments, i, "eval") for i in range(3)])
    accuracies = [evaluate_network(*arguments, i, "eval") for i in range(3)]
    assert [float((row == data.targets).double().mean()) for row in predicted] == pytest.approx(accuracies, abs=1e-15)
    m = 1 + int(data.targets.max())
    counts = confusion(predicted, data.targets, m)
    by_hand = [[0] * m for _ in range(m)]
    for row in predicted.tolist():
        for true, found in zip(data.targets.tolist(), row, strict=True):
            by_hand[true][found] += 1
    assert [list(row) for row in counts] == by_hand
    assert sum(counts[i][i] for i in range(m)) == round(sum(accuracies) * 60)


@pytest.mark.parametrize("wrong", [torch.zeros(5), torch.zeros(2, 4), torch.full((1, 5), 3), torch.full((1, 5), -1)])
def test_classes_that_are_none_are_refused(wrong):
    """Broken: a matrix of nonsense would be shown."""
    with pytest.raises(ValueError, match="expected"):
        confusion(wrong.long(), torch.zeros(5, dtype=torch.int64), 3)
