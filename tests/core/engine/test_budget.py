"""How many step graphs are held: the estimate of one against what is really alive, and the memory that is asked for."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from ddfw import GradientSettings, ImageSpec, Segment
from ddfw.contracts.executor import ExecutorContext, Problem, Schedule
from ddfw.engine import budget
from ddfw.engine.budget import (
    AUTO_MEMORY_UNKNOWN,
    LiveBytes,
    StepBudget,
    auto_memory,
    available_memory,
    graph_bytes,
    peak_bytes,
    processor_memory,
    step_budget,
)
from ddfw.engine.inner import Network, StepGraph, build_module
from ddfw.engine.metagradient import meta_gradient
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.alexnet import AlexNet
from ddfw_plugins.models.convnet import ConvNet
from ddfw_plugins.models.mlp import Mlp
from ddfw_plugins.models.resnet18 import ResNet18
from ddfw_plugins.models.vgg11 import Vgg11

CPU = torch.device("cpu")


def make(model, *, side=8, n=9, steps=5, batch=4, dtype=torch.float32):
    """A network, an inner problem of N steps and a segment, as one record."""
    rng = torch.Generator().manual_seed(0)
    spec = ImageSpec(channels=3, height=side, width=side, num_classes=3)
    module = build_module(model, spec)
    network = Network(module)
    start = model.init(module, rng).to(dtype)
    batches = tuple(torch.randperm(n, generator=rng)[:batch] for _ in range(steps))
    draws = tuple(NoAugmentation().draw((batch, *spec.shape), rng) for _ in batches)
    problem = Problem(
        images=torch.randn(n, *spec.shape, generator=rng).to(dtype),
        targets=torch.randn(n, 3, generator=rng).softmax(dim=1).to(dtype),
        step_size=torch.tensor(0.05, dtype=dtype),
        schedules=(Schedule(batches=batches, draws=draws),),
    )
    segment = Segment(start=start, target=start + 0.1, expert=0, start_epoch=0, target_epoch=1)
    rows = batches[0]
    return SimpleNamespace(
        model=model,
        module=module,
        network=network,
        problem=problem,
        segment=segment,
        batch=(problem.images[rows], problem.targets[rows]),
    )


def alive(case):
    """Bytes that one step graph keeps alive, counted from outside."""
    held = []
    with LiveBytes() as count:
        held.append(StepGraph(case.network, case.segment.start, *case.batch))
        gc.collect()
        live = count.live
    assert held
    return live + sum(t.nbytes for t in case.batch)  # which is made for the graph, and kept by it


@pytest.mark.parametrize(
    ("model", "side"),
    [
        (ConvNet(depth=3, width=128), 32),
        (ConvNet(depth=2, width=8), 8),
        (Mlp(width=64), 16),
        (AlexNet(width=8), 32),
        (Vgg11(width=8), 32),
        (ResNet18(width=8), 32),
    ],
    ids=["convnet 3×128", "convnet 2×8", "mlp", "alexnet", "vgg11", "resnet18"],
)
def test_a_graph_is_never_larger_than_its_estimate(model, side):
    """Broken: a run would hold more than the memory that it was given."""
    case = make(model, side=side, n=4, steps=1, batch=3)
    live, one = alive(case), graph_bytes(case.network, case.segment.start, *case.batch)
    assert live <= one <= 1.3 * live + budget.NODES


def test_measuring_a_graph_leaves_nothing_behind():
    """Broken: each session would keep the graph that it measured until the process ends."""
    case = make(ConvNet(width=4, depth=1))

    def there():
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    graph_bytes(case.network, case.segment.start, *case.batch)
    before = there()
    for _ in range(3):
        graph_bytes(case.network, case.segment.start, *case.batch)
    assert there() == before


HOLDER = """
import gc, json, sys
import torch
from ddfw import ImageSpec
from ddfw.engine.budget import graph_bytes
from ddfw.engine.inner import Network, StepGraph, build_module
from ddfw_plugins.models.convnet import ConvNet

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024

torch.set_num_threads(1)
rng = torch.Generator().manual_seed(0)
model, spec = ConvNet(depth=3, width=128), ImageSpec(channels=3, height=32, width=32, num_classes=10)
network = Network(build_module(model, spec))
theta = model.init(network.module, rng)
images, targets = torch.randn(20, 3, 32, 32, generator=rng), torch.full((20, 10), 0.1)
one = graph_bytes(network, theta, images, targets)
# Warm: what the operations keep for themselves is there before the first measurement.
StepGraph(network, theta, images, targets).pull(theta, through_theta=True)
gc.collect()
before, graphs = resident(), []
for _ in range(int(sys.argv[1])):
    graphs.append(StepGraph(network, theta, images, targets))
print(json.dumps({"one": one, "grown": resident() - before}))
"""


@pytest.mark.skipif(budget.processor_memory() is None, reason="the system has no /proc")
def test_a_process_that_holds_graphs_grows_by_no_more_than_their_estimate():
    """Broken: what autograd keeps besides tensors would not be in the estimate, and the system would end the run."""
    held = 4
    code = textwrap.dedent(HOLDER)
    done = subprocess.run([sys.executable, "-c", code, str(held)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 0.4 * held * found["one"] <= found["grown"] <= held * found["one"], found


def test_a_number_of_bytes_is_taken_as_it_is_and_never_holds_more_than_there_are_steps():
    """Broken: a byte budget would hold more graphs than it pays for, or the machine's memory would change it."""
    case = make(ConvNet(depth=2, width=4))
    one = graph_bytes(case.network, case.segment.start, *case.batch)

    def refused(device):
        raise AssertionError("nobody has to look")

    for memory, expected in ((0, 0), (one - 1, 0), (one, 1), (3 * one + 1, 3), (100 * one, 5)):
        found = step_budget(
            GradientSettings(memory=memory), case.problem, case.network, case.segment.start, CPU, refused
        )
        assert (found.held_steps, found.memory_seen) == (expected, None)
        assert found.graph_bytes == (one if memory else None)


@pytest.mark.parametrize(
    ("device", "share"), [("cpu", 0.5), ("cuda", 0.8), ("meta", 0.8)], ids=["processor", "cuda", "another"]
)
def test_auto_holds_as_many_as_fit_a_share_of_what_is_available(device, share):
    """Broken: a run would take all of the memory, or leave half of an accelerator idle."""
    case = make(ConvNet(depth=2, width=4))
    one = graph_bytes(case.network, case.segment.start, *case.batch)
    device = torch.device(device)
    for fitting, expected in ((0.9, 0), (1.1, 1), (3.1, 3), (4.9, 4), (5.1, 5), (1000.0, 5)):
        seen = int(fitting * one / share) + 1
        found = step_budget(
            GradientSettings(), case.problem, case.network, case.segment.start, device, lambda device, seen=seen: seen
        )
        assert found == StepBudget(held_steps=expected, graph_bytes=one, memory_seen=seen)
    unknown = step_budget(
        GradientSettings(), case.problem, case.network, case.segment.start, device, lambda device: None
    )
    assert unknown.held_steps == 5 and unknown.memory_seen is None
    assert auto_memory(device, None) == AUTO_MEMORY_UNKNOWN


def test_with_memory_for_three_graphs_three_are_held_and_the_gradient_is_the_same():
    """Broken: a run on a small machine would learn something else than the same run on a large one."""
    case = make(ConvNet(depth=2, width=4), steps=7, dtype=torch.float64)
    one = graph_bytes(case.network, case.segment.start, *case.batch)
    held = step_budget(
        GradientSettings(), case.problem, case.network, case.segment.start, CPU, lambda device: 2 * 3 * one + 1
    ).held_steps
    assert held == 3

    def gradient(held):
        return meta_gradient(case.network, NoAugmentation(), Ratio(), case.problem, [case.segment], held_steps=held)

    short, full = gradient(held), gradient(7)
    assert (short.held_steps, full.held_steps) == (3, 7)
    for name in ("loss", "images", "targets", "step_size"):
        one_way, other = getattr(short, name), getattr(full, name)
        assert float((one_way - other).norm()) <= 1e-12 * float(other.norm()), name


def context(case, **more):
    return ExecutorContext(
        model=case.model,
        module=case.module,
        augmentation=NoAugmentation(),
        loss=Ratio(),
        gradient=GradientSettings(),
        dtype=torch.float32,
        **more,
    )


def test_a_session_says_what_it_holds_and_what_it_saw():
    """Broken: nobody could tell from a manifest why a run on another machine was slower."""
    case = make(ConvNet(depth=2, width=4))
    with Cpu(threads=1).open(context(case)) as session:
        keys = ("held_steps", "graph_bytes", "memory_seen")
        assert [session.describe()[k] for k in keys] == [None, None, None]
        assert session.meta_gradient(case.problem, [case.segment]).held_steps == 5
        said = session.describe()
        assert said["held_steps"] == 5
        assert said["graph_bytes"] == graph_bytes(case.network, case.segment.start, *case.batch)
        assert said["memory_seen"] is None or said["memory_seen"] > 10 * said["graph_bytes"]
        json.dumps(said)


def test_a_run_that_goes_on_holds_what_it_held_before_whatever_there_is_now(monkeypatch):
    """Broken: the second half of an interrupted run would have other last bits than the first."""
    case = make(ConvNet(depth=2, width=4))

    def refused(*arguments):
        raise AssertionError("nothing has to be measured")

    monkeypatch.setattr(budget, "graph_bytes", refused)
    monkeypatch.setattr(budget, "available_memory", refused)
    with Cpu(threads=1).open(context(case, held_steps=2)) as session:
        assert session.meta_gradient(case.problem, [case.segment]).held_steps == 2
        assert session.describe()["held_steps"] == 2


def system(root, *, available=None, groups="", **files):
    """A made-up /proc and /sys below a folder; keyword `a__b` is the file a/b of the control groups."""
    (root / "proc/self").mkdir(parents=True)
    if available is not None:
        (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("memory_", "memory.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return processor_memory(root)


def test_without_a_limit_the_systems_available_memory_counts(tmp_path):
    """Broken: `auto` would look at something else than the memory that programs can get."""
    assert system(tmp_path / "a", available=2048) == 2048 * 1024
    assert system(tmp_path / "b", available=2048, groups="0::/job\n", job__memory_max="max\n") == 2048 * 1024
    no_limit = {"memory__memory_limit_in_bytes": "9223372036854771712\n", "memory__memory_usage_in_bytes": "5\n"}
    assert system(tmp_path / "c", available=2048, groups="4:memory:/\n", **no_limit) == 2048 * 1024


def test_a_control_groups_limit_counts_where_it_is_smaller(tmp_path):
    """Broken: a run in a container or a batch job would be ended by the system for what the host has."""
    own = {"job__memory_max": "1000\n", "job__memory_current": "400\n"}
    assert system(tmp_path / "v2", available=2048, groups="0::/job\n", **own) == 600
    # Cached files are dropped when memory is wanted.
    cached = {**own, "job__memory_stat": "anon 100\ninactive_file 250\n"}
    assert system(tmp_path / "cache", available=2048, groups="0::/job\n", **cached) == 850
    # An outer group's limit holds, too; inside a container the host's path is not there.
    outer = {"a__memory_max": "500\n", "a__memory_current": "100\n", "a__b__memory_max": "max\n"}
    assert system(tmp_path / "outer", available=2048, groups="0::/a/b\n", **outer) == 400
    inside = {"memory_max": "300\n", "memory_current": "100\n"}
    assert system(tmp_path / "inside", available=2048, groups="0::/host/path\n", **inside) == 200
    old = {"memory__job__memory_limit_in_bytes": "900\n", "memory__job__memory_usage_in_bytes": "100\n"}
    assert system(tmp_path / "v1", available=2048, groups="5:cpu:/\n4:memory:/job\n", **old) == 800
    over = {"job__memory_max": "100\n", "job__memory_current": "400\n"}
    assert system(tmp_path / "over", available=2048, groups="0::/job\n", **over) == 0


def test_where_nobody_can_say_nothing_is_made_up(tmp_path):
    """Broken: a system without /proc would stop a run, or be given a number that means nothing."""
    assert processor_memory(tmp_path) is None
    assert system(tmp_path / "odd", groups="nonsense\n0::/x\n", x__memory_max="much\n") is None
    assert available_memory(torch.device("meta")) is None


def test_cuda_memory_is_what_is_free_and_what_the_allocator_has_spare(monkeypatch):
    """Broken: memory that PyTorch keeps for itself counts as taken, or that of captured graphs as free."""

    def segment(total, active, device=0, pool=(0, 0)):
        return {"device": device, "segment_pool_id": pool, "total_size": total, "active_size": active}

    segments = [segment(500, 300), segment(200, 0), segment(5000, 100, pool=(0, 3)), segment(300, 0, device=1)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert available_memory(torch.device("cuda")) == available_memory(torch.device("cuda:0")) == 1400
    assert available_memory(torch.device("cuda:1")) == 1300


def test_the_peak_counts_what_is_alive_together():
    """Broken: predicted memory would be the sum of all tensors ever made, or miss what is dropped early."""

    def work():
        first = torch.zeros(1000)
        second = first + 1  # two alive
        del first
        return second.sum()

    assert 8000 <= peak_bytes(work) <= 8000 + 64
    there = torch.zeros(1000)
    assert peak_bytes(lambda: there.view(10, 100).detach()) == 0  # was there before
