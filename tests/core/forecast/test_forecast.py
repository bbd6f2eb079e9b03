"""Predicted time and memory: exact arithmetic with a session whose durations are scripted, on a clock of its own."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve

from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.contracts.executor import Crew, MetaGradient, TrainedExpert
from ddfw.engine.budget import graph_bytes
from ddfw.forecast import memory as footprints
from ddfw.forecast import time
from ddfw.forecast.memory import Footprint, Hold, expected_hold, footprint, sample_problem
from ddfw.forecast.time import (
    NetworkCost,
    Prediction,
    Stopwatch,
    baseline_images,
    duration,
    memory_text,
    missing_experts,
    predict,
    predict_seconds,
    selections,
    time_expert,
    time_networks,
    time_outer,
    time_text,
)
from ddfw.pipeline.evaluation.evaluator import cross_contexts
from ddfw.pipeline.runner import Places, plan
from ddfw_plugins.executors.cpu import Cpu

SETTINGS = {
    "model": {"depth": 2, "width": 4},
    "experts": {"count": 3, "epochs": 4, "batch_size": 100},
    "outer": {"steps": 10, "syn_steps": 8, "segments_per_step": 2, "batch_syn": 0},
    "eval": {
        "networks": 5,
        "epochs": 6,
        "batch_size": 64,
        "full_epochs": 2,
        "every": 4,
        "select_networks": 2,
        "select_epochs": 3,
        "baseline_lrs": [0.01],
    },
    "window": {"start": 1, "max_start": 1},
    "executor": {"threads": 1},
}


def make(tmp_path, **tables):
    """A plan on digits; tables are merged into SETTINGS."""
    merged = {k: dict(v) for k, v in SETTINGS.items()}
    for key, table in tables.items():
        merged[key] = {**merged.get(key, {}), **table} if isinstance(table, dict) else table
    config = structured_config(gather("default", {"param": "pixel", "traj": "mtt", **merged}, ()))
    return plan(config, Places(experts=tmp_path / "experts"))


class Scripted:
    """A session that does nothing and takes its time, on a clock of its own, in exact powers of two."""

    #: Of a student, of its step with a held graph, and of one without.
    student, held, recomputed = 0.5, 0.125, 0.25
    #: Of a network, of a step, for each image of it, for each image that is judged.
    network, step, image, judged = 0.25, 1 / 16, 1 / 1024, 1 / 4096

    def __init__(self, described=None, held_steps=None, slow=1.0, time=None):
        self.device, self.calls, self.time = torch.device("cpu"), [], time or SimpleNamespace(now=0.0)
        self.described, self.held_steps, self.slow = described or {"type": "scripted"}, held_steps, slow

    def clock(self):
        return self.time.now

    def describe(self):
        return self.described

    def meta_gradient(self, problem, segments):
        steps = len(problem.schedules[0].batches)
        self.calls.append(("student", steps))
        each = self.recomputed if self.held_steps == 0 else self.held
        self.time.now += self.slow * len(segments) * (self.student + steps * each)
        zero = torch.zeros(())
        return MetaGradient(loss=zero, images=problem.images, targets=problem.targets, step_size=zero, held_steps=steps)

    def _train(self, settings, images):
        steps = -(-images // settings.batch_size)
        return self.network + settings.epochs * (steps * self.step + images * self.image)

    def evaluate(self, settings, subject, judge, seed, networks, purpose, on_network):
        self.calls.append(("network", len(subject.images), settings.epochs))
        one = self._train(settings, len(subject.images)) + len(judge.images) * self.judged
        self.time.now += self.slow * len(networks) * one
        return (0.5,) * len(networks)

    def train_experts(self, settings, train, validation, seeds, on_epoch):
        self.calls.append(("expert", len(train.images), settings.epochs))
        self.time.now += self.slow * self._train(settings, len(train.images))
        yield from (TrainedExpert(seed=s, snapshots=torch.zeros(2, 3), validation_accuracy=(), train_loss=())
                    for s in seeds)  # fmt: skip


def opener(session, opened):
    """Opens sessions on the clock of one."""

    @contextmanager
    def reopen(context):
        opened.append(context)
        yield Scripted(held_steps=context.held_steps, time=session.time)

    return reopen


def test_an_outer_step_is_linear_in_inner_steps_and_segments(tmp_path):
    """Broken: the predicted time of a run would not follow its settings."""
    for steps in (1, 2, 3, 8, 50):
        session = Scripted()
        made = make(tmp_path, outer={"syn_steps": steps})
        found = time_outer(made, session, None, Stopwatch(clock=session.clock))
        assert found == pytest.approx(2 * (Scripted.student + steps * Scripted.held), rel=1e-12)
        assert max(n for _, n in session.calls) == min(3, steps)


def test_steps_whose_graphs_do_not_fit_cost_what_recomputation_costs(tmp_path):
    """Broken: a run on a machine of little memory would be predicted as fast as on a large one."""
    session, opened = Scripted(described={"graph_bytes": 100}), []
    made = make(tmp_path, gradient={"memory": 250})
    assert expected_hold(made, session) == Hold(steps=2, graph_bytes=100)
    found = time_outer(made, session, opener(session, opened), Stopwatch(clock=session.clock))
    mixed = 2 * Scripted.held + 6 * Scripted.recomputed
    assert found == pytest.approx(2 * (Scripted.student + mixed), rel=1e-12)
    assert [context.held_steps for context in opened] == [0]


def test_a_short_last_batch_costs_its_part(tmp_path):
    """Broken: sets that batches do not divide would be predicted as larger ones."""
    made, session = make(tmp_path, budget={"ipc": 2}, outer={"syn_steps": 2, "batch_syn": 15}), Scripted()
    found = time_outer(made, session, None, Stopwatch(clock=session.clock))
    assert found == pytest.approx(2 * (Scripted.student + 2 * Scripted.held * 20 / 30), rel=1e-12)


def test_networks_cost_by_step_by_image_and_by_judged_image(tmp_path):
    """Broken: a table of networks on ten images and on thousands would be predicted from one of them."""
    session = Scripted()
    cost = time_networks(make(tmp_path), session, Stopwatch(clock=session.clock))
    s = Scripted
    assert (cost.fixed, cost.step, cost.image, cost.judged) == pytest.approx((s.network, s.step, s.image, s.judged))
    assert cost.network(130, 2, 10) == pytest.approx(s.network + 2 * (3 * s.step + 130 * s.image) + 10 * s.judged)


def test_an_expert_costs_its_epochs(tmp_path):
    """Broken: experts, the longest part of many runs, would be predicted wrongly."""
    session, made = Scripted(), make(tmp_path)
    own = NetworkCost(fixed=0.0, step=0.0, image=1 / 1024, judged=Scripted.judged, batch_size=64)
    found = time_expert(made, session, own, Stopwatch(clock=session.clock))
    train, validation = len(made.splits.train.labels), len(made.splits.validation.labels)
    epoch = Scripted.network + train / 100 * (Scripted.step + 100 * Scripted.image) + validation * Scripted.judged
    assert found == pytest.approx(4 * epoch)
    assert {epochs for _, _, epochs in session.calls} == {1}
    assert max(images for _, images, _ in session.calls) <= 300


def test_all_stages_add_up_over_selections_baselines_and_other_networks(tmp_path):
    """Broken: a part of the run, other networks say, would be missing in what it is said to take."""
    session, opened = Scripted(), []
    made = make(tmp_path, cross={"mlp": {"name": "mlp", "width": 4}}, eval={"baseline_lrs": [0.01, 0.02]})
    found = predict_seconds(made, session, reopen=opener(session, opened), clock=session.clock)
    assert len(opened) == len(cross_contexts(made)) == 1
    s, test, validation = Scripted, len(made.splits.test), len(made.splits.validation.labels)

    def network(images, epochs, judged, per_step=s.step, per_image=s.image):
        return s.network + epochs * (-(-images // 64) * per_step + images * per_image) + judged * s.judged

    n, train = made.layout.num_images, len(made.splits.train.labels)
    assert found["distill"] == pytest.approx(10 * 2 * (s.student + 8 * s.held) + 4 * 2 * network(n, 3, validation))
    # All sets here have ten images, on which other networks are timed, too.
    small = [n, baseline_images(made, "random_real"), baseline_images(made, "random_real_teacher")]
    assert small == [10, 10, 10]
    table = sum(5 * network(count, 6, test) for count in small)
    rates = 2 * 2 * sum(network(count, 3, validation) for count in small[1:])
    labels = 10 * 3 * s.judged
    full = 5 * network(train, 2, test)
    assert found["evaluate"] == pytest.approx(2 * (table + rates) + labels + full)
    assert found["experts"] > 0
    assert found["total"] == pytest.approx(found["experts"] + found["distill"] + found["evaluate"])


def test_cached_experts_cost_nothing(tmp_path, monkeypatch):
    """Broken: a run whose experts are there would be said to take hours."""
    made, session = make(tmp_path), Scripted()
    assert len(missing_experts(made)) == 3
    monkeypatch.setattr(type(made.expert_set.store), "index", lambda self: dict.fromkeys(range(3)))
    assert missing_experts(made) == []
    found = predict_seconds(made, session, reopen=None, clock=session.clock)
    assert found["experts"] == 0.0 and not [call for call in session.calls if call[0] == "expert"]


def test_a_large_network_is_measured_in_few_calls(tmp_path):
    """Broken: looking at what a run would cost would itself take minutes."""
    session, made = Scripted(slow=64.0), make(tmp_path)
    predict_seconds(made, session, reopen=None, clock=session.clock)
    assert len(session.calls) <= 8
    quick = Scripted()
    predict_seconds(made, quick, reopen=None, clock=quick.clock)
    assert quick.clock() < 30


def test_compiling_counts_once_and_not_for_each_step(tmp_path):
    """Broken: half a minute of compiling would be multiplied by the number of outer steps, or held graphs expected."""

    class Compiling(Scripted):
        def meta_gradient(self, problem, segments):
            self.time.now += 32.0 * (not self.calls)
            return super().meta_gradient(problem, segments)

    made = make(tmp_path)
    plain, compiled = Scripted(), Compiling({"type": "scripted", "compiled": True, "held_steps": 0})
    without = predict_seconds(made, plain, reopen=None, clock=plain.clock)
    found = predict_seconds(made, compiled, reopen=None, clock=compiled.clock)
    assert 32.0 < found["distill"] - without["distill"] < 34.0
    assert expected_hold(made, compiled).steps == 0


def test_a_stopwatch_warms_up_and_takes_the_median():
    """Broken: the first call, which compiles or allocates, or one that was disturbed would be the measurement."""
    now = [0.0]

    def work():
        now[0] += next(times)

    now[0], times = 0.0, iter([0.9, 0.01, *[0.02] * 20])
    assert Stopwatch(clock=lambda: now[0])(work) == pytest.approx(0.02)
    now[0], times = 0.0, iter([5.0])
    assert Stopwatch(clock=lambda: now[0])(work) == 5.0


@pytest.mark.parametrize(
    ("steps", "every", "expected"), [(3, 2, 3), (4, 2, 3), (80, 20, 5), (1, 50, 2), (5000, 500, 11)]
)
def test_selections_are_counted_as_runs_make_them(steps, every, expected):
    """Broken: one too many or too few, which is much in short runs."""
    assert selections(steps, every) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0 s"), (0.31, "0.3 s"), (9.99, "10 s"), (47.2, "47 s"), (89, "89 s"), (95, "1.6 min"), (720, "12 min"),
     (5399, "90 min"), (11000, "3.1 h"), (100 * 3600, "4.2 d"), (400 * 86400, "400 d")],
)  # fmt: skip
def test_durations_read_like_durations(seconds, text):
    """Broken: hours in seconds, or digits that nobody can know."""
    assert duration(seconds) == text


def test_a_prediction_reads_as_one_line_and_as_json():
    """Broken: the words or the keys that readers look for."""
    seconds = {"experts": 180.0, "distill": 420.0, "evaluate": 120.0, "total": 720.0}
    assert time_text(seconds).startswith("about 12 min (experts 3.0 min, distillation 7.0 min, evaluation 2.0 min), ")
    memory = Footprint(
        stage="distill", parts={"data": 6 * 10**8, "step graphs": 8 * 10**8, "path": 10**6}, device=torch.device("cpu"),
        available=22 * 10**9,
    )  # fmt: skip
    assert memory_text(memory) == "about 1.4 GB in distillation (step graphs 0.8, data 0.6), 22 GB available"
    found = Prediction(seconds=seconds, memory=memory, held_steps=4)
    assert found.record()["predicted_bytes"] == {
        "data": 600_000_000, "step_graphs": 800_000_000, "path": 1_000_000, "total": 1_401_000_000,
    }  # fmt: skip
    assert found.record()["predicted_seconds"] == seconds and found.record()["predicted_held_steps"] == 4
    assert list(found.lines()) == ["peak memory", "time"]
    there = Prediction(seconds=seconds, memory=evolve(memory, device=torch.device("cuda:0")))
    assert list(there.lines()) == ["cuda:0 memory", "time"]


def test_memory_parts_add_up_and_follow_the_settings(tmp_path):
    """Broken: a run that does not fit would be said to."""
    made = make(tmp_path, outer={"syn_steps": 400})
    with Cpu(threads=1).open(made.context()) as session:
        problem, segment = sample_problem(made, 3, session.device)
        session.meta_gradient(problem, [segment])
        one = session.describe()["graph_bytes"]
        assert one == graph_bytes(made.network, segment.start, problem.images, problem.targets)
        found = footprint(made, session, 3, None)
    itemsize, parameters = 4, made.network.num_parameters
    assert found.stage == "distill" and found.total == sum(found.parts.values())
    assert found.parts["step graphs"] == 400 * one
    assert found.parts["path"] == 401 * parameters * itemsize
    assert found.parts["images"] == 3 * 10 * 64 * itemsize
    assert found.parts["data"] == (len(made.splits.train.labels) + len(made.splits.validation.labels)) * (64 * 4 + 8)
    assert found.parts["raw images"] >= 1797 * 64
    # Where little is held, experts' checkpoints or judging weigh more; whatever was reached already counts, too.
    with Cpu(threads=1).open(made.context()) as session:
        most = footprint(made, session, 3, 10**12)
    assert (most.stage, most.total) == ("loading", 10**12)
    less = make(tmp_path, gradient={"memory": 0})
    with Cpu(threads=1).open(less.context()) as session:
        found = footprint(less, session, 3, None)
    assert "step graphs" not in found.parts and found.total == sum(found.parts.values())


def test_an_accelerators_memory_is_counted_alone(tmp_path, monkeypatch):
    """Broken: program and raw images, which lie in the host's memory, would count against the device's."""
    made = make(tmp_path, gradient={"memory": 0})
    with Cpu(threads=1).open(made.context()) as session:
        host = footprint(made, session, 0, None)
    session = SimpleNamespace(device=torch.device("meta"), describe=lambda: {"graph_bytes": 1000})
    monkeypatch.setattr(footprints, "_measured", lambda plan, device: footprints._Work(
        step=lambda n: 5000, training=lambda n: 10, judging=lambda n: 10))  # fmt: skip
    found = footprint(made, session, 0, 10**12)
    assert not {"program", "raw images", "loading"} & set(found.parts) and {"program", "raw images"} <= set(host.parts)
    assert found.device.type == "meta" and found.available is None and found.total < host.total


def test_what_a_session_cannot_do_is_a_reason_and_no_error(tmp_path, monkeypatch):
    """Broken: a fault in measuring would take the rest of what a dry run says with it."""
    made = make(tmp_path)

    def broken(*arguments, **more):
        raise RuntimeError("no such thing\nand more")

    monkeypatch.setattr(time, "predict_seconds", broken)
    found = predict(made)
    assert found.seconds is None and found.memory is not None
    assert found.lines()["time"] == "not predicted: no such thing"
    assert found.record()["predicted_seconds"] is None
    monkeypatch.setattr(Cpu, "open", broken)
    found = predict(made)
    assert found.record()["predicted_bytes"] is None
    assert set(found.lines().values()) == {"not predicted: no such thing"}


def test_a_crew_is_not_measured(tmp_path, monkeypatch):
    """Broken: processes that measure different times would wait for each other for ever."""
    made, opened = make(tmp_path), []

    @contextmanager
    def two(self):
        crew = Crew()
        crew.size = 2
        yield crew

    monkeypatch.setattr(Cpu, "assemble", two)
    monkeypatch.setattr(Cpu, "open", lambda self, context: opened.append(context))
    assert set(predict(made).lines().values()) == {"not predicted: a crew of 2 processes is not measured"}
    assert not opened


def test_measuring_leaves_nothing_behind(tmp_path):
    """Broken: looking would draw global random numbers, leave files, or change the number of threads."""
    made = make(tmp_path)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = predict(made)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    assert list(tmp_path.iterdir()) == [] and made.splits.test.reads == 0
    assert found.seconds is not None and found.memory is not None and found.held_steps == 8
    assert not found.reasons
