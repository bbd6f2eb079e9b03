"""`cpu`, and the session that the executors of one process have in common."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from attrs import evolve

from ddfw import ImageSpec
from ddfw.contracts.executor import ExecutorContext, LabelledImages, Problem, Schedule
from ddfw.contracts.settings import GradientSettings, SharpnessSettings, TrainingSettings
from ddfw.contracts.trajectory import Segment
from ddfw.engine.inner import Network, build_module
from ddfw.engine.metagradient import meta_gradient
from ddfw.testing import check_executor
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.executors import compiled
from ddfw_plugins.executors._session import LocalSession
from ddfw_plugins.executors.cpu import Cpu
from ddfw_plugins.losses.ratio import Ratio
from ddfw_plugins.models.convnet import ConvNet

SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=3)
MODEL = ConvNet(depth=1, width=8)
SETTINGS = TrainingSettings(epochs=2, lr=0.1, momentum=0.5, weight_decay=1e-3, batch_size=6)
NAMES = ("loss", "images", "targets", "step_size")


def context_of(**changes):
    base = ExecutorContext(
        model=MODEL,
        module=build_module(MODEL, SPEC),
        augmentation=Siamese(),
        loss=Ratio(),
        gradient=GradientSettings(memory="auto"),
        dtype=torch.float64,
    )
    return evolve(base, **changes)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(n=14, seed=0):
    return LabelledImages(images=normal(n, *SPEC.shape, seed=seed), targets=torch.arange(n) % 3)


def small_problem(steps=3, batch=4):
    rng = torch.Generator().manual_seed(5)
    batches = tuple(torch.randperm(6, generator=rng)[:batch] for _ in range(steps))
    draws = tuple(Siamese().draw((batch, *SPEC.shape), rng) for _ in range(steps))
    start = MODEL.init(build_module(MODEL, SPEC), rng).double()
    problem = Problem(
        images=normal(6, *SPEC.shape, seed=1),
        targets=normal(6, 3, seed=2).softmax(dim=1),
        step_size=torch.tensor(0.1, dtype=torch.float64),
        schedules=(Schedule(batches=batches, draws=draws),),
    )
    target = start + 0.1 * normal(len(start), seed=3)
    return problem, [Segment(start=start, target=target, expert=0, start_epoch=0, target_epoch=1)]


def require_same(found, problem, segments, context, tolerance=1e-10):
    wanted = meta_gradient(
        Network(context.module), context.augmentation, context.loss, problem, segments, method=context.gradient.method
    )
    for name in NAMES:
        a, b = getattr(found, name), getattr(wanted, name)
        assert float((a - b).norm() / b.norm()) <= tolerance


def test_steps_made_by_a_compiler_keep_the_contract(monkeypatch):
    """Broken: the option compile changes experts, meta-gradients or judged networks."""
    made = []
    monkeypatch.setattr(compiled, "_compile", lambda function: made.append(function) or function)
    check_executor(Cpu(compile=True))
    assert len(made) == 3 * 2


@pytest.mark.extended
@pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "c++", "clang++")), reason="torch.compile needs a C++ compiler"
)
def test_a_compiled_session_computes_the_same_meta_gradient(capsys):
    """Broken: what the executor hands to the compiler does not compile, or is not the step."""
    context = context_of()
    problem, segments = small_problem()
    with Cpu(compile=True).open(context) as session:
        found = session.meta_gradient(problem, segments)
        assert session.describe()["compiled"] is True
    require_same(found, problem, segments, context)
    assert "could not be compiled" not in capsys.readouterr().err


@pytest.mark.parametrize("method", ["exact", "tesla"])
def test_a_session_that_cannot_compile_goes_on_and_says_so(monkeypatch, capsys, caplog, method):
    """Broken: without a compiler a run ends, gives other numbers, or hides that steps are not compiled."""

    def broken(function):
        def call(*inputs):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(compiled, "_compile", broken)
    context = context_of(gradient=GradientSettings(method=method))
    problem, segments = small_problem()
    with Cpu(compile=True).open(context) as session:
        before = session.describe()
        for _ in range(2):
            require_same(session.meta_gradient(problem, segments), problem, segments, context)
        after = session.describe()
    assert (before["compiled"], after["compiled"]) == (True, False)
    (warned,) = [record.getMessage() for record in caplog.records if record.name.startswith("ddfw")]
    assert "\n" not in warned and capsys.readouterr().out == ""


def test_compiled_steps_hold_no_graphs(monkeypatch):
    """Broken: a run that goes on would hold graphs that it did not hold before, at the price of other rounding."""
    monkeypatch.setattr(compiled, "_compile", lambda function: function)
    problem, segments = small_problem()
    for held in (None, 2):
        with Cpu(compile=True).open(context_of(held_steps=held)) as session:
            assert session.describe()["held_steps"] == 0
            assert session.meta_gradient(problem, segments).held_steps == 0


def test_what_a_session_says_of_itself():
    """Broken: the manifest lacks what numbers depend on, or a run that goes on is refused."""
    problem, segments = small_problem()
    with Cpu(threads=1, workers=1).open(context_of()) as session:
        before = session.describe()
        session.meta_gradient(problem, segments)
        after = session.describe()
    unknown = {"held_steps": None, "graph_bytes": None, "memory_seen": None}
    assert before == {"type": "cpu", "threads": 1, "network_threads": 1, "workers": 1, **unknown}
    assert after["held_steps"] == 3 and after["graph_bytes"] > 0 and after["memory_seen"] > 0
    assert json.loads(json.dumps(after)) == after


def test_a_run_that_goes_on_holds_as_many_graphs_as_before():
    """Broken: bits after an interruption depend on the memory of that moment."""
    problem, segments = small_problem()
    for held, expected in ((0, 0), (2, 2), (99, 3)):
        with Cpu().open(context_of(held_steps=held)) as session:
            assert session.describe()["held_steps"] == held
            assert session.meta_gradient(problem, segments).held_steps == expected


def test_the_number_of_graphs_is_settled_at_the_first_step(monkeypatch):
    """Broken: memory is looked at anew at each step, and rounding changes on the way."""
    import ddfw_plugins.executors._session as module

    asked = []
    real = module.step_budget
    monkeypatch.setattr(module, "step_budget", lambda *a: asked.append(a) or real(*a))
    problem, segments = small_problem()
    with Cpu().open(context_of()) as session:
        for _ in range(3):
            assert session.meta_gradient(problem, segments).held_steps == 3
    assert len(asked) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_the_number_of_threads_is_put_back(fails):
    """Broken: an executor leaves the process slower than it found it."""
    before = torch.get_num_threads()
    try:
        with Cpu(threads=3).open(context_of()):
            assert torch.get_num_threads() == 3
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_senseless_number_of_threads_is_refused(threads):
    """Broken: PyTorch's own error, in the middle of a run."""
    with pytest.raises(ValueError, match="threads"):
        Cpu(threads=threads)


def local(together, **options):
    context = context_of()
    return LocalSession(context, Network(context.module), torch.device("cpu"), together=together, **options)


@pytest.mark.parametrize("together", [2, 3, 9])
def test_networks_trained_together_are_those_trained_alone(together):
    """Broken: results, their order or what progress is told depend on how many are trained at a time."""
    told = {1: [], together: []}
    experts, judged, finished = {}, {}, {}
    for number in told:
        session = local(number)
        experts[number] = list(
            session.train_experts(
                SETTINGS, data(), data(9, 1), (4, 2, 7, 1, 5), lambda *at, n=number: told[n].append(at)
            )
        )
        finished[number] = []
        judged[number] = session.evaluate(
            SETTINGS, data(), data(40, 1), 3, range(1, 6), "select", finished[number].append
        )
    for alone, beside in zip(experts[1], experts[together], strict=True):
        assert alone.seed == beside.seed
        assert float((alone.snapshots - beside.snapshots).abs().max()) <= 1e-12
        assert alone.validation_accuracy == beside.validation_accuracy
        assert beside.train_loss == pytest.approx(alone.train_loss, rel=1e-12)
    assert sorted(told[together]) == sorted(told[1]) == [(p, e) for p in range(5) for e in (1, 2)]
    assert judged[together] == judged[1] and isinstance(judged[1], tuple)
    assert finished[together] == finished[1] == [1, 2, 3, 4, 5]


def test_experts_in_flat_regions_are_trained_one_at_a_time():
    """Broken: gsam ends with an error, or is left out, where networks are trained together."""
    gsam = evolve(SETTINGS, sharpness=SharpnessSettings(rho=0.01, alpha=0.4))
    alone, beside, plain = (
        list(local(together).train_experts(settings, data(), data(), (1, 2), lambda *at: None))
        for together, settings in ((1, gsam), (4, gsam), (1, SETTINGS))
    )
    for a, b, c in zip(alone, beside, plain, strict=True):
        assert torch.equal(a.snapshots, b.snapshots)
        assert not torch.allclose(a.snapshots, c.snapshots)


def test_experts_come_as_soon_as_they_are_finished():
    """Broken: a run that ends early has lost experts that were finished."""
    told = []
    found = local(2).train_experts(SETTINGS, data(), data(), range(5), lambda *at: told.append(at))
    next(found)
    assert {position for position, _ in told} == {0, 1}


@pytest.mark.parametrize("together", [1, 2])
def test_training_has_its_own_surroundings_and_meta_gradients_do_not(together):
    """Broken: a precision for training leaks into meta-gradients, or between two experts into the caller's work."""
    inside, seen = [], []

    @contextmanager
    def training():
        inside.append(1)
        try:
            yield
        finally:
            inside.pop()

    def prepare(given):
        seen.append(len(given.images))
        return evolve(given, images=2 * given.images)

    session = local(together, training=training, prepare=prepare)
    experts = session.train_experts(SETTINGS, data(), data(9), (0, 1, 2), lambda *at: seen.append(len(inside)))
    for expert, wanted in zip(
        experts,
        local(1).train_experts(
            SETTINGS, *(evolve(d, images=2 * d.images) for d in (data(), data(9))), (0, 1, 2), lambda *at: None
        ),
        strict=True,
    ):
        assert inside == []
        assert float((expert.snapshots - wanted.snapshots).abs().max()) <= 1e-12
    assert seen == [14, 9] + 3 * 2 * [1]
    session.evaluate(SETTINGS, data(5), data(6), 0, range(2), "eval", lambda done: None)
    assert seen[-2:] == [5, 6] and inside == []
    problem, segments = small_problem()
    require_same(session.meta_gradient(problem, segments), problem, segments, context_of())
    assert seen[-2:] == [5, 6] and inside == []
