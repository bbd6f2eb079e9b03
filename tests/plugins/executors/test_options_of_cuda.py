"""The options of `cuda` that executors of several processes take too."""

from __future__ import annotations

import pytest
import torch
from attrs import fields

from ddfw.config.catalog import as_table
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.executors.cuda import Cuda
from ddfw_plugins.executors.ray import Ray
from ddfw_plugins.executors.torchrun import Torchrun

OTHER = {
    "compile": False,
    "graphs": False,
    "training": "bf16",
    "gradient": "tf32",
    "deterministic": True,
    "channels_last": False,
}
CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize("executor", [Torchrun, Ray], ids=lambda cls: cls.name)
def test_every_option_of_cuda_can_be_set_and_has_its_default(executor):
    """Broken: a run on several GPUs is bound to defaults, or has others than a run on one."""
    here = {field.name: field for field in fields(executor)}
    # A task of ray trains one network; several share a GPU by the option gpus.
    wanted = {f.name for f in fields(Cuda)} - ({"together"} if executor is Ray else set())
    assert wanted <= set(here)
    for field in fields(Cuda):
        if field.name in wanted - {"device"}:
            assert here[field.name].default is None
            assert "cuda" in here[field.name].metadata["help"]


def test_a_rank_has_the_options_of_its_crew():
    """Broken: options are taken and do nothing."""
    assert Torchrun()._inner(GPU) == Cuda(device="cuda:1")
    # The threads that torchrun has given each rank, and no workers beside the ranks.
    assert Torchrun()._inner(CPU) == Cpu(threads=torch.get_num_threads(), workers=1)
    executor = Torchrun(**OTHER, together=4)
    assert executor._inner(GPU) == Cuda(device="cuda:1", **OTHER, together=4)
    found = Torchrun(**{**OTHER, "compile": True}, together=4, threads=2)._inner(CPU)
    assert found == Cpu(threads=2, workers=1, compile=True)


def test_a_task_has_the_options_of_its_executor():
    """Broken: options are taken and do nothing."""
    assert Ray()._on("cuda") == Cuda()
    assert Ray()._on("cpu") == Cpu(workers=1)
    # One thread, as the executor cpu has for each network.
    assert Ray()._there() == Cpu(threads=1, workers=1) and Ray(threads=3)._there() == Cpu(threads=3, workers=1)
    assert Ray(**OTHER)._on("cuda") == Ray(**OTHER, gpus=1)._there() == Cuda(**OTHER)


@pytest.mark.parametrize("gpus", [0, 2])
def test_what_holds_on_gpus_holds_there_alone(monkeypatch, gpus):
    """Broken: experts of a CPU count as experts of a lower arithmetic, or a stop does not wait for those of GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    executor = Torchrun(training="bf16", together=3)
    assert (executor.experts_at_once, executor.expert_arithmetic) == ((3, "bf16") if gpus else (1, "float32"))
    assert Torchrun(device="cpu", training="bf16").expert_arithmetic == "float32"
    assert Torchrun().expert_arithmetic == ("tf32" if gpus else "float32")


@pytest.mark.parametrize("executor", [Torchrun(), Ray()], ids=lambda executor: executor.name)
def test_options_that_nobody_set_are_not_written(executor):
    """Broken: every configuration of such a run changes, and with it what resumes are compared by."""
    assert not set(as_table(executor)) & set(OTHER)


@pytest.mark.parametrize("executor", [Torchrun, Ray], ids=lambda cls: cls.name)
@pytest.mark.parametrize("option", ["training", "gradient"])
def test_senseless_arithmetic_is_refused(executor, option):
    """Broken: such an option fails on a worker when the run has begun."""
    with pytest.raises(ValueError, match=option):
        executor(**{option: "fp16"})
