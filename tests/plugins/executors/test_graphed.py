"""Student steps that are replayed: the bookkeeping, with captures that do without a GPU."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from ddfw import ImageSpec
from ddfw.contracts.executor import Problem, Schedule
from ddfw.contracts.trajectory import Segment
from ddfw.engine.inner import EagerSteps, Network, build_module
from ddfw.engine.metagradient import meta_gradient
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.executors.graphed import WARM_UPS, CudaCapture, GraphedSteps
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.convnet import ConvNet

SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=3)
MODEL = ConvNet(depth=1, width=4)
NAMES = ("s", "images", "targets", "theta")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def network():
    return Network(build_module(MODEL, SPEC))


def step(network, count=3, seed=0, dtype=torch.float64):
    """θ, images, targets and a cotangent."""
    theta, images = 0.3 * normal(network.num_parameters, seed=seed), normal(count, *SPEC.shape, seed=seed + 1)
    targets = normal(count, 3, seed=seed + 2).softmax(dim=1)
    return tuple(t.to(dtype) for t in (theta, images, targets, normal(len(theta), seed=seed + 3)))


class Static:
    """Replays as a CUDA graph does: from tensors of its own into tensors of its own, which the next replay reuses."""

    def __init__(self, fail=None):
        self.captures, self.memory, self.replays, self._fail = [], [], 0, fail

    def __call__(self, function, inputs):
        if self._fail is not None and len(self.captures) >= self._fail[0]:
            raise self._fail[1]
        self.captures.append([tuple(t.shape) for t in inputs])
        own = [t.detach().clone() for t in inputs]
        outputs = [t.clone() for t in function(*own)]
        self.memory += [weakref.ref(t) for t in (*own, *outputs)]

        def replay(*given):
            self.replays += 1
            for mine, theirs in zip(own, given, strict=True):
                mine.copy_(theirs)
            for mine, new in zip(outputs, function(*own), strict=True):
                mine.copy_(new)
            return tuple(t.clone() for t in outputs)

        return replay


class Driver:
    """What CudaCapture needs of PyTorch, on a CPU: operations of a capture are noted, and run again by a replay.

    Everything that they write is overwritten in place, as on the device; results of a capture are garbage until then.
    """

    def __init__(self, monkeypatch):
        self.entered, self.waits, self.pools, self.replays, self.warm_ups = [], [], [], 0, 0
        self.recording, self.function, self.how = None, None, []
        driver = self

        class Stream:
            def __init__(self, name="side"):
                self.name = name

            def wait_stream(self, other):
                driver.waits.append((self.name, other.name))

        class Graph:
            broken = False

            def capture_end(self):
                driver.recording = None
                if self.broken:
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

            def replay(self):
                driver.replays += 1
                for mine, new in zip(self.outputs, self.work(), strict=True):
                    mine.copy_(new)

        @contextmanager
        def entered(what):
            driver.entered.append(what)
            yield
            driver.entered.remove(what)

        @contextmanager
        def on(stream):
            before, driver.current = driver.current, stream
            with entered(stream.name):
                yield
            driver.current = before

        @contextmanager
        def graph(graph, pool=None, stream=None, capture_error_mode="global"):
            """As in torch 2.11 and 2.14: where ending the capture fails, its stream is not left."""
            driver.pools.append(pool)
            driver.how.append((stream, capture_error_mode))
            driver.recording, before, driver.current = graph, driver.current, stream
            with entered("graph"):
                try:
                    yield
                finally:
                    graph.capture_end()
                    driver.current = before

        self.current = Stream("current")
        patched = {
            "Stream": Stream,
            "current_stream": lambda: driver.current,
            "set_stream": lambda stream: setattr(driver, "current", stream),
            "stream": on,
            "device": lambda device: entered(f"device {device}"),
            "CUDAGraph": Graph,
            "graph": graph,
            "graph_pool_handle": lambda: object(),
        }
        for name, value in patched.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def observed(self, steps):
        """The steps, whose calls in a capture become the graph's work."""

        def run(name):
            def call(*inputs, **options):
                assert "device cpu" in self.entered, "work on another device than the inputs'"
                assert all(not t.requires_grad for t in inputs)
                result = getattr(steps, name)(*inputs, **options)
                if self.recording is None:
                    assert "side" in self.entered, "warmed up on the stream that is in use"
                    self.warm_ups += 1
                    return result
                keys = [n for n in NAMES if getattr(result, n, None) is not None] if name == "pull" else []

                def tensors(found):
                    return [getattr(found, k) for k in keys] if keys else [found]

                graph = self.recording
                graph.outputs = tensors(result)
                graph.work = lambda: tensors(getattr(steps, name)(*inputs, **options))
                for tensor in graph.outputs:
                    tensor.fill_(float("nan"))
                return result

            return call

        return SimpleNamespace(gradient=run("gradient"), pull=run("pull"))


@pytest.fixture(params=["capture of a test", "CudaCapture"])
def graphed(request, network, monkeypatch):
    """Steps that are replayed, and how often; by a simple capture, and by the real one on a pretended device."""
    if request.param == "CudaCapture":
        driver = Driver(monkeypatch)
        return GraphedSteps(driver.observed(EagerSteps(network)), say=pytest.fail), driver
    static = Static()
    return GraphedSteps(EagerSteps(network), say=pytest.fail, capture=static), static


def test_results_are_right_and_the_callers_own(graphed, network):
    """Broken: a later step overwrites what an earlier one returned, such as a point of the path."""
    steps, recorder = graphed
    exact, kept = EagerSteps(network), []
    for seed in range(4):
        theta, images, targets, cotangent = step(network, seed=seed)
        for through_theta in (True, False):
            found = steps.pull(theta, images, targets, cotangent, through_theta=through_theta)
            kept.append((found, exact.pull(theta, images, targets, cotangent, through_theta=through_theta)))
        kept.append((steps.gradient(theta, images, targets), exact.gradient(theta, images, targets)))
    for found, wanted in kept:
        if isinstance(found, torch.Tensor):
            assert torch.equal(found, wanted)
            continue
        assert (found.theta is None) == (wanted.theta is None)
        assert all(torch.equal(getattr(found, n), getattr(wanted, n)) for n in NAMES if getattr(wanted, n) is not None)
    assert steps.captured and recorder.replays == 12


def test_inputs_are_read_and_never_written(graphed, network):
    """Broken: capturing or replaying changes θ or the batch, or remembers the first one."""
    steps, _ = graphed
    given = step(network)
    before = [t.clone() for t in given]
    steps.pull(*given, through_theta=True)
    first = steps.gradient(*given[:3])
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    # The same tensor with other numbers in it.
    given[0].mul_(0.5)
    again = steps.gradient(*given[:3])
    assert not torch.equal(again, first)
    assert torch.equal(again, EagerSteps(network).gradient(*given[:3]))


def test_inputs_may_lie_otherwise_than_the_captured_ones(graphed, network):
    """Broken: a batch with other strides is copied as if it had those of the first."""
    steps, _ = graphed
    theta, images, targets, _ = step(network)
    steps.gradient(theta, images, targets)
    turned = images.transpose(2, 3)
    wanted = EagerSteps(network).gradient(theta, turned, targets)
    assert torch.allclose(steps.gradient(theta, turned, targets), wanted, rtol=1e-12, atol=1e-12)


def test_there_is_one_capture_for_each_shape_and_type(network):
    """Broken: a capture for every step costs more than it saves; one for all shapes gives wrong numbers."""
    static = Static()
    steps, exact = GraphedSteps(EagerSteps(network), capture=static), EagerSteps(network)
    for _ in range(3):
        for count, dtype in ((3, torch.float64), (2, torch.float64), (3, torch.float32)):
            theta, images, targets, cotangent = step(network, count, dtype=dtype)
            assert torch.equal(steps.gradient(theta, images, targets), exact.gradient(theta, images, targets))
            for through_theta in (True, False):
                found = steps.pull(theta, images, targets, cotangent, through_theta=through_theta)
                wanted = exact.pull(theta, images, targets, cotangent, through_theta=through_theta)
                assert torch.equal(found.images, wanted.images) and found.images.dtype == dtype
    assert len(static.captures) == 9
    assert static.replays == 27


@pytest.mark.parametrize("after", [0, 1, 2])
def test_where_capturing_fails_one_line_says_so_and_numbers_stay_right(network, after):
    """Broken: a step that cannot be captured ends the run, is silent, or says the same at each step."""
    said = []
    static = Static(fail=(after, RuntimeError("operation not permitted\nwhen stream is capturing " + "x" * 900)))
    steps, exact = GraphedSteps(EagerSteps(network), said.append, static), EagerSteps(network)
    assert steps.captured
    for count in (3, 2, 4, 3):
        theta, images, targets, cotangent = step(network, count)
        assert torch.equal(steps.gradient(theta, images, targets), exact.gradient(theta, images, targets))
        found = steps.pull(theta, images, targets, cotangent, through_theta=True)
        wanted = exact.pull(theta, images, targets, cotangent, through_theta=True)
        assert all(torch.equal(getattr(found, n), getattr(wanted, n)) for n in NAMES)
    assert not steps.captured and len(static.captures) == after
    gc.collect()
    assert [kept for kept in static.memory if kept() is not None] == [], "memory of captures that are not used again"
    assert len(said) == 1 and "\n" not in said[0] and len(said[0]) < 400
    assert said[0].startswith(
        "the student's step could not be captured in a CUDA graph and runs without (RuntimeError:"
    )


def test_too_little_memory_is_no_failure_to_capture(network):
    """Broken: a run that does not fit goes on without graphs and hides why."""
    said = []
    steps = GraphedSteps(EagerSteps(network), said.append, Static(fail=(0, torch.OutOfMemoryError("full"))))
    with pytest.raises(torch.OutOfMemoryError):
        steps.gradient(*step(network)[:3])
    assert steps.captured and said == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_steps_run_as_they_are(network, capsys, caplog):
    """Broken: the real capture ends a session where CUDA is missing."""
    steps = GraphedSteps(EagerSteps(network))
    given = step(network)[:3]
    for _ in range(2):
        assert torch.equal(steps.gradient(*given), EagerSteps(network).gradient(*given))
    (warned,) = [record.getMessage() for record in caplog.records if record.name.startswith("ddfw")]
    assert warned.startswith("the student's step could not be captured") and "\n" not in warned
    assert capsys.readouterr().out == ""


def test_captures_warm_up_beside_and_share_one_pool(network, monkeypatch):
    """Broken: libraries choose algorithms inside a capture; streams race; each shape takes memory of its own."""
    driver = Driver(monkeypatch)
    steps = GraphedSteps(driver.observed(EagerSteps(network)), pytest.fail, CudaCapture())
    for count in (2, 3, 2):
        steps.gradient(*step(network, count)[:3])
    assert driver.warm_ups == 2 * WARM_UPS
    assert driver.waits == [("side", "current"), ("current", "side")] * 2
    assert len(driver.pools) == 2 and driver.pools[0] is driver.pools[1] is not None
    assert driver.replays == 3 and driver.entered == []


@pytest.mark.parametrize("error", [RuntimeError("not permitted"), torch.OutOfMemoryError("full"), KeyboardInterrupt()])
def test_a_capture_that_fails_leaves_its_stream_and_says_why(network, monkeypatch, error):
    """Broken: all later work runs on the stream of captures; full memory or Ctrl-C is taken for a failed capture."""
    driver, said = Driver(monkeypatch), []
    plain = driver.observed(EagerSteps(network))

    def fails(*inputs):
        found = plain.gradient(*inputs)
        if driver.recording is not None:
            driver.recording.broken = True
            raise error
        return found

    before = driver.current
    steps = GraphedSteps(SimpleNamespace(gradient=fails), said.append, CudaCapture())
    given = step(network)[:3]
    if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
        monkeypatch.setattr(driver, "entered", ["side", "device cpu"])
        assert torch.equal(steps.gradient(*given), EagerSteps(network).gradient(*given))
        assert not steps.captured and len(said) == 1 and "previous error" in said[0]
    else:
        with pytest.raises(type(error)) as caught:
            steps.gradient(*given)
        assert caught.value is error and steps.captured and said == []
    assert driver.current is before


def test_a_capture_has_a_stream_of_its_own_and_lets_other_threads_work(network, monkeypatch):
    """Broken: PyTorch's stream for captures belongs to the first GPU; a thread that copies data breaks a capture."""
    driver = Driver(monkeypatch)
    steps = GraphedSteps(driver.observed(EagerSteps(network)), pytest.fail, CudaCapture())
    steps.gradient(*step(network)[:3])
    ((stream, mode),) = driver.how
    assert stream.name == "side" and mode == "thread_local"


def test_a_graph_has_one_layout_whatever_the_first_batch(network, monkeypatch):
    """Broken: the augmentation of the first batch decides on kernels, and so on bits, of all that follow."""
    driver, seen = Driver(monkeypatch), []

    def noted(theta, images, targets):
        seen.append(images.stride())
        return EagerSteps(network).gradient(theta, images, targets)

    steps = GraphedSteps(driver.observed(SimpleNamespace(gradient=noted, pull=None)), pytest.fail, CudaCapture())
    theta, images, targets, _ = step(network)
    steps.gradient(theta, images.transpose(2, 3), targets)
    assert set(seen) == {(64, 64, 8, 1)}


@pytest.mark.parametrize("method", ["exact", "tesla"])
def test_a_meta_gradient_of_replayed_steps_is_the_one_of_held_graphs(graphed, network, method):
    """Broken: runs on a GPU learn something else."""
    steps, recorder = graphed
    rng = torch.Generator().manual_seed(5)
    batches = tuple(torch.randperm(6, generator=rng)[:b] for b in (4, 4, 3, 4))
    draws = tuple(Siamese().draw((len(b), *SPEC.shape), rng) for b in batches)
    start = MODEL.init(network.module, rng).double()
    problem = Problem(
        images=normal(6, *SPEC.shape, seed=1),
        targets=normal(6, 3, seed=2).softmax(dim=1),
        step_size=torch.tensor(0.1, dtype=torch.float64),
        schedules=(Schedule(batches=batches, draws=draws),) * 2,
    )
    target = start + 0.1 * normal(len(start), seed=3)
    segments = [Segment(start=start, target=target, expert=0, start_epoch=0, target_epoch=1)] * 2
    wanted = meta_gradient(network, Siamese(), Ratio(), problem, segments, method=method, held_steps=4)
    found = meta_gradient(network, Siamese(), Ratio(), problem, segments, method=method, steps=steps)
    for name in ("loss", "images", "targets", "step_size"):
        a, b = getattr(found, name), getattr(wanted, name)
        assert float((a - b).norm() / b.norm()) <= 1e-12
    assert recorder.replays == 2 * 2 * 4 and found.held_steps == 0
