"""The outer loop: windows, batches, optimisers, and parameterisations that must agree."""

from __future__ import annotations

import math

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from ddfw import Budget, ImageSpec, OuterSettings, ParamGroup, RealImages, Segment, WindowSettings
from ddfw.contracts.executor import ExecutorContext
from ddfw.contracts.settings import GradientSettings
from ddfw.engine.distill import Distillation, run_steps
from ddfw.engine.inner import build_module
from ddfw.errors import DivergedError
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.labels.hard import Hard
from ddfw_plugins.labels.soft import Soft
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.convnet import ConvNet
from ddfw_plugins.parameterizations.lss import LowRankSpace
from ddfw_plugins.parameterizations.pixel import Pixel
from ddfw_plugins.trajectories.mct import ConvexTrajectory

SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=3)


class OneExpert:
    """A trained-looking expert in memory, and a teacher."""

    num_experts, num_epochs = 1, 6

    def __init__(self, theta, sizes):
        rng = torch.Generator().manual_seed(0)
        steps = 0.02 * torch.randn(6, len(theta), generator=rng, dtype=torch.float64).to(theta.dtype)
        self._path = torch.cat([theta[None], theta + steps.cumsum(dim=0)])
        self.sizes = sizes

    def compact(self, expert):
        return None

    def snapshots(self, expert, epochs):
        return self._path[list(epochs)]

    def logits(self, images, epoch=None):
        return torch.ones(1, len(images), 3, dtype=images.dtype)


def run(param, *, labels=None, outer=None, seed=0, augmentation=None, budget=None, dtype=torch.float64, after=None):
    """Runs a small distillation from scratch; returns it with its last state and reports."""
    model = ConvNet(depth=2, width=6)
    module = build_module(model, SPEC)
    theta = model.init(module, torch.Generator().manual_seed(7)).to(dtype)
    experts = OneExpert(theta, tuple(p.numel() for p in module.parameters()))
    labels, budget = labels or Hard(), budget or Budget(ipc=2)
    rng = torch.Generator().manual_seed(3)
    classes = torch.arange(3).repeat(15)
    real = RealImages(
        images=torch.randn(45, *SPEC.shape, generator=rng, dtype=torch.float64).to(dtype), labels=classes, num_classes=3
    )
    context = ExecutorContext(
        model=model,
        module=module,
        augmentation=augmentation or NoAugmentation(),
        loss=Ratio(),
        gradient=GradientSettings(memory=0),
        dtype=dtype,
    )
    layout = param.layout(SPEC, budget, labels.floats_per_image(SPEC))
    traj = ConvexTrajectory()
    reports = []
    with Cpu().open(context) as session:
        distillation = Distillation(
            param=param,
            labels=labels,
            traj=traj,
            augmentation=context.augmentation,
            session=session,
            trajectories=traj.prepare(experts),
            layout=layout,
            outer=outer or OuterSettings(steps=5, syn_steps=4, batch_syn=4, step_size_lr=1e-3),
            window=WindowSettings(start=1, max_start=4, expand_steps=4),
            seed=seed,
        )
        params = param.init(layout, real, torch.Generator().manual_seed(1))
        images = param.decode(params, torch.arange(layout.num_images))
        label_params = labels.init(layout, images, experts, torch.Generator().manual_seed(2))

        def note(state, report):
            reports.append(report)
            if after:
                after(state, report)

        state = run_steps(distillation, distillation.start(params, label_params, dtype), note)
        return distillation, state, reports


@pytest.mark.parametrize("augmentation", [NoAugmentation(), Siamese()], ids=lambda a: a.name)
@pytest.mark.parametrize(("labels", "accounting"), [(Hard(), "strict"), (Soft(lr=5.0), "pixels")], ids=["hard", "soft"])
@pytest.mark.parametrize("subspaces", [1, 3])
def test_low_rank_spaces_at_full_rank_give_the_same_run_as_pixels(subspaces, labels, accounting, augmentation):
    """Broken: the parameterisation changes something else besides how images are stored."""
    ends = []
    for param in (Pixel(lr=20.0), LowRankSpace(rank=8, subspaces=subspaces, lr=20.0)):
        distillation, state, reports = run(
            param, labels=labels, augmentation=augmentation, budget=Budget(ipc=2, accounting=accounting)
        )
        images, targets = distillation.decoded(state.learned)
        ends.append((images, targets, state.learned.step_size, torch.tensor([r.loss for r in reports])))
    for pixel, low_rank in zip(*ends, strict=True):
        assert float((pixel - low_rank).abs().max()) <= 1e-9
    first = run(Pixel(lr=0.0), labels=labels, budget=Budget(ipc=2, accounting=accounting))
    assert not torch.allclose(ends[0][0], first[0].decoded(first[1].learned)[0]), "the images must have moved"


def test_a_run_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    """Broken: hidden random state."""
    before = torch.get_rng_state()
    lss = LowRankSpace(rank=4, subspaces=2)
    one, same, other = (run(lss, seed=s, augmentation=Siamese()) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    for key, value in one[1].learned.params.items():
        assert torch.equal(value, same[1].learned.params[key])
    assert not torch.equal(one[1].learned.params["cores"], other[1].learned.params["cores"])


def test_steps_move_images_labels_and_step_size_as_sgd_with_momentum_does():
    """Broken: an optimiser setting is not the group's own; checked against the update written out by hand."""
    outer = OuterSettings(steps=2, syn_steps=3, step_size_lr=1e-4, step_size_momentum=0.7)
    seen = []
    param, labels = Pixel(lr=3.0, momentum=0.4), Soft(lr=2.0, momentum=0.9)

    def after(state, report):
        tensors = {**state.learned.params, **state.learned.label_params, "a": state.learned.step_size}
        seen.append({k: (v.detach().clone(), v.grad.clone()) for k, v in tensors.items()})

    _, _, reports = run(param, labels=labels, outer=outer, after=after)
    # Six images: rates of images and labels are per image.
    for key, lr, momentum in (("images", 6 * 3.0, 0.4), ("logits", 6 * 2.0, 0.9), ("a", 1e-4, 0.7)):
        (first, g1), (second, g2) = (s[key] for s in seen)
        assert torch.allclose(second, first - lr * (momentum * g1 + g2), rtol=1e-12, atol=1e-15)
        assert float(g2.abs().max()) > 0
    assert [r.step for r in reports] == [1, 2]


@pytest.mark.parametrize("kind", [Pixel, lambda **o: LowRankSpace(rank=4, **o)], ids=["pixel", "lss"])
def test_copies_of_every_image_move_as_the_image_does(kind):
    """Broken: a change of ipc, rank or batch changes how far an image moves in a step, so that a rate fits one size."""
    ends = []
    for copies in (1, 3):
        distillation, state, _ = run(
            Copied(kind(lr=2.0, momentum=0.4), copies),
            labels=Soft(lr=1.0),
            outer=OuterSettings(steps=3, syn_steps=4, step_size_lr=1e-3),
            budget=Budget(ipc=2 * copies, accounting="pixels"),
        )
        images, targets = distillation.decoded(state.learned)
        ends.append((images[::copies], targets[::copies], state.learned.step_size))
    for some, others in zip(*ends, strict=True):
        assert float((some - others).abs().max()) <= 1e-9


class Turned:
    """`lss` that starts from the same images in another basis of rows and columns."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def init(self, layout, real, rng):
        params = dict(self._inner.init(layout, real, rng))
        rank = params["map_h"].shape[2]
        noise = torch.Generator().manual_seed(11)
        rows, columns = (
            torch.linalg.qr(torch.randn(rank, rank, generator=noise, dtype=torch.float64)).Q
            @ torch.diag(torch.linspace(0.5, 2.0, rank, dtype=torch.float64))
            for _ in range(2)
        )
        cores = params["cores"].view(-1, SPEC.channels, rank, rank)
        params["cores"] = (torch.linalg.inv(rows) @ cores @ torch.linalg.inv(columns).T).flatten(1)
        params["map_h"], params["map_w"] = params["map_h"] @ rows, params["map_w"] @ columns
        return params


@pytest.mark.parametrize("options", [{}, {"subspaces": 2}, {"subspaces": 2, "pairing": "all"}], ids=str)
def test_a_whole_run_is_the_same_in_another_basis_of_the_factors(options):
    """Broken: what is learned depends on how the same images happen to be factored, through momentum perhaps."""
    ends, starts = [], []
    for kind in (lambda lss: lss, Turned):
        param = kind(LowRankSpace(rank=4, lr=20.0, **options))
        first, before, _ = run(param, outer=OuterSettings(steps=0))
        starts.append(first.decoded(before.learned)[0])
        distillation, state, _ = run(param)
        ends.append((distillation.decoded(state.learned)[0], state.learned.params["map_h"]))
    assert float((starts[0] - starts[1]).abs().max()) <= 1e-12
    assert float((ends[0][0] - ends[1][0]).abs().max()) <= 1e-9
    assert float((ends[0][0] - starts[0]).abs().max()) >= 1e-3 and not torch.allclose(ends[0][1], ends[1][1])


class Copied:
    """A parameterisation that starts from copies of a smaller one's images."""

    def __init__(self, inner, copies):
        self.inner, self.copies, self.name = inner, copies, inner.name
        self.decode, self.param_groups = inner.decode, inner.param_groups
        self.direction, self.penalty = inner.direction, inner.penalty

    def layout(self, spec, budget, label_floats):
        self.small = self.inner.layout(spec, evolve(budget, ipc=budget.ipc // self.copies), label_floats)
        count = self.small.images_per_class * self.copies
        return evolve(self.small, budget=budget, images_per_class=count, samples_per_class=count)

    def init(self, layout, real, rng):
        params = dict(self.inner.init(self.small, real, rng))
        key = "cores" if "cores" in params else "images"
        params[key] = params[key].repeat_interleave(self.copies, dim=0)
        if "counts" in params:
            params["counts"] = params["counts"] * self.copies
        return params


def test_the_step_size_never_falls_below_its_floor():
    """Broken: the most reported crash of trajectory matching, a negative learned step size."""
    outer = OuterSettings(steps=3, syn_steps=3, step_size=0.01, step_size_lr=1e6, step_size_floor=0.004)
    _, state, _ = run(Pixel(lr=0.0), outer=evolve(outer, steps=1))
    assert float(state.learned.step_size) >= 0.004
    lows = [float(run(Pixel(lr=0.0), outer=evolve(outer, steps=n))[1].learned.step_size) for n in (1, 2, 3)]
    assert min(lows) >= 0.004


def test_a_divergence_stops_the_run_and_keeps_finite_images():
    """Broken: NaN would be written over what was learned."""
    kept = []
    with pytest.raises(DivergedError, match="not finite at outer step"):
        run(
            Pixel(lr=1e30),
            outer=OuterSettings(steps=9, syn_steps=3),
            after=lambda state, report: kept.append(state.learned.finite()),
            dtype=torch.float32,
        )
    assert all(kept)


@given(st.integers(0, 3), st.integers(1, 10), st.integers(0, 10), st.integers(1, 50), st.integers(0, 200))
def test_the_window_grows_as_the_published_rule_says(low, start, growth, expand, step):
    """Broken: T_up(it) = T₀ + ⌊(T_max − T₀) · min(1, it/E)⌋."""
    start += low
    window = WindowSettings(min_start=low, start=start, max_start=start + growth, expand_steps=expand)
    assert window.high(step) == start + math.floor(growth * min(1.0, step / expand))
    assert start <= window.high(step) <= start + growth
    assert window.high(expand) == start + growth


def test_batches_are_pieces_of_permutations_taken_from_the_last_one_backwards():
    """Broken: a remainder would come last, or images repeat before all were used."""
    distillation, _, _ = run(Pixel(), outer=OuterSettings(steps=1, syn_steps=7, batch_syn=4), budget=Budget(ipc=3))
    schedule = distillation.schedule(0)
    sizes = [len(b) for b in schedule.batches]
    assert sizes == [1, 4, 4, 1, 4, 4, 1]  # nine images: the short remainder of each permutation first
    for first in (0, 3):
        assert sorted(torch.cat(schedule.batches[first : first + 3]).tolist()) == list(range(9))
    assert torch.cat(schedule.batches[:3]).tolist() != torch.cat(schedule.batches[3:6]).tolist()


def test_only_the_images_that_batches_use_are_decoded():
    """Broken: a step on a few of many images would pay for all."""
    asked = []

    class Spy:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def decode(self, params, index):
            asked.append(index.tolist())
            return self._inner.decode(params, index)

    run(Spy(Pixel()), outer=OuterSettings(steps=1, syn_steps=2, batch_syn=3), budget=Budget(ipc=5))
    assert len(asked) == 2  # the whole set for the labels, then one outer step
    assert len(asked[1]) == 6 and len(set(asked[1])) == 6


def test_a_penalty_reaches_the_parameters_beside_the_matching_loss():
    """Broken: the optional penalty of a parameterisation would be ignored."""

    class Decaying:
        def __init__(self, weight):
            self._inner, self._weight = Pixel(lr=1 / 6, momentum=0.0), weight

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def penalty(self, params):
            return self._weight * params["images"].square().sum() / 2 if self._weight else None

    outer = OuterSettings(steps=1, syn_steps=3)
    start = run(Decaying(0.0), outer=evolve(outer, steps=0))[1].learned.params["images"]
    plain = run(Decaying(0.0), outer=outer)[1].learned.params["images"]
    decayed = run(Decaying(0.25), outer=outer)[1].learned.params["images"]
    assert torch.allclose(plain - decayed, 0.25 * start, atol=1e-12)


def test_several_segments_per_step_average_their_gradients():
    """Broken: k segments on one rank would differ from one segment on k ranks."""
    outer = OuterSettings(steps=1, syn_steps=3, segments_per_step=2)
    moved = run(Pixel(lr=1 / 6, momentum=0.0), outer=outer)[1].learned.params["images"]
    start = run(Pixel(), outer=evolve(outer, steps=0))[1].learned.params["images"]
    distillation, _, _ = run(Pixel(), outer=evolve(outer, steps=0))
    from ddfw.contracts.executor import Problem
    from ddfw.randomness import Stream, generator

    gradients = []
    for draw in (0, 1):
        segment = distillation.traj.segment(distillation.trajectories, 0, 1, generator(0, Stream.SEGMENT, draw))
        assert isinstance(segment, Segment)
        problem = Problem(
            images=start,
            targets=torch.eye(3, dtype=torch.float64).repeat_interleave(2, dim=0),
            step_size=torch.tensor(0.01, dtype=torch.float64),
            schedules=(distillation.schedule(draw),),
        )
        gradients.append(distillation.session.meta_gradient(problem, [segment]).images)
    assert torch.allclose(start - moved, sum(gradients) / 2, rtol=1e-10, atol=1e-14)


def test_adam_is_another_setting_of_a_group():
    """Broken: a plugin asking for Adam would get SGD."""

    class WithAdam:
        def __getattr__(self, name):
            return getattr(Pixel(), name)

        def param_groups(self, params):
            return (ParamGroup(keys=("images",), lr=0.01, optimiser="adam", momentum=0.9),)

    start = run(Pixel(), outer=OuterSettings(steps=0))[1].learned.params["images"]
    moved = run(WithAdam(), outer=OuterSettings(steps=1, syn_steps=3))[1].learned.params["images"]
    # Adam's first step has length lr in every coordinate whose gradient is far above its epsilon.
    assert float((moved - start).abs().median()) == pytest.approx(0.01, rel=1e-4)


def test_a_whole_outer_step_needs_no_more_memory_for_more_inner_steps(live_bytes):
    """Broken: schedule, decoding, meta-gradient or update keep something for each inner step besides the path."""
    beyond = {}
    for steps in (10, 80):
        outer = OuterSettings(steps=1, syn_steps=steps, batch_syn=4)
        lss = LowRankSpace(rank=4, subspaces=2)
        distillation, state, _ = run(lss, outer=evolve(outer, steps=0), augmentation=Siamese(), budget=Budget(ipc=2))
        distillation.step(state)
        with live_bytes() as count:
            distillation.step(evolve(state, step=1))
        segment = distillation.traj.segment(distillation.trajectories, 0, 1, torch.Generator())
        beyond[steps] = count.peak - steps * segment.start.numel() * segment.start.element_size()
    assert 0 < beyond[80] <= 1.3 * beyond[10], beyond
