"""Student steps that torch.compile makes into functions, against the same steps run operation by operation."""

from __future__ import annotations

import copy
import shutil
import warnings
from functools import partial

import pytest
import torch
from attrs import evolve
from torch import nn

from ddfw import ImageSpec
from ddfw.contracts.executor import Problem, Schedule
from ddfw.contracts.trajectory import Segment
from ddfw.engine import chain
from ddfw.engine.inner import EagerSteps, Network, build_module
from ddfw.engine.metagradient import meta_gradient
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.executors import compiled
from ddfw_plugins.executors.compiled import CompiledSteps, ProductConv2d, with_products
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.convnet import ConvNet

SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=3)
MODEL = ConvNet(depth=1, width=8)

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "c++", "clang++")), reason="torch.compile needs a C++ compiler"
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(network, count, dtype=torch.float64, seed=0):
    """θ, images, targets and a cotangent for one step."""
    theta = 0.3 * normal(network.num_parameters, seed=seed)
    images = normal(count, *SPEC.shape, seed=seed + 1)
    targets = normal(count, 3, seed=seed + 2).softmax(dim=1)
    return tuple(t.to(dtype) for t in (theta, images, targets, normal(len(theta), seed=seed + 3)))


def apart(found, wanted):
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def largest_error(steps, network, count, dtype=torch.float64, *, through_theta=True, seed=0):
    """Of the gradient and of the pullback, relative to the uncompiled steps in float64."""
    exact = EagerSteps(network)
    *point, cotangent = step(network, count, torch.float64, seed)
    *given, direction = (t.to(dtype) for t in (*point, cotangent))
    wanted = exact.pull(*point, cotangent, through_theta=through_theta)
    found = steps.pull(*given, direction, through_theta=through_theta)
    assert (found.theta is None) == (not through_theta)
    assert all(t.dtype == dtype and not t.requires_grad for t in (found.s, found.images, found.targets))
    names = ("s", "images", "targets", *(["theta"] if through_theta else []))
    gradient = steps.gradient(*given)
    assert gradient.dtype == dtype and not gradient.requires_grad
    return max(apart(gradient, exact.gradient(*point)), *(apart(getattr(found, n), getattr(wanted, n)) for n in names))


@pytest.fixture
def network():
    return Network(build_module(MODEL, SPEC))


@pytest.fixture(scope="module")
def really():
    """Steps that were compiled by torch.compile; shared, since that takes long. `said` must stay empty."""
    network, said = Network(build_module(MODEL, SPEC)), []
    return network, CompiledSteps(network, say=said.append), said


@needs_compiler
@pytest.mark.extended
def test_compiled_steps_give_the_numbers_of_uncompiled_ones(really):
    """Broken: what is compiled is another function, or batches of another size or type get stale code."""
    network, steps, said = really
    for seed in (0, 7):
        assert largest_error(steps, network, 4, seed=seed) <= 1e-10
    # Compiling takes long: another size and another type together, and the pullback alone, which holds the gradient.
    given = step(network, 3)
    found = steps.pull(*(t.float() for t in given), through_theta=True)
    wanted = EagerSteps(network).pull(*given, through_theta=True)
    for name in ("s", "images", "targets", "theta"):
        assert getattr(found, name).dtype == torch.float32
        assert apart(getattr(found, name), getattr(wanted, name)) <= 2e-5
    assert steps.compiled and said == []


@needs_compiler
@pytest.mark.extended
@pytest.mark.parametrize("method", ["exact", "tesla"])
def test_a_meta_gradient_of_compiled_steps_is_the_one_of_held_graphs(really, method):
    """Broken: compiled runs learn something else."""
    network, steps, said = really
    problem, segments = small_problem(network, batch=4)
    found, wanted = (
        meta_gradient(network, Siamese(), Ratio(), problem, segments, method=method, **how)
        for how in ({"steps": steps}, {"held_steps": 99})
    )
    for name in ("loss", "images", "targets", "step_size"):
        assert apart(getattr(found, name), getattr(wanted, name)) <= 1e-10
    assert steps.compiled and said == []
    assert (found.held_steps, wanted.held_steps) == (0, 3)


def small_problem(network, *, batch, steps=3):
    """One segment of a few steps, with batches of one size and an augmentation."""
    rng = torch.Generator().manual_seed(5)
    batches = tuple(torch.randperm(6, generator=rng)[:batch] for _ in range(steps))
    draws = tuple(Siamese().draw((batch, *SPEC.shape), rng) for _ in range(steps))
    start = MODEL.init(network.module, rng).double()
    problem = Problem(
        images=normal(6, *SPEC.shape, seed=1),
        targets=normal(6, 3, seed=2).softmax(dim=1),
        step_size=torch.tensor(0.1, dtype=torch.float64),
        schedules=(Schedule(batches=batches, draws=draws),),
    )
    target = start + 0.1 * normal(len(start), seed=3)
    return problem, [Segment(start=start, target=target, expert=0, start_epoch=0, target_epoch=1)]


class Counting:
    """In place of torch.compile: the function itself, and how often each was made and called."""

    def __init__(self):
        self.made, self.called = [], []

    def __call__(self, function):
        self.made.append(function.__name__)

        def counted(*inputs):
            self.called.append(function.__name__)
            return function(*inputs)

        return counted


@pytest.mark.parametrize("through_theta", [True, False])
@pytest.mark.parametrize("model", [MODEL, ConvNet(depth=2, width=4, norm="group", groups=2, activation="silu")])
def test_what_is_compiled_is_the_step(network, model, through_theta):
    """Broken: the functions that go to the compiler are not the gradient and its pullback."""
    network, compile = Network(build_module(model, SPEC)), Counting()
    steps = CompiledSteps(network, compile=compile)
    assert len(compile.made) == 3 and not compile.called
    for count in (1, 3, 5):
        assert largest_error(steps, network, count, through_theta=through_theta) <= 1e-10
        assert largest_error(steps, network, count, torch.float32, through_theta=through_theta) <= 2e-5
    assert set(compile.called) == {"gradient", "pull" if through_theta else "pull_data"}


@pytest.mark.parametrize("through_theta", [True, False])
def test_large_batches_are_compiled_for_a_few_images_at_a_time(network, through_theta, monkeypatch):
    """Broken: parts of a batch get a mean of their own or get lost, or maps that no cache holds are compiled."""
    monkeypatch.setattr(chain, "MOST_VALUES", 2 * network.chain(*step(network, 2)[:2]).values)
    compile, sizes = Counting(), []

    def noted(function):
        def call(theta, images, *rest):
            sizes.append(len(images))
            return compile(function)(theta, images, *rest)

        return call

    assert largest_error(CompiledSteps(network, compile=noted), network, 5, through_theta=through_theta) <= 1e-10
    assert sizes == [1] * 10


@pytest.mark.parametrize("method", ["exact", "tesla"])
def test_steps_that_hold_no_graph_give_the_meta_gradient_of_held_graphs(network, method):
    """Broken: the engine pulls such steps back at a wrong point, or mixes them up with held ones."""
    problem, segments = small_problem(network, batch=4)
    problem = evolve(problem, schedules=problem.schedules * 2)
    segments = segments * 2
    wanted = meta_gradient(network, Siamese(), Ratio(), problem, segments, method=method, held_steps=3)
    for held in (0, 1, 3):
        compile = Counting()
        steps = CompiledSteps(network, compile=compile)
        found = meta_gradient(
            network, Siamese(), Ratio(), problem, segments, method=method, held_steps=held, steps=steps
        )
        for name in ("loss", "images", "targets", "step_size"):
            assert apart(getattr(found, name), getattr(wanted, name)) <= 1e-10
        assert len(compile.called) == 2 * 2 * (3 - held) and found.held_steps == held


def test_the_students_own_module_stays_as_it_was(network):
    """Broken: experts and judged networks would run with the compiled student's layers."""
    before = [type(layer) for layer in network.module.modules()]
    CompiledSteps(network, compile=lambda function: function)
    assert [type(layer) for layer in network.module.modules()] == before
    assert ProductConv2d not in before


@pytest.mark.parametrize("fails", ["at the first call", "at the second shape"])
def test_where_nothing_can_be_compiled_one_line_says_so_and_numbers_stay_right(network, fails):
    """Broken: a machine without a compiler ends the run, is silent, or says the same at each step."""
    said, seen = [], set()

    def compile(function):
        def broken(*inputs):
            seen.add(len(inputs[1]))
            if fails == "at the first call" or len(seen) > 1:
                raise RuntimeError("no\ncompiler " + "x" * 900)
            return function(*inputs)

        return broken

    steps = CompiledSteps(network, say=said.append, compile=compile)
    assert steps.compiled
    for count in (3, 2, 3):
        for through_theta in (True, False):
            assert largest_error(steps, network, count, through_theta=through_theta) <= 1e-10
    assert not steps.compiled
    assert len(said) == 1 and "\n" not in said[0] and len(said[0]) < 400
    assert said[0].startswith("the student's step could not be compiled and runs uncompiled (RuntimeError: no compiler")


def test_a_warning_is_logged_as_one_line(network, capsys, caplog):
    """Broken: without somebody to tell, the reason is lost or mixed with results on standard output."""

    def compile(function):
        def broken(*inputs):
            raise OSError("no C++ compiler")

        return broken

    CompiledSteps(network, compile=compile).gradient(*step(network, 2)[:3])
    (warned,) = [record.getMessage() for record in caplog.records if record.name.startswith("ddfw")]
    assert warned.startswith("the student's step could not be compiled") and "\n" not in warned
    assert capsys.readouterr().out == ""


def test_a_compilers_warnings_do_not_end_the_compilation(network):
    """Broken: with `python -W error` the compiler's own warning is an error, and all steps run uncompiled."""

    def compile(function):
        def warns(*inputs):
            warnings.warn("TensorFloat32 tensor cores are available but not enabled", UserWarning, stacklevel=1)
            return function(*inputs)

        return warns

    steps = CompiledSteps(network, say=pytest.fail, compile=compile)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert largest_error(steps, network, 3) <= 1e-10
        assert steps.compiled
        with pytest.raises(UserWarning):
            warnings.warn("ours", UserWarning, stacklevel=1)


def test_batches_that_lie_otherwise_are_compiled_once(network, monkeypatch):
    """Broken: crop's batches, which lie channels last, are compiled a second time, to other kernels with other bits."""
    seen = []

    def compile(function):
        def noted(theta, images, *rest):
            seen.append(images.stride())
            return function(theta, images, *rest)

        return noted

    steps = CompiledSteps(network, say=pytest.fail, compile=compile)
    theta, images, targets, cotangent = step(network, 3)
    for form in (images, images.movedim(1, 3).contiguous().movedim(3, 1), images.transpose(2, 3)):
        steps.gradient(theta, form, targets)
        steps.pull(theta, form, targets, cotangent, through_theta=True)
    assert set(seen) == {(64, 64, 8, 1)}


def test_too_little_memory_is_no_failure_to_compile(network):
    """Broken: a step that does not fit is tried again without what made it small, and its error hidden."""

    def compile(function):
        def full(*inputs):
            raise torch.OutOfMemoryError("too large")

        return full

    said = []
    steps = CompiledSteps(network, say=said.append, compile=compile)
    with pytest.raises(torch.OutOfMemoryError):
        steps.gradient(*step(network, 2)[:3])
    assert steps.compiled and said == []


def test_a_fault_in_the_data_shows_itself_in_the_step_that_is_not_compiled(network):
    """Broken: the error of the network itself is swallowed with that of the compiler."""
    steps = CompiledSteps(network, say=lambda text: None, compile=lambda function: function)
    theta, images, targets, _ = step(network, 2)
    with pytest.raises(RuntimeError):
        steps.gradient(theta, images[:, :, :2], targets)


def test_many_networks_in_one_process_do_not_share_a_compilers_count(network, monkeypatch):
    """Broken: torch.compile gives up on a function recompiled eight times; a sweep's ninth network is not compiled."""
    compiled_functions = []

    def compile(function, **options):
        compiled_functions.append((function, options))
        return function

    monkeypatch.setattr(torch, "compile", compile)
    many = [CompiledSteps(Network(build_module(ConvNet(depth=1, width=w), SPEC))) for w in range(2, 12)]
    for steps, width in zip(many, range(2, 12), strict=True):
        other = Network(build_module(ConvNet(depth=1, width=width), SPEC))
        assert largest_error(steps, other, 2) <= 1e-10
        assert steps.compiled
    functions = [function for function, _ in compiled_functions]
    assert len(functions) == 30
    assert len({id(function.__code__) for function in functions}) == 30
    assert all(options == {"fullgraph": True, "dynamic": False} for _, options in compiled_functions)


def test_the_limit_of_recompilations_is_each_functions_own(monkeypatch):
    """Broken: the functions differ in their code, but the compiler counts them together all the same."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    def another(number):
        def function(x):
            return x + number

        return function

    def values(make):
        return [float(make(another(number))(torch.zeros(1))) for number in range(12)]

    # The control: with the code shared, the limit is met.
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        values(lambda function: torch.compile(function, fullgraph=True, dynamic=False))
    torch._dynamo.reset()
    assert values(compiled._compile) == list(range(12))


CONVOLUTIONS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "no padding": {"kernel_size": 3},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "without bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "one pixel": {"kernel_size": 1},
    "oblong": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
}


def with_second_derivatives(layer, x):
    """Value, gradients, and gradients of these."""
    x = x.detach().requires_grad_()
    value = layer(x)
    first = torch.autograd.grad(value.sin().sum(), (x, *layer.parameters()), create_graph=True)
    return value, *first, *torch.autograd.grad(sum(f.square().sum() for f in first), (x, *layer.parameters()))


@pytest.mark.parametrize("small", [True, False], ids=["product", "library"])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_as_a_product_is_the_same_convolution(options, small, monkeypatch):
    """Broken: stride, padding, dilation or a missing bias are treated otherwise than by PyTorch."""
    monkeypatch.setattr(compiled, "UNFOLD_ELEMENTS", 10**9 if small else 0)
    unfolded = []
    monkeypatch.setattr(compiled, "unfold", lambda *a: unfolded.append(a) or torch.nn.functional.unfold(*a))
    plain = nn.Conv2d(2, 3, **options).double()
    with torch.no_grad():
        for i, p in enumerate(plain.parameters()):
            p.copy_(normal(*p.shape, seed=i))
    ours = with_products(nn.Sequential(copy.deepcopy(plain)))[0]
    assert type(ours) is ProductConv2d
    assert list(ours.state_dict()) == list(plain.state_dict())
    for x in (normal(3, 2, 7, 6), normal(1, 2, 7, 6), normal(2, 2, 6, 7).transpose(2, 3)):
        for found, wanted in zip(with_second_derivatives(ours, x), with_second_derivatives(plain, x), strict=True):
            assert found.shape == wanted.shape
            assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert bool(unfolded) == small


def test_a_product_needs_no_contiguous_weight():
    """Broken: weights in channels-last order, as some loaders leave them, end the step."""
    plain = nn.Conv2d(2, 3, 3).double().to(memory_format=torch.channels_last)
    ours = with_products(nn.Sequential(copy.deepcopy(plain)))[0]
    x = normal(2, 2, 5, 5)
    assert torch.allclose(ours(x), plain(x), rtol=1e-12, atol=1e-12)


class Subclass(nn.Conv2d):
    """Somebody's own convolution."""

    def forward(self, input):
        return -super().forward(input)


def test_only_plain_convolutions_are_exchanged():
    """Broken: a convolution that is no such product (groups, other padding, somebody's own) gives other numbers."""
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding="valid"),
        nn.Conv2d(4, 4, 3, groups=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1))),
        Subclass(4, 4, 1),
        nn.ConvTranspose2d(4, 4, 2),
    ).double()
    ours = with_products(copy.deepcopy(module))
    kinds = {name for name, layer in ours.named_modules() if isinstance(layer, ProductConv2d)}
    assert kinds == {"4.0", "4.2.0"}
    assert list(ours.state_dict()) == list(module.state_dict())
    x = normal(2, 2, 8, 8)
    assert torch.allclose(ours(x), module(x), rtol=1e-12, atol=1e-12)
