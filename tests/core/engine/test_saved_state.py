"""The state of the outer loop as tensors and back: nothing lost, nothing made up."""

from __future__ import annotations

import pytest
import torch

from ddfw.engine.distill import Learned, OuterState
from ddfw.engine.saved_state import learned_from, learned_tensors, restored, state_tensors
from ddfw.errors import DataError

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def start(device, mean=True):
    """A state before its first step: images that SGD moves, labels that Adam moves, a table that nobody moves."""
    rng = torch.Generator().manual_seed(0)
    learned = Learned(
        params={
            "images": torch.randn(3, 4, generator=rng).to(device).T,
            "table": torch.arange(3, device=device),
        },
        label_params={"logits": torch.randn(3, generator=rng).to(device)},
        step_size=torch.tensor(0.01, device=device),
    ).snapshot()
    optimisers = (
        torch.optim.SGD([learned.params["images"], learned.step_size], lr=0.1, momentum=0.9),
        torch.optim.Adam([learned.label_params["logits"]], lr=0.1),
    )
    return OuterState(step=0, learned=learned, optimisers=optimisers, mean=learned.snapshot().params if mean else None)


def move(state, steps):
    """Steps with gradients that are functions of the state and the step alone."""
    for step in steps:
        for tensor in (state.learned.params["images"], state.learned.label_params["logits"], state.learned.step_size):
            tensor.grad = tensor.detach() * (0.3 + step) - 0.01
        for optimiser in state.optimisers:
            optimiser.step()
        if state.mean is not None:
            state.mean["images"].lerp_(state.learned.params["images"], 0.3)


def copied(state):
    """What a file would give back, on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in state_tensors(state).items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_state_goes_on_as_if_it_had_not_been_written(device, before):
    """Broken: momentum, Adam's moments or the running mean would start anew in the middle of a run."""
    whole, first = start(device), start(device)
    move(whole, range(5))
    move(first, range(before))
    there = copied(first)
    assert any(name.startswith("optimiser.") for name in there) == (before > 0)
    second = restored(start(device), there, step=before, skipped=2)
    assert (second.step, second.skipped) == (before, 2)
    assert [bool(o.state) for o in second.optimisers] == [before > 0] * 2, "memory that was not there stays absent"
    move(second, range(before, 5))
    ends = copied(whole), copied(second)
    assert ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name
    for name, tensor in state_tensors(second).items():
        assert tensor.device == state_tensors(whole)[name].device, name


def test_tensors_of_another_run_are_refused():
    """Broken: a run would go on with images of another shape, or with a running mean that it does not have."""
    there = copied(start("cpu"))
    for wrong in (
        {k: v for k, v in there.items() if k != "learned.params.images"},
        {**there, "learned.params.more": torch.zeros(1)},
        {**there, "learned.labels.logits": torch.zeros(4)},
        {**there, "learned.step_size": torch.tensor(0.01, dtype=torch.float64)},
        {k: v for k, v in there.items() if not k.startswith("mean.")},
    ):
        with pytest.raises(DataError, match="not those of this run"):
            restored(start("cpu"), wrong, step=1, skipped=0)
    with pytest.raises(DataError, match=r"mean\.\*"):
        restored(start("cpu", mean=False), there, step=1, skipped=0)


def test_a_learned_set_comes_back_by_its_names():
    """Broken: the best step so far would be lost, or mixed with the last one."""
    one, other = start("cpu").learned, start("cpu").learned.snapshot()
    other.params["images"].add_(1)
    tensors = {**learned_tensors("learned", one), **learned_tensors("best", other)}
    found = learned_from("best", tensors, one)
    assert torch.equal(found.params["images"], other.params["images"])
    assert found.params.keys() == one.params.keys() and found.label_params.keys() == one.label_params.keys()
    with pytest.raises(DataError, match=r"best\.\*"):
        learned_from("best", learned_tensors("learned", one), one)
