"""`cuda`, as far as a processor allows: refusals, settings, fallbacks, devices and synchronisation.

Sessions are made on the CPU. Where tensors are is checked on the stand-in for an accelerator of the conformance checks,
which refuses to mix them with the CPU's.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddfw import ImageSpec, OptionError
from ddfw.contracts.executor import ExecutorContext, LabelledImages, Problem, Schedule
from ddfw.contracts.settings import GradientSettings, TrainingSettings
from ddfw.contracts.trajectory import Segment
from ddfw.engine import norms
from ddfw.engine.inner import EagerSteps, Network, build_module
from ddfw.engine.metagradient import meta_gradient
from ddfw.testing import check_executor
from ddfw.testing._devices import _stand_in
from ddfw_plugins.augmentations.dsa import FAMILIES, Siamese
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.executors import compiled, cuda
from ddfw_plugins.executors._gpu import require_gpu
from ddfw_plugins.executors.arithmetic import arithmetic
from ddfw_plugins.executors.compiled import CompiledSteps
from ddfw_plugins.executors.cpu import CpuSession
from ddfw_plugins.executors.cuda import Cuda, CudaSession, HalfNetwork
from ddfw_plugins.executors.ensemble import train_many
from ddfw_plugins.losses.masked import Masked
from ddfw_plugins.losses.nearest import NearestStep
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.convnet import ConvNet

CPU = torch.device("cpu")
SPEC = ImageSpec(channels=3, height=8, width=8, num_classes=3)
MODEL = ConvNet(depth=2, width=4)
SETTINGS = TrainingSettings(epochs=3, lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=6)
NAMES = ("loss", "images", "targets", "step_size")
PLAIN = Cuda(compile=False, graphs=False, training="float32", channels_last=False)


def context_of(**changes):
    base = ExecutorContext(
        model=MODEL,
        module=build_module(MODEL, SPEC),
        augmentation=Siamese(),
        loss=Ratio(),
        gradient=GradientSettings(),
        dtype=torch.float64,
        held_steps=1,
    )
    return evolve(base, **changes)


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Small maps, which would be normalised PyTorch's way, go the way of those of real networks."""
    monkeypatch.setattr(norms, "SMALLEST", 1)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(n=14, seed=0, dtype=torch.float64):
    return LabelledImages(images=normal(n, *SPEC.shape, seed=seed).to(dtype), targets=torch.arange(n) % 3)


def small_problem(steps=6, families=FAMILIES, device=CPU):
    """One segment whose steps take one family of the augmentation after another, on a device."""
    rng = torch.Generator().manual_seed(5)
    batches = [torch.randperm(6, generator=rng)[:4] for _ in range(steps)]
    draws = [Siamese(families=(families[i % len(families)],)).draw((4, *SPEC.shape), rng) for i in range(steps)]
    start = MODEL.init(build_module(MODEL, SPEC), rng).double()
    target = start + 0.1 * normal(len(start), seed=3)
    problem = Problem(
        images=normal(6, *SPEC.shape, seed=1).to(device),
        targets=normal(6, 3, seed=2).softmax(dim=1).to(device),
        step_size=torch.tensor(0.1, dtype=torch.float64).to(device),
        schedules=(Schedule(batches=tuple(b.to(device) for b in batches), draws=tuple(d.to(device) for d in draws)),),
    )
    return problem, [Segment(start=start.to(device), target=target.to(device), expert=0, start_epoch=0, target_epoch=1)]


def apart(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apple", [False, True])
def test_without_a_gpu_one_line_says_so_and_what_to_take(monkeypatch, apple):
    """Broken: PyTorch's own error, or advice that fits another machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    with pytest.raises(OptionError) as caught, Cuda().open(context_of()):
        pytest.fail("opened")
    text = str(caught.value)
    assert "\n" not in text and "--executor cpu" in text
    assert ("Apple" in text) == apple and ("no NVIDIA GPU" in text) == (not apple)


@pytest.mark.parametrize(
    ("count", "device", "words"),
    [(1, "cuda:1", "there is 1 GPU"), (2, "cuda:2", "there are 2 GPUs"), (8, "cuda:999", "there are 8 GPUs")],
)
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, count, device, words):
    """Broken: a wrong number fails deep inside PyTorch, or takes another GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, 0))
    with pytest.raises(OptionError, match=words) as caught, Cuda(device=device).open(context_of()):
        pytest.fail("opened")
    assert device in str(caught.value) and "\n" not in str(caught.value)
    for there in ("cuda", "cuda:0", f"cuda:{count - 1}"):
        require_gpu(there)


@pytest.mark.parametrize("device", ["cpu", "cuda:", "cuda:-1", "cuda:x", "gpu", "cuda:01", "cuda:1 "])
def test_a_device_that_is_no_gpu_is_refused(device):
    """Broken: a wrong name is taken, or fails when the run has begun."""
    with pytest.raises(ValueError, match="device"):
        Cuda(device=device)


@pytest.mark.parametrize("options", [{"together": 0}, {"training": "fp16"}, {"gradient": "fp16"}])
def test_senseless_options_are_refused(options):
    """Broken: such options fail when the run has begun."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Cuda(**options)


# Arithmetic ----------------------------------------------------------------------------------------------------------


def precisions():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


def test_precision_settings_are_put_back():
    """Broken: a session changes the arithmetic of what runs after it."""
    before = precisions()
    with arithmetic("ieee"):
        assert precisions() == ("ieee", "ieee")
        with arithmetic("tf32"):
            assert precisions() == ("tf32", "tf32")
        assert precisions() == ("ieee", "ieee")
        with pytest.raises(ZeroDivisionError), arithmetic("tf32"):
            raise ZeroDivisionError
        assert precisions() == ("ieee", "ieee")
    assert precisions() == before


@pytest.mark.parametrize("wanted", [False, True])
def test_a_session_repeats_only_if_it_is_asked_to(pretended, wanted):
    """Broken: the option does not reach the work."""
    with evolve(PLAIN, deterministic=wanted).open(context_of()) as session:
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert "CUBLAS_WORKSPACE_CONFIG" in os.environ
        assert session.describe()["deterministic"] == wanted
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def pretended(monkeypatch):
    """`Cuda(…).open(…)` opens its session on the CPU."""
    monkeypatch.setattr(cuda, "require_gpu", lambda device: None)
    monkeypatch.setattr(cuda, "CudaSession", lambda context, options, device: CudaSession(context, options, CPU))
    found = SimpleNamespace(name="Pretended", total_memory=2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)


@pytest.mark.parametrize("training", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_has_its_arithmetic_and_meta_gradients_are_exact(pretended, monkeypatch, dtype, training):
    """Broken: meta-gradients lose digits to TF32 or bfloat16, or training does not get what was asked for."""
    seen = {}

    def note(what):
        seen.setdefault(what, set()).add((*precisions(), torch.is_autocast_enabled("cpu")))

    real = Siamese.apply
    before = precisions()
    where = "training"
    monkeypatch.setattr(Siamese, "apply", lambda self, *a: note(where) or real(self, *a))
    context = context_of(dtype=dtype)
    judge = data(9, 1, dtype)
    with evolve(PLAIN, training=training).open(context) as session:
        (expert,) = session.train_experts(SETTINGS, data(dtype=dtype), judge, [0], lambda *at: note("between"))
        session.evaluate(SETTINGS, data(dtype=dtype), judge, 0, range(1), "eval", lambda done: None)
        where = "gradient"
        problem, segments = small_problem()
        session.meta_gradient(problem, segments)
        note("session")
        described = session.describe()
    lower = dtype == torch.float32
    tf32 = ("tf32", "tf32", False) if lower and training == "tf32" else ("ieee", "ieee", lower and training == "bf16")
    assert seen["training"] == {tf32}
    assert seen["gradient"] == seen["session"] == {("ieee", "ieee", False)}
    assert precisions() == before
    assert expert.snapshots.dtype == dtype
    assert described["training"] == (training if lower else "float64")


@pytest.mark.parametrize("gradient", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("held", [0, 2])
def test_the_student_has_its_arithmetic_and_sums_stay_exact(pretended, monkeypatch, dtype, gradient, held):
    """Broken: the option does nothing, lowers float64 runs or training, or rounds θ, losses and sums."""
    inside, seen = [], set()
    context = context_of(dtype=dtype, held_steps=held)
    real_loss, real_apply = Ratio.loss, Siamese.apply

    def loss(self, path, segment):
        seen.add(("loss", torch.is_autocast_enabled("cpu"), path[-1].dtype))
        return real_loss(self, path, segment)

    def apply(self, images, draws):
        seen.add(("images", torch.is_autocast_enabled("cpu"), images.dtype))
        return real_apply(self, images, draws)

    monkeypatch.setattr(Ratio, "loss", loss)
    monkeypatch.setattr(Siamese, "apply", apply)
    problem, segments = small_problem()
    problem = evolve(problem, **{n: getattr(problem, n).to(dtype) for n in ("images", "targets", "step_size")})
    segments = [evolve(s, start=s.start.to(dtype), target=s.target.to(dtype)) for s in segments]
    with evolve(PLAIN, gradient=gradient).open(context) as session:
        for layer in session._network.module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda layer, x, y: inside.append((*precisions(), y.dtype)))
        found = session.meta_gradient(problem, segments)
        described = session.describe()
        between = precisions()
    lower = dtype == torch.float32
    precision = "tf32" if lower and gradient == "tf32" else "ieee"
    maps = torch.bfloat16 if lower and gradient == "bf16" else dtype
    assert set(inside) == {(precision, precision, maps)}
    assert seen == {("loss", False, dtype), ("images", False, dtype)}
    assert between == ("ieee", "ieee")
    assert all(getattr(found, n).dtype == dtype for n in NAMES)
    assert described["gradient"] == (gradient if lower else "float64")
    wanted = CpuSession(context).meta_gradient(problem, segments)
    # Bfloat16 has 8 bits; on a CPU the other two are the same.
    least, most = (1e-4, 0.2) if maps == torch.bfloat16 else (-1, 1e-6)
    assert least < apart(found.images, wanted.images) < most


@pytest.mark.slow
def test_a_student_in_bfloat16_compiles_whole():
    """Broken: on a GPU the fastest arithmetic would run operation by operation."""
    small = ConvNet(depth=1, width=2)
    network = HalfNetwork(build_module(small, SPEC))
    theta = small.init(network.module, torch.Generator().manual_seed(0))
    images, targets = normal(2, *SPEC.shape).float(), torch.eye(3)[:2]
    said = []
    steps = CompiledSteps(network, say=said.append)
    found = steps.pull(theta, images, targets, theta.cos(), through_theta=True)
    if said and any(word in said[0] for word in ("compiler", "InvalidCxxCompiler")):
        pytest.skip("torch.compile needs a C++ compiler")
    assert said == [] and steps.compiled
    wanted, exact = (
        EagerSteps(kind(network.module)).pull(theta, images, targets, theta.cos(), through_theta=True)
        for kind in (HalfNetwork, Network)
    )
    assert found.theta.dtype == torch.float32
    assert apart(found.theta, exact.theta) <= 0.1
    assert apart(wanted.theta, exact.theta) > 1e-4


def test_settings_are_put_back_where_training_fails(pretended):
    """Broken: an error in training leaves the session, or the process, with TF32."""
    before = precisions()
    with Cuda(compile=False, graphs=False).open(context_of(dtype=torch.float32)) as session:

        def interrupted(*at):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(session.train_experts(SETTINGS, *[data(dtype=torch.float32)] * 2, [0], interrupted))
        assert precisions() == ("ieee", "ieee")
    assert precisions() == before


# Sessions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"together": 3}, {"channels_last": True, "training": "tf32"}, {"together": 2, "channels_last": True}],
    ids=str,
)
def test_sessions_keep_the_contract(pretended, options):
    """Broken: an option changes experts, meta-gradients, judged networks or the global state."""
    check_executor(evolve(PLAIN, **options))


@pytest.mark.parametrize("compile", [False, True])
def test_a_session_without_graphs_or_compiler_goes_on(pretended, monkeypatch, caplog, compile):
    """Broken: where capturing fails a run ends, gives other numbers, or is silent."""
    monkeypatch.setattr(compiled, "_compile", lambda function: function)
    context = context_of(held_steps=None)
    problem, segments = small_problem()
    with evolve(PLAIN, graphs=True, compile=compile).open(context) as session:
        before = session.describe()
        for _ in range(2):
            found = session.meta_gradient(problem, segments)
        after = session.describe()
    wanted = CpuSession(context_of(held_steps=0)).meta_gradient(problem, segments)
    assert all(apart(getattr(found, n), getattr(wanted, n)) <= 1e-10 for n in NAMES)
    assert (before["graphs"], after["graphs"]) == (True, False)
    assert before["compiled"] is after["compiled"] is compile
    assert found.held_steps == 0
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0] and "CUDA graph" in caplog.messages[0]


def test_numbers_are_those_of_the_cpu_executor():
    """Broken: an option of this executor changes results where it must not."""
    context = context_of()
    problem, segments = small_problem()
    sessions = [CpuSession(context), CudaSession(context, PLAIN, CPU)]
    wanted, found = (
        [
            *(getattr(s.meta_gradient(problem, segments), n) for n in NAMES),
            *(e.snapshots for e in s.train_experts(SETTINGS, data(), data(9, 1), (3, 1), lambda *at: None)),
            torch.tensor(s.evaluate(SETTINGS, data(), data(9, 1), 0, range(3), "eval", lambda done: None)),
        ]
        for s in sessions
    )
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_contexts_module_stays_where_it_is():
    """Broken: the session moves the module of the run, which others use on the CPU."""
    context = context_of()
    session = CudaSession(context, PLAIN, CPU)
    assert session._network.module is not context.module
    assert session.device == CPU


def test_what_a_session_says_of_itself(pretended):
    """Broken: the manifest lacks what numbers depend on, or cannot be written."""
    with evolve(PLAIN, together=4).open(context_of(held_steps=None)) as session:
        found = session.describe()
    assert json.loads(json.dumps(found)) == found
    assert found["type"] == "cuda" and (found["gpu"], found["gpu_bytes"]) == ("Pretended", 2**30)
    assert (found["together"], found["compiled"], found["graphs"], found["held_steps"]) == (4, False, False, None)


class Layouts:
    """Notes how the images of each convolution lie."""

    def __init__(self, network):
        self.seen = []
        for layer in network.module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(self)
                break

    def __call__(self, layer, inputs):
        (images,) = inputs
        self.seen.append(images.is_contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("augmentation", [NoAugmentation(), Siamese()], ids=lambda a: a.name)
@pytest.mark.parametrize("together", [1, 2])
def test_images_may_lie_channels_last(augmentation, together):
    """Broken: another layout of the images gives other networks than rounding explains."""
    accuracies, snapshots = [], []
    for last in (False, True):
        context = context_of(augmentation=augmentation)
        session = CudaSession(context, evolve(PLAIN, channels_last=last, together=together), CPU)
        train, judge = data(), data(60, 1)
        before = train.images.stride()
        snapshots.append(
            torch.stack([e.snapshots for e in session.train_experts(SETTINGS, train, judge, (0, 1), lambda *at: None)])
        )
        accuracies.append(session.evaluate(SETTINGS, train, judge, 0, range(2), "eval", lambda done: None))
        assert train.images.stride() == before
    assert apart(*snapshots) <= 1e-10
    assert accuracies[0] == accuracies[1]


def test_batches_of_images_that_lie_channels_last_do_so_too():
    """Broken: the option costs a copy of the data and does nothing."""
    context = context_of(augmentation=NoAugmentation())
    session = CudaSession(context, evolve(PLAIN, channels_last=True), CPU)
    layouts = Layouts(session._network)
    session.evaluate(SETTINGS, data(), data(9, 1), 0, range(1), "eval", lambda done: None)
    assert layouts.seen and all(layouts.seen)


@pytest.mark.parametrize("together", [1, 2])
def test_training_in_bfloat16_is_finite_and_keeps_parameters_in_float32(together):
    """Broken: mixed types end training, or parameters are rounded to eight bits at each step."""
    context = context_of(dtype=torch.float32)
    train, judge = data(dtype=torch.float32), data(30, 1, torch.float32)
    ends = {}
    for training in ("float32", "bf16"):
        session = CudaSession(context, evolve(PLAIN, training=training, together=together), CPU)
        experts = list(session.train_experts(SETTINGS, train, judge, (0, 1), lambda *at: None))
        assert len(session.evaluate(SETTINGS, train, judge, 0, range(2), "eval", lambda done: None)) == 2
        ends[training] = torch.stack([e.snapshots[-1] for e in experts])
    assert ends["bf16"].dtype == torch.float32 and bool(ends["bf16"].isfinite().all())
    assert 1e-6 < apart(ends["bf16"], ends["float32"]) < 0.2


@pytest.mark.slow
def test_a_session_compiles_in_exact_arithmetic(pretended):
    """Broken: a compiler trips over the precision settings of the session, so that nothing is compiled on any GPU."""
    small = ConvNet(depth=1, width=2, norm="none")
    network = Network(build_module(small, SPEC))
    theta = small.init(network.module, torch.Generator().manual_seed(0))
    images, targets = normal(2, *SPEC.shape).float(), torch.eye(3)[:2]
    said = []
    with arithmetic("ieee"):
        steps = CompiledSteps(network, say=said.append)
        found = steps.gradient(theta, images, targets)
    if said and any(word in said[0] for word in ("compiler", "InvalidCxxCompiler")):
        pytest.skip("torch.compile needs a C++ compiler")
    assert said == [] and steps.compiled
    assert apart(found, EagerSteps(network).gradient(theta, images, targets)) <= 1e-5


# Devices and synchronisation -----------------------------------------------------------------------------------------


class Synchronising(TorchDispatchMode):
    """Counts operations for which the processor waits until a GPU is done: reading numbers, and copies between both."""

    OPERATIONS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if name.startswith(self.OPERATIONS):
            self.found[name] += 1
        # Only the indices: a value that is put may be of any type, and nobody waits for it.
        indices = [t for t in tree_leaves(args[1:2]) if isinstance(t, torch.Tensor)]
        if name.startswith(("index", "_index")) and any(t.dtype in (torch.bool, torch.uint8) for t in indices):
            self.found[f"{name} with a mask"] += 1
        to = (kwargs or {}).get("device")
        if name == "_to_copy" and to is not None and torch.device(to).type != tensors[0].device.type:
            self.found["copy between devices"] += 1
        if name in ("copy_", "_copy_from") and len({t.device.type for t in tensors[:2]}) > 1:
            self.found["copy between devices"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def synchronisations(monkeypatch):
    """The counter, for lists made of tensors as well."""
    with Synchronising() as count, monkeypatch.context() as patch:
        for name in ("tolist", "numpy"):
            real = getattr(torch.Tensor, name)

            def noted(tensor, *arguments, name=name, real=real, **options):
                count.found[name] += 1
                return real(tensor, *arguments, **options)

            patch.setattr(torch.Tensor, name, noted)
        yield count


LOSSES = [Ratio(), NearestStep(), Masked()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("held", [0, 2, 99])
def test_the_meta_gradient_stays_on_the_device(loss, held):
    """Broken: something in a step is made on the CPU, so that a GPU refuses it."""
    problem, segments = small_problem()
    wanted = meta_gradient(Network(build_module(MODEL, SPEC)), Siamese(), loss, problem, segments)
    with _stand_in() as device:
        problem, segments = small_problem(device=device)
        found = meta_gradient(Network(build_module(MODEL, SPEC)), Siamese(), loss, problem, segments, held_steps=held)
        tensors = {name: getattr(found, name) for name in NAMES}
        assert all(t.device.type == device.type for t in tensors.values())
        here = {name: t.cpu() for name, t in tensors.items()}
    assert all(apart(here[n], getattr(wanted, n)) <= 1e-12 for n in NAMES)


def test_networks_trained_together_stay_on_the_device():
    """Broken: an order, a draw or a sum of the vectorised training is made on the CPU."""
    network, count = Network(build_module(MODEL, SPEC)), 2
    start = torch.stack([MODEL.init(network.module, torch.Generator().manual_seed(e)) for e in range(count)]).double()
    rngs = [[lambda epoch, e=e: torch.Generator().manual_seed(9 * e + epoch) for e in range(count)]] * 2
    wanted = train_many(network, start, data(), SETTINGS, Siamese(), *rngs)
    with _stand_in() as device:
        there = LabelledImages(images=data().images.to(device), targets=data().targets.to(device))
        found = train_many(network, start.to(device), there, SETTINGS, Siamese(), *rngs)
        assert found.device.type == device.type
        found = found.cpu()
    assert apart(found, wanted) <= 1e-12


def waits(monkeypatch, *, steps, loss, method="exact", held=0, make=lambda network: None):
    network = Network(build_module(MODEL, SPEC))
    with _stand_in() as device:
        problem, segments = small_problem(steps, device=device)
        with synchronisations(monkeypatch) as count:
            meta_gradient(
                network, Siamese(), loss, problem, segments,
                method=method, held_steps=held, steps=make(network),
            )  # fmt: skip
    return count.found


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("held", [0, 99])
@pytest.mark.parametrize("method", ["exact", "tesla"])
def test_no_inner_step_waits_for_the_device(monkeypatch, loss, held, method):
    """Broken: each of hundreds of steps stops the processor until the GPU has caught up."""
    few, many = (waits(monkeypatch, steps=n, loss=loss, held=held, method=method) for n in (6, 12))
    assert few == many
    # That loss has to know which step it takes, once for all of them.
    assert set(few) <= ({"tolist"} if isinstance(loss, NearestStep) else set())


def test_compiled_and_replayed_steps_do_not_wait_either(monkeypatch):
    """Broken: wrapping a step adds what it was made to avoid; a graph cannot be captured."""
    from ddfw_plugins.executors.graphed import GraphedSteps

    def wrapped(network):
        return GraphedSteps(EagerSteps(network), say=pytest.fail, capture=lambda function, inputs: function)

    assert waits(monkeypatch, steps=6, loss=Ratio(), make=wrapped) == {}


def test_the_counter_sees_what_waits(monkeypatch):
    """Broken: the tests above count nothing."""
    with _stand_in() as device:
        x = torch.arange(3.0).to(device)
        with synchronisations(monkeypatch) as count:
            float(x.sum())
            bool(x[0] > 0)
            x.cpu()
            x[x > 1]
            x.tolist()
            x.nonzero()
            # Named, since `x[x > 1] = 0.0` is `index_put_` up to torch 2.14 and from 2.15 on `masked_fill_`,
            # for which nobody waits.
            x.index_put_((x > 1,), torch.zeros((), device=device))
    assert sum(count.found.values()) >= 7
    assert any(name.startswith("index_put_") for name in count.found)


def test_the_counter_passes_over_what_does_not_wait(monkeypatch):
    """Broken: numbers that are put at known places would be taken for a mask, whose size has to be read."""
    with _stand_in() as device:
        mask = torch.zeros(5, dtype=torch.bool).to(device)
        places = torch.tensor([0, 3]).to(device)
        with synchronisations(monkeypatch) as count:
            mask.index_put_((places,), torch.ones((), dtype=torch.bool, device=device))
    assert count.found == {}
