"""Several networks trained at a time, against the same networks trained one after another."""

from __future__ import annotations

import copy

import pytest
import torch
from attrs import evolve

from ddfw import ImageSpec
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.settings import SharpnessSettings, TrainingSettings
from ddfw.engine.evaluate import evaluate_network
from ddfw.engine.experts import train_expert
from ddfw.engine.inner import Network, build_module
from ddfw.engine.training import accuracy, share_right, train_network
from ddfw.errors import DivergedError
from ddfw.randomness import Stream, generator
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.executors.ensemble import accuracies_of, predict_together, train_many, train_together
from ddfw_plugins.models.convnet import ConvNet
from ddfw_plugins.models.mlp import Mlp

SPEC = ImageSpec(channels=2, height=8, width=8, num_classes=3)
#: The last batch is smaller, and the learning rate drops on the way.
SETTINGS = TrainingSettings(epochs=4, lr=0.1, momentum=0.9, weight_decay=5e-3, batch_size=6, decay_after=2)


def data(n=20, seed=0, dtype=torch.float64, *, soft=False):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(n, *SPEC.shape, generator=rng, dtype=torch.float64).to(dtype)
    chances = torch.randn(n, 3, generator=rng, dtype=torch.float64).softmax(dim=1).to(dtype)
    return LabelledImages(images=images, targets=chances if soft else torch.arange(n) % 3)


def student(model=None):
    model = model or ConvNet(depth=2, width=4)
    return model, Network(build_module(model, SPEC))


def epochs(e):
    return lambda epoch: torch.Generator().manual_seed(1000 * e + epoch)


def starts(model, network, count=3, dtype=torch.float64):
    return torch.stack([model.init(network.module, torch.Generator().manual_seed(e)) for e in range(count)]).to(dtype)


MODELS = [
    ConvNet(depth=2, width=4),
    ConvNet(depth=1, width=4, norm="batch"),
    ConvNet(depth=1, width=4, norm="group", groups=2, pooling="max", activation="silu"),
    Mlp(width=5),
]


@pytest.mark.parametrize("augmentation", [NoAugmentation(), Siamese()], ids=lambda a: a.name)
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
@pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{m.name}-{getattr(m, 'norm', '')}")
def test_each_network_is_trained_as_if_it_were_alone(model, soft, augmentation):
    """Broken: batches, draws, momentum, the learning-rate drop or the last batch differ from the single training."""
    model, network = student(model)
    thetas, train_set = starts(model, network), data(soft=soft)
    before, told, alone = thetas.clone(), [], [[] for _ in thetas]
    found = train_many(
        network, thetas, train_set, SETTINGS, augmentation,
        [epochs(e) for e in range(3)], [epochs(50 + e) for e in range(3)],
        lambda epoch, points, means: told.append((epoch, points.clone(), list(means))),
    )  # fmt: skip
    for e in range(3):

        def keep(epoch, theta, mean, e=e):
            alone[e].append((epoch, theta.clone(), mean))

        wanted = train_network(network, thetas[e], train_set, SETTINGS, augmentation, epochs(e), epochs(50 + e), keep)
        assert float((found[e] - wanted).abs().max()) <= 1e-12
        for (epoch, points, means), (number, theta, mean) in zip(told, alone[e], strict=True):
            assert epoch == number
            assert float((points[e] - theta).abs().max()) <= 1e-12
            assert means[e] == pytest.approx(mean, rel=1e-12)
    assert torch.equal(thetas, before) and not found.requires_grad
    assert not torch.allclose(found[0], found[1])


def test_one_network_or_one_large_batch_are_nothing_special():
    """Broken: an axis of length one disappears, or a batch larger than the data set does not end."""
    model, network = student()
    settings = evolve(SETTINGS, batch_size=99, epochs=2)
    theta = starts(model, network, 1)
    found = train_many(network, theta, data(), settings, Siamese(), [epochs(0)], [epochs(1)])
    wanted = train_network(network, theta[0], data(), settings, Siamese(), epochs(0), epochs(1))
    assert found.shape == theta.shape
    assert float((found[0] - wanted).abs().max()) <= 1e-12


def test_experts_of_several_seeds_are_those_of_each_seed():
    """Broken: snapshots, accuracies or losses belong to another seed, or are views that training overwrites."""
    model, network = student()
    train_set, judge, done = data(), data(31, seed=9), []
    seeds = (5, 3, 8)
    found = train_together(model, network, Siamese(), SETTINGS, train_set, judge, seeds, done.append)
    assert [expert.seed for expert in found] == list(seeds) and done == [1, 2, 3, 4]
    for expert in found:
        wanted = train_expert(model, network, Siamese(), SETTINGS, train_set, judge, expert.seed, lambda epoch: None)
        assert expert.snapshots.shape == wanted.snapshots.shape == (5, network.num_parameters)
        assert float((expert.snapshots - wanted.snapshots).abs().max()) <= 1e-12
        assert expert.validation_accuracy == wanted.validation_accuracy
        assert expert.train_loss == pytest.approx(wanted.train_loss, rel=1e-12)
        assert expert.snapshots.is_contiguous()
        init = model.init(network.module, generator(expert.seed, Stream.EXPERT_INIT)).double()
        assert torch.equal(expert.snapshots[0], init)


@pytest.mark.parametrize("purpose", ["select", "eval"])
def test_judged_networks_are_those_of_each_number(purpose):
    """Broken: a network's accuracy depends on which others are trained with it."""
    model, network = student()
    subject, judge = data(12, soft=True), data(40, seed=9)
    settings = evolve(SETTINGS, epochs=3)
    predicted = predict_together(model, network, Siamese(), settings, subject, judge, 4, range(2, 6), purpose)
    found = [share_right(row, judge.targets) for row in predicted]
    wanted = [
        evaluate_network(model, network, Siamese(), settings, subject, judge, 4, number, purpose)
        for number in range(2, 6)
    ]
    assert found == wanted
    assert len(set(found)) > 1, "all alike: the case says nothing"
    assert all(isinstance(a, float) for a in found)


def test_accuracies_do_not_depend_on_how_images_are_taken():
    """Broken: the last, smaller chunk of a split is dropped or counted twice."""
    model, network = student()
    thetas, judge = starts(model, network), data(23)
    wanted = [accuracy(network, theta, judge) for theta in thetas]
    for chunk in (1, 7, 23, 1000):
        assert accuracies_of(network, thetas, judge, chunk) == wanted


def exploding(model, network, which):
    """Initialisations of which one is not finite after a step."""
    thetas = starts(model, network)
    thetas[which] *= 1e200
    return thetas


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_divergence_names_the_network(which):
    """Broken: training goes on with NaN, or blames another network."""
    model, network = student(Mlp(width=5))
    thetas = exploding(model, network, which)
    with pytest.raises(DivergedError, match=r"diverged in epoch 1 .* at learning rate 0\.1; lower it") as caught:
        train_many(network, thetas, data(), SETTINGS, NoAugmentation(), *[[epochs(e) for e in range(3)]] * 2)
    assert caught.value.step == which


class Wild:
    """A model one of whose initialisations is not finite after a step."""

    def __init__(self, bad):
        self.model, self.bad, self.count = Mlp(width=5), bad, 0

    def init(self, module, rng):
        self.count += 1
        return self.model.init(module, rng).double() * (1e200 if self.count == self.bad + 1 else 1)


@pytest.mark.parametrize("bad", [0, 2])
def test_a_divergence_names_the_experts_seed(bad):
    """Broken: somebody looks for the fault at the wrong seed."""
    _, network = student(Mlp(width=5))
    with pytest.raises(DivergedError, match=rf"^expert of seed {(7, 3, 9)[bad]}: .*lower it \(experts\.lr\)$"):
        train_together(Wild(bad), network, NoAugmentation(), SETTINGS, data(), data(), (7, 3, 9), lambda epoch: None)


def test_a_divergence_of_a_judged_network_says_the_same_as_alone():
    """Broken: the number of the network is taken for an outer step."""
    _, network = student(Mlp(width=5))
    messages = []
    for judged in (
        lambda model: predict_together(model, network, NoAugmentation(), SETTINGS, data(), data(), 0, range(2), "eval"),
        lambda model: evaluate_network(model, network, NoAugmentation(), SETTINGS, data(), data(), 0, 0, "eval"),
    ):
        with pytest.raises(DivergedError) as caught:
            judged(Wild(0))
        assert caught.value.step is None
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_parameters_that_are_not_finite_are_a_divergence_though_the_loss_before_them_was():
    """Broken: infinities in θ pass where the loss of the last step was still finite."""
    model, network = student()
    wild = evolve(SETTINGS, lr=1e10, weight_decay=1e300, batch_size=99, epochs=1)
    with pytest.raises(DivergedError, match=r"^expert of seed 4: .*mean loss [0-9.]+\) .*lower it"):
        train_together(model, network, NoAugmentation(), wild, data(), data(), (4, 2), lambda epoch: None)


def test_sharpness_is_refused():
    """Broken: experts in flat regions are trained without what makes them flat."""
    model, network = student()
    gsam = evolve(SETTINGS, sharpness=SharpnessSettings(rho=0.01, alpha=0.4))
    with pytest.raises(ValueError, match="one at a time"):
        train_many(network, starts(model, network), data(), gsam, NoAugmentation(), [], [])


def test_nothing_global_is_used_or_changed():
    """Broken: results depend on what ran before; the network's module keeps tensors of the training."""
    model, network = student()
    before, module = torch.get_rng_state(), copy.deepcopy(network.module.state_dict())
    torch.manual_seed(0)
    one = train_together(model, network, Siamese(), SETTINGS, data(), data(), (1, 2), lambda epoch: None)
    torch.manual_seed(1)
    other = train_together(model, network, Siamese(), SETTINGS, data(), data(), (1, 2), lambda epoch: None)
    assert all(torch.equal(a.snapshots, b.snapshots) for a, b in zip(one, other, strict=True))
    assert all(torch.equal(module[k], v) for k, v in network.module.state_dict().items())
    torch.set_rng_state(before)


def test_float32_stays_within_rounding():
    """Broken: vectorised layers compute in another precision."""
    model, network = student()
    theta = starts(model, network, 2, torch.float32)
    settings = evolve(SETTINGS, epochs=1)
    found = train_many(
        network, theta, data(dtype=torch.float32), settings, Siamese(), *[[epochs(e) for e in range(2)]] * 2
    )
    assert found.dtype == torch.float32
    for e in range(2):
        wanted = train_network(network, theta[e], data(dtype=torch.float32), settings, Siamese(), epochs(e), epochs(e))
        assert float((found[e] - wanted).norm() / wanted.norm()) <= 2e-5
