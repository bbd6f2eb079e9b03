"""Real images as subjects: each selection against a plain restatement, each baseline's size against the set's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn

from ddfw.config.load import configure, resolve
from ddfw.contracts.dataset import RealImages
from ddfw.contracts.executor import Crew
from ddfw.engine.experts import ExpertTeachers
from ddfw.engine.inner import Network
from ddfw.errors import ConfigError, DivergedError
from ddfw.pipeline.evaluation.baselines import BASELINES, Size, asked_baselines, full_data, real_baselines, select_real
from ddfw.pipeline.evaluation.evaluator import Evaluator
from ddfw.pipeline.prepare import set_up
from ddfw.randomness import Stream, derive_seed, generator

HOW = ("random", "kmeans", "herding")


def equal(setup, per_class: int) -> Size:
    """What baselines of this ground are equal to."""
    return Size(floats=setup.config.budget.floats(setup.splits.spec), per_class=per_class)


def real_images(sizes=(12, 9, 15), seed=0, shape=(1, 3, 3)):
    """Shuffled images of a few classes, in clusters, so that no distances are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = rng.normal(size=(len(labels), *shape)) + 3 * rng.integers(0, 3, (len(labels), 1, 1, 1))
    images = torch.from_numpy(centres + labels[:, None, None, None]).float()
    return RealImages(images=images, labels=torch.from_numpy(labels), num_classes=len(sizes))


def herded(features, count):
    """Welling's herding, image after image: w starts as the mean, takes the nearest sum, and is never repeated."""
    mean, chosen = features.mean(axis=0), []
    for k in range(1, count + 1):
        best, distance = None, np.inf
        for candidate in range(len(features)):
            if candidate in chosen:
                continue
            away = np.linalg.norm(mean - features[[*chosen, candidate]].sum(axis=0) / k)
            if away < distance:
                best, distance = candidate, away
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_class", [1, 4, 9])
def test_herding_is_what_the_paper_says(seed, per_class):
    """Broken: the baseline would be called herding and be something else."""
    real = real_images(seed=seed)
    rows = select_real(real, "herding", per_class, 0).view(3, per_class)
    for label in range(3):
        members = (real.labels == label).nonzero().flatten()
        expected = herded(real.images[members].flatten(1).double().numpy(), per_class)
        assert rows[label].tolist() == members[expected].tolist()


def test_herding_brings_the_mean_nearer_than_chance_does():
    """Broken: the selection would be worse than a random one at the only thing it is made for."""
    real = real_images(sizes=(60, 60))
    means = torch.stack([real.images[real.labels == k].mean(dim=0) for k in range(2)])

    def away(how, seed=0):
        rows = select_real(real, how, 6, seed)
        return float((real.images[rows].view(2, 6, 1, 3, 3).mean(dim=1) - means).norm())

    assert away("herding") < min(away("random", seed) for seed in range(20))


@pytest.mark.parametrize("how", HOW)
@settings(deadline=None, max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 14), min_size=1, max_size=4), per_class=st.integers(1, 16), seed=st.integers(0, 99)
)
def test_every_selection_has_as_many_of_each_class_and_repeats_only_where_it_has_to(how, sizes, per_class, seed):
    """Broken: an image would have another's label, or one image stand for several while others are left."""
    real = real_images(sizes, seed)
    rows = select_real(real, how, per_class, seed)
    assert rows.dtype == torch.int64 and rows.shape == (len(sizes) * per_class,)
    for label, size in enumerate(sizes):
        part = rows[label * per_class : (label + 1) * per_class]
        assert bool((real.labels[part] == label).all())
        times = part.bincount(minlength=len(real.labels))[real.labels == label]
        assert int(times.max()) - int(times.min()) <= 1
        assert len(part.unique()) == min(per_class, size)


@pytest.mark.parametrize("how", HOW)
def test_a_selection_is_a_function_of_its_seed(how):
    """Broken: a baseline could not be repeated."""
    real = real_images(sizes=(40, 40))
    first = select_real(real, how, 5, 3)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(select_real(real, how, 5, 3), first)
    others = [select_real(real, how, 5, seed) for seed in range(4, 9)]
    changed = any(not torch.equal(first, other) for other in others)
    assert changed == (how == "random") or how == "kmeans"


def test_random_images_are_the_pick_that_runs_have_always_made():
    """Broken: baselines of older runs would have been other images."""
    real = real_images()
    expected = real.pick(4, generator(7, Stream.BASELINE))
    assert torch.equal(select_real(real, "random", 4, 7), expected)


def test_kmeans_finds_an_image_of_every_cluster():
    """Broken: the selection would not spread over the class."""
    rng = np.random.default_rng(0)
    centres = 50 * rng.normal(size=(4, 9))
    features = np.concatenate([c + 0.1 * rng.normal(size=(10, 9)) for c in centres])
    order = rng.permutation(40)
    images = torch.from_numpy(features[order]).float().view(40, 1, 3, 3)
    real = RealImages(images=images, labels=torch.zeros(40, dtype=torch.int64), num_classes=1)
    for seed in range(3):
        rows = select_real(real, "kmeans", 4, seed)
        assert sorted((order[rows] // 10).tolist()) == [0, 1, 2, 3]
        for row in rows:  # and each is the member of its cluster that is nearest to the cluster's mean
            cluster = (order // 10) == order[row] // 10
            away = np.linalg.norm(features[order] - features[order][cluster].mean(axis=0), axis=1)
            assert away[row] == pytest.approx(away[cluster].min(), rel=1e-4)


@pytest.mark.parametrize("how", HOW)
def test_images_that_are_all_alike_are_selected_without_a_warning(how):
    """Broken: a class of identical images would stop a run."""
    real = RealImages(images=torch.ones(8, 1, 2, 2), labels=torch.arange(2).repeat(4), num_classes=2)
    rows = select_real(real, how, 3, 0)
    assert real.labels[rows].tolist() == [0, 0, 0, 1, 1, 1] and len(rows.unique()) == 6


# --- in features --------------------------------------------------------------------------------------------------


def of(network, dtype=torch.float32, seed=0):
    """An expert whose only checkpoint has random parameters, as teachers."""
    theta = torch.randn(network.num_parameters, generator=torch.Generator().manual_seed(seed), dtype=dtype) / 4
    return ExpertTeachers(
        network, SimpleNamespace(num_experts=1, num_epochs=0, snapshots=lambda e, epochs: theta[None])
    )


def central(features, count, seed, label):
    """For each centre of scikit-learn's k-means, in turn, the nearest row that is left."""
    state = derive_seed(seed, Stream.BASELINE, label) % 2**32
    centres = KMeans(n_clusters=count, n_init=3, random_state=state).fit(features).cluster_centers_
    chosen = []
    for centre in centres:
        away = [(float(np.linalg.norm(row - centre)), i) for i, row in enumerate(features) if i not in chosen]
        chosen.append(min(away)[1])
    return chosen


@pytest.mark.parametrize("how", ["kmeans", "herding"])
@pytest.mark.parametrize("per_class", [1, 5])
def test_digits_are_selected_by_features_as_a_restatement_selects_them_and_not_as_by_pixels(
    setup, train, how, per_class
):
    """Broken: a coreset by features would be one by pixels, or another than its name says."""
    features = of(setup.network).features(train.images)
    real = setup.real(train)
    rows = select_real(real, how, per_class, 4, features).view(10, per_class)
    for label in range(10):
        members = (train.targets == label).nonzero().flatten()
        own = features[members].numpy()
        expected = herded(own.astype(float), per_class) if how == "herding" else central(own, per_class, 4, label)
        assert rows[label].tolist() == members[expected].tolist()
    assert not torch.equal(rows.flatten(), select_real(real, how, per_class, 4))


@pytest.mark.parametrize("ipc", [1, 3, 10])
def test_a_network_whose_features_are_the_pixels_selects_as_pixels_do(setup, train, ipc):
    """Broken: the two selections would differ by more than what they compare."""
    setup = setup.with_config(evolve(setup.config, budget=evolve(setup.config.budget, ipc=ipc)))
    experts = of(Network(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))))
    for how in ("kmeans", "herding"):
        by_features, by_pixels = (
            one(setup, f"{how}_{by}", train, experts if by == "real" else None, equal(setup, ipc))
            for by in ("real", "pixels")
        )
        assert torch.equal(by_features.data.images, by_pixels.data.images)
        assert torch.equal(by_features.data.targets, by_pixels.data.targets)


def test_teacher_labels_of_a_coreset_are_the_experts_mean_probabilities_and_are_paid_for(setup, train):
    """Broken: labels would be those of other images, or free under strict accounting."""
    experts = of(setup.network)
    hard, soft = (
        one(setup, name, train, experts, equal(setup, 9)) for name in ("herding_real", "herding_real_teacher")
    )
    assert len(hard.data.images) == 30 and len(soft.data.images) == 20  # 1,920 floats buy 30 · 64, or 20 · (64 + 10)
    # Herding takes one image after another, so the fewer ones are the first of the more.
    first = hard.data.images.view(10, 3, -1)[:, :2]
    assert torch.equal(soft.data.images.view(10, 2, -1), first)
    expected = experts.logits(soft.data.images)[0].softmax(dim=1)
    torch.testing.assert_close(soft.data.targets, expected)
    free = setup.with_config(evolve(setup.config, budget=evolve(setup.config.budget, accounting="pixels")))
    assert len(one(free, "herding_real_teacher", train, experts, equal(free, 9)).data.images) == 30


def test_experts_see_the_training_images_once_for_all_selections_and_only_where_one_needs_them(setup, train):
    """Broken: every row would cost a pass over the training split, or runs without coresets one as well."""
    seen = []

    class Counting(Teachers):
        def features(self, images):
            seen.append(len(images))
            return super().features(images)

    real_baselines(setup, [*BASELINES.values()], train, Counting(), equal(setup, 2))
    assert seen == [len(train.images)]
    real_baselines(setup, [b for b in BASELINES.values() if not b.needs_experts], train, Counting(), equal(setup, 2))
    assert len(seen) == 1


def test_other_ranks_of_a_crew_take_the_images_that_rank_0_selected(setup, train):
    """Broken: ranks whose features differ in last bits would train on different images and share one row."""
    shared = []

    class First(Crew):
        size = 2

        def share(self, value):
            shared.append(value)
            return value

    class Second(Crew):
        rank, size = 1, 2

        def share(self, value):
            assert value is None
            return shared.pop(0)

    class Blind(Teachers):
        def features(self, images):
            raise AssertionError("only rank 0 looks")

    asked = [BASELINES[name] for name in ("random_real", "kmeans_real", "herding_real_teacher")]
    first = real_baselines(setup, asked, train, Teachers(), equal(setup, 2), First())
    second = real_baselines(setup, asked, train, Blind(), equal(setup, 2), Second())
    for a, b in zip(first, second, strict=True):
        assert a.name == b.name and torch.equal(a.data.images, b.data.images)
        assert torch.equal(a.data.targets, b.data.targets)


# --- baselines ----------------------------------------------------------------------------------------------------


class Teachers:
    """Two networks that are sure of nothing; the features of images are a few sums of their pixels."""

    def logits(self, images):
        return torch.zeros(2, len(images), 10)

    def features(self, images):
        mix = torch.randn(images[0].numel(), 5, generator=generator(3, Stream.BASELINE))
        return images.flatten(1) @ mix


def one(setup, name, train, experts, size):
    """The baseline of a name."""
    (found,) = real_baselines(setup, [BASELINES[name]], train, experts, size)
    return found


@pytest.fixture(scope="module")
def setup():
    """The digits with a budget of three images per class."""
    return set_up(
        resolve(configure("default", {"budget": {"ipc": 3}}, ("model.depth=2", "model.width=4")).config), None
    )


@pytest.fixture(scope="module")
def train(setup):
    return setup.encode(setup.splits.train, torch.device("cpu"))


def test_an_unknown_baseline_is_refused_with_the_nearest_one():
    """Broken: a slip would silently leave a row out."""
    with pytest.raises(
        ConfigError, match=r"eval\.baselines: unknown baseline 'random_reel'\. Did you mean 'random_real'\?"
    ):
        asked_baselines(("kmeans_real", "random_reel"))


@pytest.mark.parametrize("name", [name for name, baseline in BASELINES.items() if baseline.selection != "all"])
def test_a_baseline_has_equal_floats_or_equal_number(setup, train, name):
    """Broken: real images would be compared with a set that stores more, or less."""
    found = one(setup, name, train, Teachers() if BASELINES[name].needs_experts else None, equal(setup, 7))
    labels = 10 if "teacher" in name else 0
    per_class = 7 if name.endswith("_count") else 3 * 64 // (64 + labels)
    assert len(found.data.images) == len(found.data.targets) == 10 * per_class
    assert found.floats == {"strict": 10 * per_class * (64 + labels), "pixels": 640 * per_class}
    if not name.endswith("_count"):
        assert found.floats["strict"] <= setup.config.budget.floats(setup.splits.spec)
        assert 10 * (per_class + 1) * (64 + labels) > setup.config.budget.floats(setup.splits.spec)
    if labels:
        torch.testing.assert_close(found.data.targets, torch.full((10 * per_class, 10), 0.1))
    else:
        assert found.data.targets.tolist() == [k for k in range(10) for _ in range(per_class)]
    assert found.name == name and not found.notes


def test_more_random_images_contain_the_fewer_ones(setup, train):
    """Broken: baselines of two sizes would differ by luck as well."""
    few = one(setup, "random_real_count", train, None, equal(setup, 1))
    assert one(setup, "random_real", train, None, equal(setup, 1)).data.images.shape[0] == 30
    assert few.data.images.shape[0] == 10


def test_the_full_data_are_all_training_images_and_none_else(setup, train):
    """Broken: validation images would train the network that is the measure of all."""
    found = full_data(setup, train)
    assert len(found.data.images) == len(setup.splits.train.labels)
    assert found.floats["strict"] == found.floats["pixels"] == 64 * len(setup.splits.train.labels)


def test_the_best_rate_of_validation_is_taken_ties_go_to_the_smaller_and_divergence_is_no_end(setup, train):
    """Broken: a baseline would be worse than it can be, or one rate that is too large stop everything."""

    class Announced:
        def __call__(self, report):
            pass

    def judge(accuracies):
        class Session:
            def evaluate(self, training, *rest):
                found = accuracies[training.lr]
                if found is None:
                    raise DivergedError("too fast")
                return (found, found)

        config = evolve(setup.config, eval=evolve(setup.config.eval, baseline_lrs=tuple(accuracies)))
        return Evaluator(setup=setup.with_config(config), session=Session(), announce=Announced(), net="x")

    subject = one(setup, "random_real", train, None, equal(setup, 1))
    assert judge({0.3: 0.5, 0.1: 0.5, 0.2: 0.4}).with_best_lr(subject, train).lr == 0.1
    assert judge({0.3: None, 0.1: 0.2, 0.2: 0.4}).with_best_lr(subject, train).lr == 0.2
    assert judge({0.3: None, 0.1: 0.2}).with_best_lr(subject, train).selected_by == "validation"
    with pytest.raises(DivergedError, match="baseline_lrs"):
        judge({0.3: None, 0.1: None}).with_best_lr(subject, train)
