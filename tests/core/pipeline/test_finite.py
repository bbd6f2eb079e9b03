"""Nothing that is not finite is written, and what diverges says which option to change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddfw.artifacts.synthetic import require_finite_set
from ddfw.engine.finite import rates, stands_still
from ddfw.errors import DivergedError

DIVERGING = {
    "images whose parameters are finite": (["param.lr=1e20"], "a decoded image is not finite", "param.lr"),
    "a step size that grows": (["outer.step_size_lr=1e30"], "not finite", "outer.step_size_lr"),
    "a step size that is too large": (["outer.step_size=1e30"], "diverged", "outer.step_size"),
    "experts that diverge": (["experts.lr=1e20"], "diverged", "experts.lr"),
    "experts that stand still": (["experts.lr=1e-30"], "stands still", "raise experts.lr"),
    "experts that move by rounding": (["experts.lr=1e-9"], "stands still", "raise experts.lr"),
    "a baseline": (["eval.full_lr=1e30"], "full_data: training diverged", "eval.full_lr"),
}


@pytest.mark.parametrize("settings, what, option", DIVERGING.values(), ids=DIVERGING)
def test_a_run_that_diverges_names_the_option_and_writes_finite_values_alone(
    here: Path, ddfw, tiny, settings, what, option
):
    """A set of Inf would be handed to users, or the advice would be about another option than the one at fault."""
    said = ddfw(*tiny, *(f"--set={setting}" for setting in settings), "--quiet", "--out", "run")
    said.refused(5, what, option)
    for file in (here / "run").rglob("*.safetensors"):
        for key, tensor in load_file(file).items():
            assert not tensor.is_floating_point() or tensor.isfinite().all(), (file, key)


def test_a_rate_for_all_images_together_beyond_float32_is_refused_by_its_option(here: Path, ddfw, tiny):
    """A rate per image times their number overflows inside the optimiser, which is no message for users."""
    ddfw(*tiny, "--set=param.lr=3e38", "--quiet", "--out", "run").refused(2, "param.lr", "float32")


def test_a_tensor_that_is_not_finite_is_not_written():
    """The last guard before a file: it would hold Inf whatever led to it."""
    require_finite_set({"good": torch.ones(2), "table": torch.arange(3)}, "images.safetensors")
    for value in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(DivergedError, match=r"images.safetensors is not written: its tensor 'bad'"):
            require_finite_set({"bad": torch.tensor([1.0, value])}, "images.safetensors")


def test_parameters_stand_still_if_only_rounding_moves_them():
    """Experts that were trained a little would be refused, or ones that were not would pass."""
    start = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert stands_still(start, start.clone())
    assert stands_still(start, start + 1e-8)
    assert not stands_still(start, start + 1e-4)
    assert stands_still(torch.zeros(3), torch.zeros(3))
    assert not stands_still(torch.zeros(3), torch.ones(3))


def test_rates_are_named_by_their_paths(component):
    """The advice would name options that the component lacks, or ones that are unset."""
    assert rates("param", component("param", "pixel")) == "param.lr"
    assert rates("param", component("param", "lss", lr_mappers=1.0)) == "param.lr or param.lr_mappers"
    assert rates("labels", component("labels", "hard")) == "the learning rates of labels"


@pytest.fixture
def component():
    from ddfw.config.catalog import component

    return component


def test_experts_at_chance_are_said(here: Path, ddfw, tiny):
    """A user would look for the fault in the distillation, when the experts learned nothing."""
    said = ddfw(
        *tiny, "--set=experts.lr=1e-5", "--set=experts.epochs=2", "--set=outer.steps=0", "--quiet", "--out", "run"
    )
    assert said.code == 0, said.err
    assert "no better than chance" in said.err and "experts.lr" in said.err
