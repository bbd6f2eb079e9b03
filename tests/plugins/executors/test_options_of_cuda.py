"""The options of `cuda` that executors of several processes take too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from attrs import fields

from ddfw import ImageSpec, LabelledImages, TrainingSettings
from ddfw.config.catalog import as_table
from ddfw.contracts.executor import ExecutorContext
from ddfw.contracts.settings import GradientSettings
from ddfw.engine.inner import build_module
from ddfw.remote.tasks import pack_job
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.executors.cuda import Cuda
from ddfw_plugins.executors.ray import Ray, RaySession
from ddfw_plugins.executors.torchrun import Torchrun
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.mlp import Mlp

OTHER = {
    "compile": False,
    "graphs": False,
    "training": "bf16",
    "gradient": "tf32",
    "deterministic": True,
    "channels_last": False,
    "together": 4,
}
SPEC = ImageSpec(channels=1, height=4, width=4, num_classes=3)
SETTINGS = TrainingSettings(epochs=2, lr=0.1, momentum=0.5, weight_decay=0.0, batch_size=6)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


def context_of():
    model = Mlp()
    return ExecutorContext(
        model=model,
        module=build_module(model, SPEC),
        augmentation=NoAugmentation(),
        loss=Ratio(),
        gradient=GradientSettings(),
        dtype=torch.float32,
    )


def data(n=14, seed=0):
    images = torch.randn(n, *SPEC.shape, generator=torch.Generator().manual_seed(seed))
    return LabelledImages(images=images, targets=torch.arange(n) % 3)


@pytest.mark.parametrize("executor", [Torchrun, Ray], ids=lambda cls: cls.name)
def test_every_option_of_cuda_can_be_set_and_has_its_default(executor):
    """Broken: a run on several GPUs is bound to defaults, or has others than a run on one."""
    here = {field.name: field for field in fields(executor)}
    wanted = {f.name for f in fields(Cuda)}
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
    assert Torchrun(**OTHER)._inner(GPU) == Cuda(device="cuda:1", **OTHER)
    assert Torchrun(**{**OTHER, "compile": True}, threads=2)._inner(CPU) == Cpu(threads=2, workers=1, compile=True)


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


class Here:
    """In place of a cluster: runs tasks in this process, the last one first."""

    def __init__(self):
        self.titles, self.ray = [], SimpleNamespace(put=lambda tensor: tensor)

    def run(self, jobs, look=lambda: None):
        self.titles += [job.title for job in jobs]
        for position in reversed(range(len(jobs))):
            outcome = jobs[position].function(*jobs[position].arguments)
            assert outcome["error"] is None
            yield position, outcome["value"]


@pytest.mark.parametrize(("options", "sizes"), [({"gpus": 1, "together": 2}, (2, 2, 1)), ({"together": 2}, (1,) * 5)])
def test_a_task_on_a_gpu_trains_several_networks(monkeypatch, options, sizes):
    """Broken: the option does nothing, or experts and accuracies change places."""
    context = context_of()
    job = pack_job(context, Cpu(threads=1, workers=1), 1)
    with Cpu(threads=1, workers=1).open(context) as here:
        cluster = Here()
        session = RaySession(Ray(**options), context, job, here, cluster)
        monkeypatch.setattr(RaySession, "_listener", lambda self: Heard())
        monkeypatch.setattr(
            RaySession, "_data", lambda self, *parts: [t.numpy() for d in parts for t in (d.images, d.targets)]
        )
        seeds, epochs, done = [3, 1, 4, 0, 5], [], []
        found = {
            e.seed: e for e in session.train_experts(SETTINGS, data(), data(9, 1), seeds, lambda *at: epochs.append(at))
        }
        judged = session.evaluate_classes(SETTINGS, data(), data(9, 1), 7, range(2, 7), "eval", done.append)
        wanted = list(here.train_experts(SETTINGS, data(), data(9, 1), seeds, lambda *at: None))
        alone = here.evaluate_classes(SETTINGS, data(), data(9, 1), 7, range(2, 7), "eval", lambda n: None)
    assert sorted(found) == sorted(seeds) and len(epochs) == 5 * SETTINGS.epochs and done == [1, 2, 3, 4, 5]
    assert all(torch.equal(found[expert.seed].snapshots, expert.snapshots) for expert in wanted)
    assert judged.accuracies == alone.accuracies and torch.equal(judged.predicted, alone.predicted)
    counts = [title.count(",") + 1 for title in cluster.titles]
    assert tuple(counts) == sizes * 2
    assert cluster.titles[0] == ("experts of seeds 3, 1" if sizes[0] == 2 else "expert of seed 3")


class Heard:
    """In place of the actor that collects progress."""

    def __init__(self):
        self.note = SimpleNamespace(remote=lambda key, epoch: None)


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
