"""Matching losses: their formulas, written naively here, and their gradients through a student's unroll."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from ddfw import ImageSpec, Segment
from ddfw.contracts.executor import Problem, Schedule
from ddfw.engine.inner import Network, build_module
from ddfw.engine.metagradient import Path, meta_gradient
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.losses.masked import Masked, smallest
from ddfw_plugins.losses.nearest import NearestStep, nearest_step
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.convnet import ConvNet


def naive_ratio(row, segment, kept):
    """Sums over the kept coordinates, one by one."""
    above = sum((row[j] - segment.target[j]) ** 2 for j in kept)
    return above / sum((segment.start[j] - segment.target[j]) ** 2 for j in kept)


def naive_nearest(path, segment):
    best = len(path) - 1
    for i in reversed(range(1, len(path))):
        if torch.dist(path[i].data, segment.target, p=1) < torch.dist(path[best].data, segment.target, p=1):
            best = i
    return naive_ratio(path[best], segment, range(len(segment.target)))


def naive_masked(fraction):
    def loss(path, segment):
        far = ((path[-1].data - segment.target) ** 2).tolist()
        return naive_ratio(path[-1], segment, sorted(range(len(far)), key=far.__getitem__)[int(fraction * len(far)) :])

    return loss


def make(seed=0, steps=5):
    """A small network and problem in float64, and a segment whose target is far away."""
    rng = torch.Generator().manual_seed(seed)
    spec = ImageSpec(channels=1, height=4, width=4, num_classes=3)
    model = ConvNet(depth=1, width=3)
    network = Network(build_module(model, spec))
    start = model.init(network.module, rng).double()
    batches = tuple(torch.randperm(6, generator=rng)[:4] for _ in range(steps))
    draws = tuple(NoAugmentation().draw((4, *spec.shape), rng) for _ in batches)
    problem = Problem(
        images=torch.randn(6, *spec.shape, generator=rng, dtype=torch.float64),
        targets=torch.randn(6, 3, generator=rng, dtype=torch.float64).softmax(dim=1),
        step_size=torch.tensor(0.3, dtype=torch.float64),
        schedules=(Schedule(batches=batches, draws=draws),),
    )
    target = start + 0.1 * torch.randn(start.shape, generator=rng, dtype=torch.float64)
    return network, problem, Segment(start=start, target=target, expert=0, start_epoch=0, target_epoch=1)


def unrolled_path(network, problem, start):
    """The reference: every step with its graph. Returns the leaves (X, Y, a) and the points w_0 … w_N."""
    leaves = [t.clone().requires_grad_() for t in (problem.images, problem.targets, problem.step_size)]
    images, targets, a = leaves
    path = [start.clone().requires_grad_()]
    for batch in problem.schedules[0].batches:
        logits = network.logits(path[-1], images[batch])
        inner = -(targets[batch] * logits.log_softmax(dim=1)).sum(dim=1).mean()
        (gradient,) = torch.autograd.grad(inner, path[-1], create_graph=True)
        path.append(path[-1] - a * gradient)
    return leaves, path


def check_against_the_unroll(network, problem, segment, loss, naive):
    leaves, path = unrolled_path(network, problem, segment.start)
    value = naive(path, segment)
    expected = torch.autograd.grad(value, leaves)
    value = float(value.detach())
    for held in (0, 2, 5):
        found = meta_gradient(network, NoAugmentation(), loss, problem, [segment], held_steps=held)
        assert float(found.loss) == pytest.approx(value, rel=1e-10)
        for mine, theirs in zip((found.images, found.targets, found.step_size), expected, strict=True):
            assert float(theirs.norm()) > 0
            assert float((mine - theirs).norm() / theirs.norm()) <= 1e-10


def beside(path, step, start, seed=1):
    """A segment whose target lies next to w_step."""
    rng = torch.Generator().manual_seed(seed)
    near = path[step].detach()
    gap = 0.05 * (path[1] - path[0]).detach().abs().mean()
    target = near + gap * torch.randn(near.shape, generator=rng, dtype=torch.float64)
    return Segment(start=start, target=target, expert=0, start_epoch=0, target_epoch=1)


def rows(*values):
    """A path of rows [P] in float64 (no gradients)."""
    return [torch.tensor(v, dtype=torch.float64) for v in values]


def towards(start, target):
    start, target = rows(start, target)
    return Segment(start=start, target=target, expert=0, start_epoch=0, target_epoch=1)


@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_the_adjoint_of_nearest_equals_the_unroll_where_the_target_lies_beside_a_step(step):
    """Broken: the cotangent enters the reverse pass at another step than the one that was matched."""
    network, problem, segment = make()
    _, path = unrolled_path(network, problem, segment.start)
    segment = beside(path, step, segment.start)
    assert nearest_step(path, segment.target) == step
    check_against_the_unroll(network, problem, segment, NearestStep(), naive_nearest)


def test_an_inner_nearest_step_is_unlike_ratio_and_ignores_what_comes_after():
    """Broken: later steps would still be trained, or the match would be made at the end."""
    network, problem, segment = make()
    _, path = unrolled_path(network, problem, segment.start)
    segment = beside(path, 2, segment.start)
    # All graphs are held on both sides: which step is computed anew would move the last bits.
    whole = meta_gradient(network, NoAugmentation(), NearestStep(), problem, [segment], held_steps=1000)
    schedule = problem.schedules[0]
    cut = evolve(problem, schedules=(Schedule(batches=schedule.batches[:2], draws=schedule.draws[:2]),))
    short = meta_gradient(network, NoAugmentation(), Ratio(), cut, [segment], held_steps=1000)
    assert torch.allclose(whole.images, short.images, rtol=1e-12, atol=0)
    assert torch.allclose(whole.step_size, short.step_size, rtol=1e-12, atol=0)
    ratio = meta_gradient(network, NoAugmentation(), Ratio(), problem, [segment])
    assert float(whole.loss) < 0.5 * float(ratio.loss)


def test_only_the_nearest_row_gets_a_cotangent():
    """Broken: reading a row for its distance would make it part of the gradient."""
    points = rows([0.0, 0.0], [3.0, 3.0], [2.0, 1.0], [0.0, 9.0])
    segment = towards([0.0, 0.0], [2.0, 2.0])
    path = Path(points)
    cotangents = path.cotangents(NearestStep().loss(path, segment))
    assert {i: g.tolist() for i, g in cotangents.items()} == {2: [0.0, -0.25]}


def test_nearness_is_l1_and_the_loss_is_squared_l2():
    """Broken: one norm is used for both."""
    # From (0, 0): L1 4 and 5, L2 squared 16 and 12.5.
    path = rows([8.0, 0.0], [4.0, 0.0], [2.5, 2.5])
    segment = towards([8.0, 0.0], [0.0, 0.0])
    assert nearest_step(path, segment.target) == 1
    assert float(NearestStep().loss(path, segment)) == 16 / 64


def test_of_equally_near_steps_the_last_is_matched_and_the_start_is_none():
    """Broken: a tie is broken by chance, or step 0, which nothing can change, is matched."""
    segment = towards([1.0, 0.0], [0.0, 0.0])
    tied = rows([1.0, 0.0], [0.0, 2.0], [2.0, 0.0], [-1.0, 1.0], [3.0, 0.0])
    assert nearest_step(tied, segment.target) == 3
    assert nearest_step(tied[:3], segment.target) == 2
    assert nearest_step(rows([0.0, 0.0], [5.0, 0.0], [4.0, 0.0]), segment.target) == 2
    assert nearest_step(rows([0.0, 0.0], [5.0, 0.0]), segment.target) == 1
    assert float(NearestStep().loss(tied, segment)) == 2.0


def test_a_student_that_diverged_is_matched_where_it_shows():
    """Broken: an early finite step would hide a NaN at the end."""
    segment = towards([1.0], [0.0])
    assert NearestStep().loss(rows([1.0], [0.5], [float("nan")]), segment).isnan()


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.9])
def test_the_adjoint_of_masked_equals_the_unroll(fraction):
    """Broken: the mask is differentiated, or numerator and denominator keep different coordinates."""
    network, problem, segment = make(seed=2)
    assert (segment.start != segment.target).all()
    check_against_the_unroll(network, problem, segment, Masked(ratio=fraction), naive_masked(fraction))


def test_masked_with_nothing_dropped_is_ratio_to_the_last_bit():
    """Broken: switching the mask off changes a run."""
    network, problem, segment = make(seed=3)
    for small in (0.0, 0.5 / len(segment.start)):  # the second drops ⌊0.5⌋ coordinates
        mine = meta_gradient(network, NoAugmentation(), Masked(ratio=small), problem, [segment])
        theirs = meta_gradient(network, NoAugmentation(), Ratio(), problem, [segment])
        for name in ("loss", "images", "targets", "step_size"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name))


@pytest.mark.parametrize(
    ("fraction", "dropped"), [(0.0, 0), (0.2, 0), (0.25, 1), (0.49, 1), (0.5, 2), (0.75, 3), (0.999, 3)]
)
def test_the_floor_of_ratio_times_p_coordinates_is_dropped_and_never_all(fraction, dropped):
    """Broken: the count is rounded up, or nothing is left to divide by."""
    # (w − target)² is 16, 1, 9, 4; (start − target)² is 100, 81, 64, 49.
    path = [torch.tensor([-4.0, 1.0, 3.0, 2.0], dtype=torch.float64, requires_grad=True)]
    segment = towards([10.0, 9.0, 8.0, 7.0], [0.0, 0.0, 0.0, 0.0])
    value = Masked(ratio=fraction).loss(path, segment)
    order = [(16, 100), (9, 64), (4, 49), (1, 81)][: 4 - dropped]
    assert float(value.detach()) == pytest.approx(sum(a for a, _ in order) / sum(b for _, b in order), rel=1e-15)
    (gradient,) = torch.autograd.grad(value, path[0])
    assert int((gradient == 0).sum()) == dropped


def test_of_equal_coordinates_the_lower_ones_are_dropped():
    """Broken: ties are broken by the sorting algorithm, and runs differ between machines."""
    assert smallest(torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]), 3).tolist() == [True, True, False, False, True]
    assert smallest(torch.zeros(4), 0).tolist() == [False] * 4
    assert smallest(torch.zeros(4), 4).tolist() == [True] * 4
    many = smallest(torch.zeros(100_001), 40_000)
    assert many[:40_000].all() and not many[40_000:].any()


@pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan")])
def test_a_mask_of_everything_or_less_than_nothing_is_refused(bad):
    """Broken: 0/0 in the middle of a run."""
    with pytest.raises(ValueError):
        Masked(ratio=bad)


@pytest.mark.parametrize("loss", [NearestStep(), Masked(), Masked(ratio=0.6)], ids=repr)
def test_finite_differences_agree(loss):
    """Broken: the gradient in the path's rows, whatever is held constant, is not the loss's."""
    rng = torch.Generator().manual_seed(4)
    points = torch.randn(4, 7, generator=rng, dtype=torch.float64)
    segment = Segment(start=points[0], target=points[2] + 0.1 * points[3], expert=0, start_epoch=0, target_epoch=1)
    leaf = points.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: loss.loss(list(w), segment), leaf)


@pytest.mark.parametrize("loss", [NearestStep(), Masked(), Ratio()], ids=lambda loss: loss.name)
def test_an_expert_that_stood_still_gives_no_finite_loss_with_any_of_them(loss):
    """Broken: one loss hides a segment of length 0 that the others report."""
    segment = towards([1.0, 2.0], [1.0, 2.0])
    assert float(loss.loss(rows([1.0, 2.0], [2.0, 2.0]), segment)) == float("inf")
    assert loss.loss(rows([1.0, 2.0], [1.0, 2.0]), segment).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [NearestStep(), Masked()], ids=lambda loss: loss.name)
def test_the_loss_is_a_scalar_in_the_paths_dtype(loss, dtype):
    """Broken: a float64 run would lose precision, or float32 would be promoted."""
    path = [torch.rand(9, dtype=dtype, requires_grad=True) for _ in range(3)]
    segment = Segment(
        start=path[0].detach(), target=torch.rand(9, dtype=dtype), expert=0, start_epoch=0, target_epoch=1
    )
    value = loss.loss(path, segment)
    assert value.dtype == dtype and value.ndim == 0 and value.requires_grad
