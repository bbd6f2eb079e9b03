"""Which settings make other experts, and so another folder: optimiser and training space do, unused ones do not."""

from __future__ import annotations

import pytest
import torch

from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.pipeline.runner import Places, plan

SMALL = ("model.depth=2", "model.width=4", "experts.epochs=3", "window.max_start=1", "param=pixel")


@pytest.fixture
def store(tmp_path):
    """The expert store of a small configuration with some settings changed."""

    def make(*changes):
        config = structured_config(gather("default", {}, (*SMALL, *changes)))
        return plan(config, Places(experts=tmp_path)).expert_set.store

    return make


def test_plain_sgd_has_the_key_that_it_always_had(store):
    """Broken: every cached expert of plain SGD would be trained again."""
    assert store().key["training"] == {
        "epochs": 3, "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 256, "decay_after": None,
    }  # fmt: skip
    assert set(store().key) == {"schema", "data", "space", "model", "training", "augment", "precision"}


def test_gsam_experts_lie_in_another_folder_for_each_rho_and_alpha(store):
    """Broken: FTD's experts would be taken for plain ones, or one ρ's for another's."""
    gsam = "experts.optimiser=gsam"
    variants = [(), (gsam,), (gsam, "experts.gsam_rho=0.02"), (gsam, "experts.gsam_alpha=0.3")]
    assert len({store(*v).folder.name for v in variants}) == 4
    assert store(gsam).key["training"]["sharpness"] == {"rho": 0.01, "alpha": 0.4}


@pytest.mark.parametrize(
    ("options", "arithmetic"),
    [
        (("executor=cpu",), None),
        (("executor=torchrun",), None),  # on this machine's processors
        (("executor=ray",), None),
        (("executor=cuda", "executor.training=float32"), None),
        (("executor=cuda",), "tf32"),
        (("executor=cuda", "executor.training=bf16"), "bf16"),
        (("executor=cuda", "executor.training=bf16", "run.precision=float64"), None),
        (("executor=ray", "executor.gpus=1"), "tf32"),
        (("executor=ray", "executor.gpus=1", "executor.training=bf16"), "bf16"),
        (("executor=cuda", "executor.gradient=bf16", "executor.training=float32"), None),
    ],
    ids=str,
)
def test_experts_of_a_lower_arithmetic_lie_in_a_store_of_their_own(store, monkeypatch, options, arithmetic):
    """Broken: experts of bfloat16 are taken for those of float32; or those trained so far are trained again."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    precision = tuple(word for word in options if "precision" in word)
    here, found = store(*precision), store(*options)
    assert found.key == ({**here.key, "arithmetic": arithmetic} if arithmetic else here.key)
    assert (found.folder == here.folder) == (arithmetic is None)


def test_gsams_numbers_do_not_matter_to_plain_sgd(store):
    """Broken: a recipe that mentions ρ would train plain experts again."""
    assert store("experts.gsam_rho=0.7", "experts.gsam_alpha=0.1").folder == store().folder


def test_another_whitening_is_another_store_and_epsilon_matters_only_there(store):
    """Broken: experts of one training space would be used in another."""
    zca = "data.space=zca"
    names = {store(*v).folder.name for v in ((), (zca,), (zca, "data.zca_epsilon=0.2"), ("data.space=none",))}
    assert len(names) == 4
    assert store("data.zca_epsilon=0.2").folder == store().folder
    assert store(zca).key["space"]["epsilon"] == 0.1


def test_what_happens_after_the_experts_does_not_change_their_folder(store):
    """Broken: every change of the outer loop or the evaluation would train experts again."""
    changes = ("outer.ema=0.9", "outer.skip_above=5.0", "outer.images=recognised", "eval.baselines=[]", "loss=nearest")
    assert store(*changes).folder == store().folder
