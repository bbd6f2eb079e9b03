"""The executor `cuda` on a GPU: its numbers, captures, repeatability, memory and waits.

Everything is compared with the CPU or with a run that does without the feature. In float64 both agree to 1e-10; in
float32 one ReLU that lies on the other side of zero moves a whole meta-gradient by some 1e-3.
"""

from __future__ import annotations

import gc
import hashlib
from functools import partial

import pytest
import torch
from attrs import evolve, fields_dict

from ddfw import LabelledImages, TrainingSettings, distill
from ddfw.cli.main import invoke
from ddfw.engine.inner import EagerSteps, Network
from ddfw.engine.metagradient import meta_gradient
from ddfw.testing import check_executor
from ddfw_plugins.augmentations.dsa import FAMILIES, Siamese
from ddfw_plugins.commands.bench.shapes import BENCH_SHAPES
from ddfw_plugins.commands.bench.work import bench_work
from ddfw_plugins.executors.compiled import CompiledSteps
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.executors.cuda import Cuda
from ddfw_plugins.executors.graphed import GraphedSteps

pytestmark = pytest.mark.gpu

GPU, CPU = torch.device("cuda"), torch.device("cpu")
PLAIN = Cuda(compile=False, graphs=False, training="float32", channels_last=False)
DIGITS = BENCH_SHAPES["digits"]
CIFAR = evolve(BENCH_SHAPES["cifar-ipc1"], steps=4)
#: What cuBLAS keeps as its own memory once a few streams have used it, in bytes.
WORKSPACES = 2**28
TINY = {
    "experts.count": 2,
    "experts.epochs": 3,
    "outer.steps": 4,
    "outer.syn_steps": 4,
    "eval.networks": 2,
    "eval.epochs": 3,
    "eval.full_epochs": 1,
    "eval.every": 4,
    "eval.baseline_lrs": [0.01],
    "window.max_start": 1,
    "window.start": 1,
    "observers": {},
}


def has(name):
    """Whether the executor has an option of this name."""
    return name in fields_dict(Cuda)


def apart(found, wanted):
    """The norm of the difference over the norm of what is wanted."""
    reference = wanted.double().cpu()
    return float((found.double().cpu() - reference).norm() / reference.norm())


def gradient(executor, shape, device, dtype):
    """The meta-gradient of a shape's work."""
    made = bench_work(shape, dtype, device=device)
    with executor.open(made.context) as session:
        return session.meta_gradient(made.problem, [made.segment])


def network_and_call(shape=DIGITS, dtype=torch.float64):
    """A student on the GPU, and its meta-gradient as a function of the steps to use."""
    made = bench_work(shape, dtype, device=GPU)
    context = made.context
    network = Network(context.module.to(GPU))
    call = partial(meta_gradient, network, context.augmentation, context.loss, made.problem, [made.segment])
    return network, lambda steps=None: call(steps=steps).images


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"graphs": True},
        {"together": 3},
        {"together": 3, "channels_last": True},
        {"training": "bf16"},
        pytest.param({"compile": True, "graphs": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_contract_is_kept(options):
    """Broken: experts, meta-gradients or evaluated networks differ from the CPU's in float64."""
    check_executor(evolve(PLAIN, **options))


@pytest.mark.parametrize("shape", [DIGITS, CIFAR], ids=lambda shape: shape.name)
@pytest.mark.parametrize("graphs", [False, True])
def test_meta_gradients_are_those_of_the_cpu(shape, graphs):
    """Broken: a kernel, a layout or a replay gives other gradients than the CPU, in float64 to 1e-10."""
    found = gradient(evolve(PLAIN, graphs=graphs), shape, GPU, torch.float64)
    wanted = gradient(Cpu(), shape, CPU, torch.float64)
    for name in ("loss", "images", "step_size"):
        assert apart(getattr(found, name), getattr(wanted, name)) <= 1e-10, name


@pytest.mark.parametrize(("name", "bound"), [("float32", 5e-3), ("tf32", 5e-2), ("bf16", 5e-1)])
def test_each_arithmetic_is_as_exact_as_its_digits(name, bound):
    """Broken: an arithmetic loses more than its mantissa explains, or full float32 is computed in TF32."""
    if name != "float32" and not has("gradient"):
        pytest.skip("this version has no option executor.gradient")
    chosen = {"gradient": name} if has("gradient") else {}
    found = gradient(evolve(PLAIN, **chosen), CIFAR, GPU, torch.float32)
    wanted = gradient(Cpu(), CIFAR, CPU, torch.float32)
    assert apart(found.images, wanted.images) <= bound


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_augmentations_are_those_of_the_cpu(family, last):
    """Broken: a family of DSA samples, crops or shifts otherwise on a GPU, or refuses a layout."""
    dsa, rng = Siamese(families=(family,)), torch.Generator().manual_seed(0)
    images, cotangent = (torch.randn(20, 3, 32, 32, generator=rng, dtype=torch.float64) for _ in range(2))
    draws = dsa.draw(tuple(images.shape), rng)

    def both(device):
        layout = torch.channels_last if last else torch.contiguous_format
        given = images.to(device).contiguous(memory_format=layout).requires_grad_()
        made = dsa.apply(given, draws.to(device))
        return made, *torch.autograd.grad(made, given, cotangent.to(device))

    for found, wanted in zip(both(GPU), both(CPU), strict=True):
        assert apart(found, wanted) <= 1e-10


# Captures and compiled steps -----------------------------------------------------------------------------------------


def test_steps_are_captured_and_replayed():
    """Broken: nothing is captured, or a replay gives the numbers of an earlier step."""
    network, call = network_and_call()
    said = []
    steps = GraphedSteps(EagerSteps(network), say=said.append)
    first, again = call(steps), call(steps)
    assert steps.captured and said == []
    assert torch.equal(first, again)
    assert apart(first, call()) <= 1e-10


def test_a_capture_that_fails_leaves_the_stream_and_the_next_capture_works():
    """Broken: the process stays on the stream of the capture, gives other numbers, or can never capture again."""
    network, call = network_and_call()

    class Waiting(EagerSteps):
        def gradient(self, theta, images, targets):
            found = super().gradient(theta, images, targets)
            float(found.sum())
            return found

    before, wanted, said = torch.cuda.current_stream(), call(), []
    steps = GraphedSteps(Waiting(network), say=said.append)
    assert apart(call(steps), wanted) <= 1e-10
    assert not steps.captured and len(said) == 1 and "\n" not in said[0]
    assert torch.cuda.current_stream() == before
    after = GraphedSteps(EagerSteps(network), say=said.append)
    assert apart(call(after), wanted) <= 1e-10
    assert after.captured


def test_memory_that_runs_out_in_a_capture_is_told_as_such():
    """Broken: a full GPU is called a capture that failed, so that a run goes on at half the speed or dies later."""
    network, call = network_and_call()

    class Greedy(EagerSteps):
        def gradient(self, theta, images, targets):
            if torch.cuda.is_current_stream_capturing():
                torch.empty(2**50, dtype=torch.uint8, device=GPU)
            return super().gradient(theta, images, targets)

    before = torch.cuda.current_stream()
    with pytest.raises(torch.OutOfMemoryError):
        call(GraphedSteps(Greedy(network), say=pytest.fail))
    assert torch.cuda.current_stream() == before
    assert bool(call().isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("graphs", [False, True])
def test_steps_are_compiled(graphs):
    """Broken: compiling fails on every GPU, and one line that nobody reads says so."""
    network, call = network_and_call(evolve(CIFAR, steps=2), torch.float32)
    said = []
    compiled = CompiledSteps(network, say=said.append)
    found = call(GraphedSteps(compiled, say=said.append) if graphs else compiled)
    assert said == [] and compiled.compiled
    assert apart(found, call()) <= 5e-3


# Repeatability -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("param", ["pixel", "lss"])
def test_a_deterministic_run_has_the_same_bytes_twice(tmp_path, param):
    """Broken: the option promises what an atomic addition takes back."""
    if not has("deterministic"):
        pytest.skip("this version has no option executor.deterministic")
    hashes = []
    for number in range(2):
        folder = tmp_path / str(number)
        executor = Cuda(compile=False, deterministic=True)
        places = {"out": folder / "run", "experts_dir": folder / "experts"}
        distill(**places, data="digits", param=param, executor=executor, settings=TINY)
        files = sorted(path for path in folder.rglob("*.safetensors") if "checkpoints" not in path.parts)
        hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert len(hashes[0]) >= 4 and hashes[0] == hashes[1]


# Experts, evaluations, whole runs ------------------------------------------------------------------------------------


def random_images(number, dtype=torch.float64):
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(number, DIGITS.channels, DIGITS.side, DIGITS.side, generator=rng, dtype=dtype)
    return LabelledImages(images=images.to(GPU), targets=(torch.arange(number) % DIGITS.num_classes).to(GPU))


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_networks_trained_together_are_those_trained_alone(last):
    """Broken: an expert or an evaluated network depends on which others are trained with it."""
    settings = TrainingSettings(epochs=3, lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=16)
    train, test = random_images(50), random_images(40)
    context = bench_work(DIGITS, torch.float64).context
    snapshots, accuracies = [], []
    for together in (1, 4):
        with evolve(PLAIN, together=together, channels_last=last).open(context) as session:
            experts = session.train_experts(settings, train, test, [3, 1, 4, 5], lambda *at: None)
            snapshots.append(torch.stack([e.snapshots for e in sorted(experts, key=lambda e: e.seed)]))
            accuracies.append(session.evaluate(settings, train, test, 0, range(4), "eval", lambda done: None))
    assert apart(*snapshots) <= 1e-8
    assert accuracies[0] == accuracies[1]


def test_a_whole_run_with_labels_from_experts_ends(tmp_path):
    """Broken: something of a run, such as the experts' logits for soft labels, mixes the GPU with the CPU."""
    places = {"out": tmp_path / "run", "experts_dir": tmp_path / "experts"}
    executor = evolve(PLAIN, graphs=True, together=2)
    done = distill(**places, data="digits", param="lss", labels="soft", executor=executor, settings=TINY)
    assert done.load().images.isfinite().all()


def test_the_benchmark_runs_on_a_gpu(capsys):
    """Broken: the plain loop that ddfw is compared with cannot compute on a GPU."""
    assert invoke(["bench", "--executor", "cuda", "--only", "expert", "--only", "augment", "--pairs", "1", "-q"]) == 0
    assert "expert epoch" in capsys.readouterr().out


# Memory and waits ----------------------------------------------------------------------------------------------------


def test_a_closed_session_gives_its_memory_back():
    """Broken: captured graphs or data outlive their session, so that the next one of a sweep finds the GPU full."""
    large = evolve(CIFAR, images=200, steps=2)  # its graphs take about 0.6 GB

    def kept():
        gradient(evolve(PLAIN, graphs=True), large, GPU, torch.float32)
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    first = kept()
    assert first <= WORKSPACES
    assert max(kept() for _ in range(3)) <= first + WORKSPACES


def test_no_step_waits_for_the_gpu():
    """Broken: something in a meta-gradient reads a number from the GPU, and every step costs a round trip."""
    made = bench_work(DIGITS, device=GPU)
    with evolve(PLAIN, graphs=True).open(made.context) as session:
        call = partial(session.meta_gradient, made.problem, [made.segment])
        call()  # measures memory and captures
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
