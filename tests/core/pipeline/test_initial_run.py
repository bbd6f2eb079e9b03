"""`ddfw.initial_run`: a run up to its first outer step."""

from __future__ import annotations

import pytest
import torch

import ddfw

TINY = {
    "model": {"depth": 1, "width": 2},
    "param": {"name": "lss", "rank": 4},
    "experts": {"count": 1, "epochs": 2},
    "outer": {"steps": 0, "syn_steps": 2},
    "eval": {"networks": 2, "epochs": 1, "select_networks": 1, "baselines": []},
    "window": {"max_start": 1},
    "executor": {"threads": 1},
}


@pytest.fixture
def plan(tmp_path):
    """A plan whose experts are not trained yet."""
    config = ddfw.configure("default", TINY, ()).config
    return ddfw.plan(config, ddfw.Places(experts=tmp_path / "experts"))


def test_it_has_what_a_run_of_no_steps_keeps(plan, tmp_path, capsys):
    """Broken: what is looked at before the first step is not what a run starts from, or looking leaves a run behind."""
    with ddfw.initial_run(plan, quiet=True) as run:
        images, targets = run.distillation.decoded(run.state.learned)
    assert run.state.step == 0 and capsys.readouterr().err == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["experts"]
    places = ddfw.Places(out=tmp_path / "run", experts=tmp_path / "experts")
    kept = ddfw.run(plan.config, places, quiet=True).load()
    assert images.equal(kept.images) and targets.equal(kept.targets)


def test_a_higher_precision_is_that_of_the_set_and_not_of_the_experts(plan, capsys):
    """Broken: asking for float64 trains other experts, or computes with float32 all the same."""
    with ddfw.initial_run(plan) as run:
        single, _ = run.distillation.decoded(run.state.learned)
    assert "expert 1/1" in capsys.readouterr().err
    before = plan.expert_set.store.index()
    with ddfw.initial_run(plan, precision="float64", quiet=True) as run:
        double, targets = run.distillation.decoded(run.state.learned)
        segment = run.distillation.traj.segment(run.distillation.trajectories, 0, 1, torch.Generator().manual_seed(0))
        found, report = run.distillation.step(run.state)
    assert double.dtype == targets.dtype == segment.start.dtype == torch.float64
    assert found.step == 1 and report.loss > 0
    assert double.float().allclose(single, atol=1e-4) and plan.expert_set.store.index() == before
