"""`outer.skip_above`, `outer.ema` and `outer.images`: steps that change nothing, the running mean, recognised images.

The student is replaced by a list of losses and gradients, so that every number can be worked out by hand.
"""

from __future__ import annotations

import io
import json
import math
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve

from ddfw import Budget, ImageSpec, OuterSettings, ParamGroup, RealImages, Segment, WindowSettings
from ddfw.contracts.executor import MetaGradient
from ddfw.contracts.observer import EventLines
from ddfw.contracts.parameterization import Layout
from ddfw.engine.distill import Distillation, run_steps
from ddfw.engine.experts import recognised_first
from ddfw.errors import DivergedError
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.labels.soft import Soft
from ddfw_plugins.trajectories.mtt import Checkpoints

SPEC = ImageSpec(channels=1, height=2, width=2, num_classes=2)
NAN = math.nan


class Shuffled:
    """A parameterisation with an integer table: image i is row table[i]."""

    name = "shuffled"

    def __init__(self, lr=0.5, momentum=0.9, optimiser="sgd"):
        self.group = ParamGroup(keys=("rows",), lr=lr, momentum=momentum, optimiser=optimiser)

    def decode(self, params, index):
        return params["rows"][params["table"][index]]

    def param_groups(self, params):
        return (self.group,)

    def direction(self, params, gradients):
        return gradients

    def penalty(self, params):
        return None


class Scripted:
    """An executor session that answers with given losses; the gradients of step t are t + 1, or NaN with the loss."""

    device = torch.device("cpu")

    def __init__(self, losses):
        self.losses, self.asked = list(losses), 0

    def meta_gradient(self, problem, segments):
        loss, size = self.losses[self.asked], float(self.asked + 1)
        self.asked += 1
        if not math.isfinite(loss):
            size = NAN
        return MetaGradient(
            loss=torch.tensor(loss, dtype=torch.float64),
            images=torch.full_like(problem.images, size),
            targets=size * torch.arange(problem.targets.numel(), dtype=torch.float64).view_as(problem.targets),
            step_size=torch.tensor(size, dtype=torch.float64),
            held_steps=0,
        )


class TwoPoints:
    """A trajectory of two points."""

    name = "two"

    def segment(self, trajectories, low, high, rng):
        return Segment(start=torch.zeros(3), target=torch.ones(3), expert=0, start_epoch=0, target_epoch=1)


def start(losses, *, param=None, **outer):
    """A distillation and its first state."""
    settings = {"steps": len(losses), "syn_steps": 1, "step_size": 0.1, "step_size_lr": 1e-3, **outer}
    distillation = Distillation(
        param=param or Shuffled(),
        labels=Soft(lr=0.2, momentum=0.5),
        traj=TwoPoints(),
        augmentation=NoAugmentation(),
        session=Scripted(losses),
        trajectories=None,
        layout=Layout(
            spec=SPEC, budget=Budget(), images_per_class=1, samples_per_class=1, parameter_floats=8, label_floats=4
        ),
        outer=OuterSettings(**settings),
        window=WindowSettings(start=1, max_start=1),
        seed=0,
    )
    params = {"rows": torch.arange(8.0, dtype=torch.float64).view(2, 1, 2, 2), "table": torch.tensor([1, 0])}
    logits = {"logits": torch.tensor([[0.3, -0.2], [0.0, 0.5]], dtype=torch.float64)}
    return distillation, distillation.start(params, logits, torch.float64)


def everything(state):
    """Bit for bit all that a state holds, its number of steps apart."""
    tensors = {**state.learned.params, **state.learned.label_params, "a": state.learned.step_size}
    tensors.update({f"mean.{k}": v for k, v in (state.mean or {}).items()})
    memory = [
        (i, j, key, value.clone() if isinstance(value, torch.Tensor) else value)
        for i, optimiser in enumerate(state.optimisers)
        for j, kept in sorted(optimiser.state_dict()["state"].items())
        for key, value in sorted(kept.items())
    ]
    return {k: v.detach().clone() for k, v in tensors.items()}, memory


def same(one, other):
    tensors = all(torch.equal(one[0][k], other[0][k]) for k in one[0]) and one[0].keys() == other[0].keys()
    memory = len(one[1]) == len(other[1]) and all(
        a[:3] == b[:3] and (torch.equal(a[3], b[3]) if isinstance(a[3], torch.Tensor) else a[3] == b[3])
        for a, b in zip(one[1], other[1], strict=True)
    )
    return tensors and memory


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.parametrize("bad", [1.5, NAN, math.inf])
def test_a_step_above_the_threshold_changes_nothing_but_counts(bad, ema, optimiser):
    """Broken: one bad segment would leave its trace in φ, ψ, a, the running mean or an optimiser's memory."""
    distillation, state = start([0.5, bad, 0.5], param=Shuffled(optimiser=optimiser), skip_above=1.0, ema=ema)
    state, first = distillation.step(state)
    before = everything(state)
    state, second = distillation.step(state)
    assert (first.skipped, second.skipped) == (False, True)
    assert (first.step, second.step, state.step) == (1, 2, 2)
    assert same(before, everything(state))
    assert second.step_size == first.step_size
    state, third = distillation.step(state)
    assert third.skipped is False and state.step == 3
    assert not torch.equal(before[0]["rows"], state.learned.params["rows"]), "a later good step is applied"
    assert state.learned.finite()


def test_a_good_step_after_a_skipped_one_is_the_step_that_would_have_come():
    """Broken: momentum would be counted twice, or lost, over a skipped step; worked out by hand."""
    distillation, state = start([0.5, 9.0, 0.5], skip_above=1.0)
    state = run_steps(distillation, state, lambda state, report: None)
    # lr 0.5, momentum 0.9; gradients of the steps that count are 1 and 3.
    expected = torch.arange(8.0, dtype=torch.float64).view(2, 1, 2, 2) - 0.5 * 1 - 0.5 * (0.9 * 1 + 3)
    assert torch.allclose(state.learned.params["rows"], expected, rtol=0, atol=1e-14)
    assert float(state.learned.step_size) == pytest.approx(0.1 - 1e-3 * 1 - 1e-3 * (0.5 * 1 + 3), abs=1e-15)


def test_a_loss_at_the_threshold_is_a_good_one():
    """Broken: "above" would mean "from … on"."""
    distillation, state = start([1.0], skip_above=1.0)
    assert distillation.step(state)[1].skipped is False


def test_without_a_threshold_nothing_is_skipped_and_a_nan_is_a_divergence():
    """Broken: a run that learns nothing would end as if all were well."""
    distillation, state = start([1e9, NAN])
    state, report = distillation.step(state)
    assert report.skipped is False
    before = everything(state)
    with pytest.raises(DivergedError, match="not finite at outer step 2"):
        distillation.step(state)
    assert same(before, everything(state))


def test_a_finite_loss_with_a_gradient_that_is_not_is_still_a_divergence():
    """Broken: NaN would be written over what was learned, since only the loss is compared with the threshold."""

    class Rotten(Scripted):
        def meta_gradient(self, problem, segments):
            return evolve(super().meta_gradient(problem, segments), step_size=torch.tensor(NAN))

    distillation, state = start([0.5], skip_above=1.0)
    before = everything(state)
    with pytest.raises(DivergedError, match="step-size gradient"):
        evolve(distillation, session=Rotten([0.5])).step(state)
    assert same(before, everything(state))


def test_a_skipped_steps_event_is_json_with_null_for_nan():
    """Broken: metrics.jsonl would hold `NaN`, which no JSON reader but Python's takes."""
    distillation, state = start([NAN], skip_above=1.0)
    _, report = distillation.step(state)
    stream = io.StringIO()
    EventLines(stream).step_finished(report)

    def forbidden(constant):
        raise AssertionError(constant)

    event = json.loads(stream.getvalue(), parse_constant=forbidden)
    assert event["loss"] is None and event["grad_norm_images"] is None
    assert event["skipped"] is True and event["step"] == 1


def test_the_running_mean_follows_the_recursion_by_hand():
    """Broken: the published warm-up of the decay, or what the mean is taken over."""
    ema, losses = 0.3, [0.5] * 6
    distillation, state = start(losses, ema=ema)
    phi, velocity, mean = 7.0, 0.0, 7.0  # one number of φ, and its mean
    for t in range(6):
        state, _ = distillation.step(state)
        velocity = 0.9 * velocity + (t + 1)
        phi -= 0.5 * velocity
        decay = min(ema, (t + 1) / (t + 10))
        mean = decay * mean + (1 - decay) * phi
        assert float(state.learned.params["rows"][1, 0, 1, 1]) == pytest.approx(phi, abs=1e-12)
        assert float(state.result.params["rows"][1, 0, 1, 1]) == pytest.approx(mean, abs=1e-12)
    assert (5 + 1) / (5 + 10) > ema > 1 / 10, "both branches of the minimum have been seen"
    assert abs(mean - phi) > 0.5


def test_the_mean_is_of_phi_alone():
    """Broken: labels or step size of long ago would stand beside the images; integer tables would be averaged."""
    distillation, state = start([0.5] * 3, ema=0.9)
    state = run_steps(distillation, state, lambda state, report: None)
    assert state.result.label_params is state.learned.label_params
    assert state.result.step_size is state.learned.step_size
    assert state.result.params["table"].dtype == torch.int64
    assert state.result.params["table"].tolist() == state.learned.params["table"].tolist() == [1, 0]
    assert not torch.equal(state.result.params["rows"], state.learned.params["rows"])
    images, targets = distillation.decoded(state.result)
    assert torch.equal(images, state.mean["rows"][[1, 0]])
    assert torch.equal(targets, state.learned.label_params["logits"].softmax(dim=1))


def test_the_mean_does_not_touch_what_is_learned():
    """Broken: the outer loop would step from the mean, or share its storage."""
    plain, mean = (
        run_steps(distillation, state, lambda state, report: None)
        for distillation, state in (start([0.5] * 4), start([0.5] * 4, ema=0.9))
    )
    assert same(everything(plain), everything(evolve(mean, mean=None)))
    assert mean.mean["rows"].data_ptr() != mean.learned.params["rows"].data_ptr()


def test_without_a_decay_the_result_is_what_was_learned():
    """Broken: the default would cost another copy of φ, or give another result than before."""
    distillation, state = start([0.5] * 2)
    assert state.mean is None and state.result is state.learned
    state = run_steps(distillation, state, lambda state, report: None)
    assert state.result is state.learned


@pytest.mark.parametrize("settings", [{"ema": 1.0}, {"ema": -0.1}, {"skip_above": 0.0}, {"images": "best"}])
def test_values_that_mean_nothing_are_refused(settings):
    """Broken: a mean that never moves, a threshold that skips everything, or a misspelt word would go unnoticed."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        OuterSettings(**settings)


class Experts:
    """Teachers that recognise the images with given numbers; an image's only pixel is its number."""

    def __init__(self, labels, *recognised):
        self.labels, self.recognised, self.asked = labels, recognised, []
        self.num_experts = len(recognised)

    def logits(self, images, epoch=None, expert=None):
        assert epoch is None, "experts are asked after their last epoch"
        numbers = images.flatten().long()
        self.asked.append((expert, len(numbers)))
        right = torch.tensor([int(n) in self.recognised[expert] for n in numbers])
        classes = torch.where(right, self.labels[numbers], 1 - self.labels[numbers])
        return torch.nn.functional.one_hot(classes, 2).double()[None]


@pytest.fixture
def real():
    """20 images of one pixel, their number; even ones are of class 0."""
    images = torch.arange(20.0).view(20, 1, 1, 1)
    return RealImages(images=images, labels=torch.arange(20) % 2, num_classes=2)


def seeds():
    return [torch.Generator().manual_seed(seed) for seed in range(8)]


def test_recognised_images_come_in_the_order_of_the_first_expert_that_is_right(real):
    """Broken: hard or mislabelled images would be taken for a start although easy ones are there."""
    experts = Experts(real.labels, {0, 2, 1, 3, 5}, {0, 4, 6, 7}, {1, 8, 10})
    ranked = recognised_first(real, experts, per_class=5)
    assert ranked.rank.tolist() == [0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    # Only what is not recognised yet is asked again.
    assert experts.asked == [(0, 20), (1, 15), (2, 12)]
    for rng in seeds():
        picked = ranked.pick(7, rng).tolist()
        even, odd = picked[:7], picked[7:]
        assert [set(even[:2]), set(even[2:4]), set(even[4:6])] == [{0, 2}, {4, 6}, {8, 10}]
        assert even[6] in {12, 14, 16, 18}
        assert [set(odd[:3]), set(odd[3:4])] == [{1, 3, 5}, {7}]
        assert set(odd[4:]) < {9, 11, 13, 15, 17, 19} and len(set(odd)) == 7


def test_experts_are_asked_until_every_class_has_enough(real):
    """Broken: all experts would be asked about all images, or a class would get unrecognised ones too early."""
    enough = Experts(real.labels, {0, 2, 4, 1}, {3, 5, 6}, {7, 8})
    ranked = recognised_first(real, enough, per_class=3)
    assert [expert for expert, _ in enough.asked] == [0, 1]
    assert ranked.rank[[0, 2, 4, 1, 3, 5, 6]].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert set(ranked.rank[7:].tolist()) == {3}, "what nobody was asked about comes last"
    assert recognised_first(real, Experts(real.labels, {0, 1}, {2, 3}), per_class=1).rank[2] == 2


def test_inside_a_rank_the_order_is_random_and_a_function_of_the_generator(real):
    """Broken: every seed would start from the same images."""
    ranked = recognised_first(real, Experts(real.labels, set(range(20))), per_class=3)
    found = {tuple(ranked.pick(3, rng).tolist()) for rng in seeds()}
    assert len(found) >= 6
    assert found == {tuple(ranked.pick(3, rng).tolist()) for rng in seeds()}


@pytest.mark.parametrize("per_class", [10, 13, 25])
def test_no_image_comes_twice_before_all_of_its_class_came_once(real, per_class):
    """Broken: with more slots than recognised images, the easy ones would be repeated."""
    ranked = recognised_first(real, Experts(real.labels, {0, 2, 1}), per_class)
    for rng in seeds():
        picked = ranked.pick(per_class, rng).view(2, per_class)
        for label in (0, 1):
            rows = picked[label].tolist()
            assert all(real.labels[row] == label for row in rows)
            for first in range(0, per_class, 10):
                part = rows[first : first + 10]
                assert len(set(part)) == len(part)
            assert set(rows[:2]) == {0, 2} if label == 0 else rows[0] == 1


def test_random_picks_are_the_ones_that_they_always_were(real):
    """Broken: the same seed would start from other images than in the runs that people have."""
    assert real.rank is None
    for seed, rng in enumerate(seeds()):
        again = torch.Generator().manual_seed(seed)
        expected = []
        for label in (0, 1):
            shuffled = [(2 * torch.randperm(10, generator=again) + label).tolist() for _ in range(2)]
            expected += (shuffled[0] + shuffled[1])[:12]
        assert real.pick(12, rng).tolist() == expected


def test_ranking_draws_no_other_random_numbers(real):
    """Broken: asking for recognised images would shift every draw that comes after."""
    everyone = recognised_first(real, Experts(real.labels, set(range(20))), 4)
    for one, other in zip(seeds(), seeds(), strict=True):
        assert torch.equal(everyone.pick(4, one), real.pick(4, other))
        assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))


def test_mtt_takes_any_source_without_compact_experts():
    """Broken: sources that were asked would have to keep way-points."""
    plain = SimpleNamespace(num_experts=2, compact=lambda expert: None)
    assert Checkpoints().prepare(plain) is plain
