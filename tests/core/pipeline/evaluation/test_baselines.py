"""Real images as subjects: each selection against a plain restatement, each baseline's size against the set's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw.config.load import configure, resolve
from ddfw.contracts.dataset import RealImages
from ddfw.errors import ConfigError, DivergedError
from ddfw.pipeline.evaluation.baselines import BASELINES, Size, asked_baselines, full_data, real_baseline, select_real
from ddfw.pipeline.evaluation.evaluator import Evaluator
from ddfw.pipeline.prepare import set_up
from ddfw.randomness import Stream, generator

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


# --- baselines ----------------------------------------------------------------------------------------------------


class Teachers:
    """Two networks that are sure of nothing."""

    def logits(self, images):
        return torch.zeros(2, len(images), 10)


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
    found = real_baseline(setup, BASELINES[name], train, Teachers(), equal(setup, 7))
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
    few = real_baseline(setup, BASELINES["random_real_count"], train, None, equal(setup, 1))
    assert real_baseline(setup, BASELINES["random_real"], train, None, equal(setup, 1)).data.images.shape[0] == 30
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

    subject = real_baseline(setup, BASELINES["random_real"], train, None, equal(setup, 1))
    assert judge({0.3: 0.5, 0.1: 0.5, 0.2: 0.4}).with_best_lr(subject, train).lr == 0.1
    assert judge({0.3: None, 0.1: 0.2, 0.2: 0.4}).with_best_lr(subject, train).lr == 0.2
    assert judge({0.3: None, 0.1: 0.2}).with_best_lr(subject, train).selected_by == "validation"
    with pytest.raises(DivergedError, match="baseline_lrs"):
        judge({0.3: None, 0.1: None}).with_best_lr(subject, train)
