"""Convexified trajectories against the authors' numbers, closed forms and properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ddfw import OptionError
from ddfw.testing._devices import _stand_in
from ddfw_plugins.trajectories.mct import ConvexTrajectory, progress, smoothed
from ddfw_plugins.trajectories.mtt import Checkpoints


class Sums(TorchDispatchMode):
    """The devices on which cumulative sums are computed."""

    def __init__(self):
        super().__init__()
        self.devices = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name == "aten::cumsum":
            self.devices.append(args[0].device.type)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["arc_length", "decreasing"])
def test_progress_on_a_gpu_is_added_up_where_sums_repeat(kind):
    """Broken: with executor.deterministic a run with these trajectories ends at once on torch 2.11."""
    path, sizes = walk(6, [4, 3]), [4, 3]
    wanted = progress(path, sizes, kind)
    with _stand_in() as device:
        there = path.to(device)
        with Sums() as sums:
            found = progress(there, sizes, kind)
        assert found.device.type == device.type and sums.devices == ["cpu"]
        assert torch.equal(found.cpu(), wanted)


class Experts:
    """An expert source in memory."""

    def __init__(self, paths, sizes):
        self.paths, self.sizes = paths, tuple(sizes)
        self.num_experts, self.num_epochs = len(paths), len(paths[0]) - 1

    def compact(self, expert):
        return None

    def snapshots(self, expert, epochs):
        return self.paths[expert][list(epochs)]


def walk(epochs, sizes, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(epochs + 1, sum(sizes), generator=rng, dtype=torch.float64).cumsum(dim=0).to(dtype)


@pytest.fixture(params=["mct_K10", "mct_K50"])
def case(request, golden):
    d = golden(request.param)
    sizes = [int(torch.tensor([v for v in row if v]).prod()) for row in d["param_shapes"].tolist()]
    return d, torch.from_numpy(d["trajectory_flat"]), sizes


def close(found, expected):
    """The golden files' tolerance: 1e-12 for float64, 5e-7 for arrays that were stored as float32."""
    tolerance = 5e-7 if expected.dtype == "float32" else 1e-12
    return float((found - torch.from_numpy(expected).double()).abs().max()) <= tolerance


def test_two_way_points_equal_the_authors_code(case):
    """Broken: β or a point of the paper's form differs from the released code."""
    d, path, sizes = case
    expert = ConvexTrajectory(waypoints="two-point").convexify(path, sizes)
    assert close(expert.betas[0].T, d["betas_two_waypoint"])
    points = torch.stack([expert.at(float(t)) for t in d["query_epochs"]])
    assert close(points, d["points_two_waypoint"])
    whole = torch.stack([expert.at(t) for t in range(len(path))])
    tolerance = 1e-12 if d["legacy_convexified_points"].dtype == "float64" else 5e-7
    assert float((whole - torch.from_numpy(d["legacy_convexified_points"]).double()).abs().max()) <= tolerance


def test_the_official_way_points_equal_the_authors_code_wherever_it_answers(case):
    """Broken: choice, order of smoothing, or the points between way-points differ from the released code."""
    d, path, sizes = case
    expert = ConvexTrajectory(waypoints="official").convexify(path, sizes)
    assert list(expert.epochs) == d["waypoint_epochs_four"].tolist()
    assert close(expert.points, d["waypoints_four_smoothed"])
    assert close(torch.cat([b.T for b in expert.betas]), d["betas_four_concatenated"])
    answered = d["query_status_four"] == 0
    points = torch.stack([expert.at(float(t)) for t in d["query_epochs"][answered]])
    assert close(points, d["points_four_waypoint"][answered])
    # Where their code fails (the last epoch, say) ours answers with finite points.
    assert all(expert.at(float(t)).isfinite().all() for t in d["query_epochs"][~answered] if 0 <= t <= len(path) - 1)


@pytest.mark.parametrize("kind", ["uniform", "projected", "decreasing"])
def test_the_ablations_equal_the_authors_code(case, kind):
    """Broken: an ablation's β differs from the released code."""
    d, path, sizes = case
    assert close(progress(path, sizes, kind).T, d[f"betas_{kind}_variant"])


def test_the_older_piecewise_function_is_reproduced(golden):
    """Broken: `smoothing = legacy` is not what the authors' best table was made with."""
    d = golden("mct_K50")
    sizes = [int(torch.tensor([v for v in row if v]).prod()) for row in d["param_shapes"].tolist()]
    source = ConvexTrajectory(waypoints=(0, 6, 25, 50), smoothing="legacy")
    expert = source.convexify(torch.from_numpy(d["trajectory_flat"]), sizes)
    points = torch.stack([expert.at(t) for t in range(51)])
    assert close(points, d["legacy_piecewise_6_25_points"])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_beta_rises_from_zero_to_one(epochs, sizes, seed, dtype):
    """Broken: progress would leave [0, 1], go back, or miss an end."""
    path = walk(epochs, sizes, seed, dtype)
    path[:, : sizes[0]] = path[0, : sizes[0]]  # the first tensor never moves
    beta = progress(path, sizes)
    assert beta.shape == (len(sizes), epochs + 1)
    assert (beta.diff(dim=1) >= 0).all()
    assert (beta[0] == 0).all()
    assert (beta[1:, 0] == 0).all() and (beta[1:, -1] == 1).all()


@pytest.mark.parametrize("waypoints", ["two-point", "official", (0, 3, 4, 10), tuple(range(11))])
def test_a_straight_uniform_expert_is_its_own_convexification(waypoints):
    """Broken: convexifying changes a path that is already a straight line at even speed."""
    sizes = [3, 4]
    first, step = walk(1, sizes)
    path = first + torch.arange(11.0, dtype=torch.float64)[:, None] * step
    expert = ConvexTrajectory(waypoints=waypoints, smoothing="none").convexify(path, sizes)
    times = torch.linspace(0, 9 if waypoints == "official" else 10, 37, dtype=torch.float64).tolist()
    for t in times:
        exact = first + t * step
        # Smoothing moves the official form's last way-point by half an epoch; before it the line is kept.
        if waypoints != "official" or t <= 9:
            assert torch.allclose(expert.at(t), exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("waypoints", ["two-point", "official", (0, 5, 10), tuple(range(11))])
def test_the_last_epoch_has_a_value_for_every_number_of_way_points(waypoints):
    """Broken: t = K would raise or return nothing, as the released code does."""
    path = walk(10, [4, 2])
    expert = ConvexTrajectory(waypoints=waypoints).convexify(path, [4, 2])
    assert torch.equal(expert.at(10), expert.points[-1])
    assert torch.equal(expert.at(0), path[0])
    if waypoints != "official":
        for epoch in expert.epochs:
            assert torch.allclose(expert.at(epoch), path[epoch], atol=1e-14, rtol=0)
    for bad in (-0.01, 10.01, float("nan")):
        with pytest.raises(ValueError, match="t must lie in"):
            expert.at(bad)


def test_fifty_epochs_store_25_times_fewer_floats_than_checkpoints():
    """Broken: the storage claim (25.5 × fewer checkpoint floats; 25.47 × with β for ConvNet-D3 W128)."""
    sizes = [3456, 128, 128, 128, 147456, 128, 128, 128, 147456, 128, 128, 128, 20480, 10]
    path = torch.zeros(51, sum(sizes))
    path[:, 0] = torch.arange(51)
    experts = Experts([path, path], sizes)
    mtt, mct = Checkpoints(), ConvexTrajectory()
    full = mtt.stored_bytes(mtt.prepare(experts))
    prepared = mct.prepare(experts)
    small = mct.stored_bytes(prepared)
    assert full == 2 * 51 * 320_010 * 4
    assert prepared[0].points.numel() * 25.5 == 51 * 320_010
    assert full / small == pytest.approx(25.47, abs=0.005)


@pytest.mark.parametrize("continuous", [True, False])
def test_segments_start_in_the_window_and_stop_at_the_last_epoch(continuous):
    """Broken: starts outside [low, high), the wrong target, or draws from a global generator."""
    paths = [walk(10, [4, 2], seed) for seed in range(3)]
    source = ConvexTrajectory(expert_epochs=4, continuous=continuous)
    prepared = source.prepare(Experts(paths, [4, 2]))
    before = torch.get_rng_state()
    drawn = [source.segment(prepared, 2, 9, torch.Generator().manual_seed(i)) for i in range(300)]
    assert torch.equal(before, torch.get_rng_state())
    starts = [s.start_epoch for s in drawn]
    assert min(starts) >= 2 and max(starts) < 9
    assert {s.expert for s in drawn} == {0, 1, 2}
    assert any(s.target_epoch == 10 for s in drawn)
    integers = [s == int(s) for s in starts]
    assert not any(integers) if continuous else all(integers)
    for s in drawn:
        assert s.target_epoch == min(s.start_epoch + 4, 10)
        assert torch.equal(s.start, prepared[s.expert].at(s.start_epoch))
        assert torch.equal(s.target, prepared[s.expert].at(s.target_epoch))


def test_checkpoint_segments_are_the_stored_checkpoints():
    """Broken: start or target is not the expert's own checkpoint, or an end of the window is never drawn."""
    paths = [walk(6, [4, 2], seed) for seed in range(2)]
    source = Checkpoints(expert_epochs=2)
    prepared = source.prepare(Experts(paths, [4, 2]))
    drawn = [source.segment(prepared, 1, 5, torch.Generator().manual_seed(i)) for i in range(200)]
    assert {s.start_epoch for s in drawn} == {1, 2, 3, 4}
    for s in drawn:
        assert torch.equal(s.start, paths[s.expert][s.start_epoch])
        assert torch.equal(s.target, paths[s.expert][s.start_epoch + 2])
    assert source.latest_high(6) == 5
    assert ConvexTrajectory().latest_high(6) == 5 and ConvexTrajectory(continuous=False).latest_high(6) == 6


def test_way_points_that_make_no_sense_are_refused():
    """Broken: falling, unanchored or too long way-points would be accepted."""
    for bad in ((0,), (1, 5), (0, 5, 5), (0, 7, 3)):
        with pytest.raises(ValueError, match="waypoints"):
            ConvexTrajectory(waypoints=bad)
    with pytest.raises(OptionError, match="experts have 10 epochs"):
        ConvexTrajectory(waypoints=(0, 5)).convexify(walk(10, [2]), [2])
    with pytest.raises(ValueError, match="sizes sum to 3"):
        progress(walk(3, [2]), [3])
    with pytest.raises(ValueError, match="at least two"):
        progress(walk(3, [2])[:1], [2])


def test_the_former_name_of_the_two_point_form_is_understood_and_recorded_by_its_new_name():
    """Broken: a configuration of version 0.1 would be refused, or a record would go on calling the form paper."""
    former = ConvexTrajectory(waypoints="paper")
    assert former == ConvexTrajectory() and former.waypoints == "two-point"
    assert former.waypoint_epochs(7) == (0, 7)


def test_smoothing_leaves_the_given_trajectory_alone():
    """Broken: the expert's own checkpoints would be changed in place."""
    path = walk(9, [3])
    copy = path.clone()
    assert not torch.equal(smoothed(path, (0, 3, 6, 9), "official"), path)
    assert torch.equal(path, copy)
