"""Predicted durations: exact arithmetic with a session whose durations are scripted, on a clock of its own."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve

from ddfw.contracts.executor import MetaGradient
from ddfw.forecast.memory import expected_hold
from ddfw.forecast.time import CostClock, duration_of, num_baseline_images, predicted_times
from ddfw.pipeline.evaluation.baselines import BASELINES
from ddfw.pipeline.runner import Places, run
from ddfw.remote.pool import START_S


class FakeClock:
    """Stands still unless it is moved."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def read(self):
        return torch.tensor([self.wall, self.cpu], dtype=torch.float64)


class Scripted:
    """A session that does nothing and takes its time, in exact powers of two; processors are busy a quarter of it.

    Args:
        clock: moved by every call.
        described: what the session says of itself.
        held_steps: 0 for a session that holds no step graphs.
        warm_up: seconds that the first call of each kind takes besides.
        slow: how many times as long everything takes.
    """

    #: Of a student, of its step with a held graph, and of one without.
    student, held, recomputed = 0.5, 0.125, 0.25
    #: Of a network, of an epoch, of a step, for each image of it, for each image that is judged.
    network, epoch, step, image, judged = 0.25, 1 / 32, 1 / 16, 1 / 1024, 1 / 4096

    def __init__(self, clock, described=None, held_steps=None, warm_up=0.0, slow=1.0):
        self.device, self.calls, self.clock = torch.device("cpu"), [], clock
        self.described, self.held_steps = described or {"type": "scripted"}, held_steps
        self.warm_up, self.slow = {"student": warm_up, "network": warm_up}, slow

    def describe(self):
        return self.described

    def _takes(self, kind, seconds):
        seconds = seconds * self.slow + self.warm_up[kind]
        self.warm_up[kind] = 0.0
        self.clock.wall += seconds
        self.clock.cpu += seconds / 4

    def meta_gradient(self, problem, segments):
        steps = len(problem.schedules[0].batches)
        self.calls.append(("student", steps))
        each = self.recomputed if self.held_steps == 0 else self.held
        self._takes("student", len(segments) * (self.student + steps * each))
        zero = torch.zeros(())
        return MetaGradient(loss=zero, images=problem.images, targets=problem.targets, step_size=zero, held_steps=steps)

    def evaluate(self, settings, subject, judge, seed, networks, purpose, on_network):
        images = len(subject.images)
        self.calls.append(("network", images))
        steps = -(-images // settings.batch_size)
        epoch = self.epoch + steps * self.step + images * self.image
        self._takes(
            "network", len(networks) * (self.network + settings.epochs * epoch + len(judge.images) * self.judged)
        )
        return (0.5,) * len(networks)


def scripted(made, clock):
    """The plan with an executor of scripted sessions, and the contexts of those that it is asked for."""
    opened = []

    def open_(context):
        opened.append(context)
        return nullcontext(Scripted(clock, held_steps=context.held_steps))

    return made.with_config(evolve(made.config, executor=SimpleNamespace(open=open_))), opened


#: Forecasts are rounded to milliseconds.
MS = 1e-3


def forecast(made, missing=0, **options):
    """Predicted seconds, the session's calls, and the contexts of further sessions."""
    clock = FakeClock()
    session = Scripted(clock, **options)
    made, opened = scripted(made, clock)
    return predicted_times(made, session, missing, clock)["seconds"], session.calls, opened


def student(steps):
    """What a scripted student of so many steps takes."""
    return Scripted.student + steps * Scripted.held


def network(images, epochs, judged, batch_size=64):
    """What a scripted network takes."""
    s = Scripted
    epoch = s.epoch + -(-images // batch_size) * s.step + images * s.image
    return s.network + epochs * epoch + judged * s.judged


def looking(made):
    """What an expert takes that sees every training image once, whose features baselines are selected by."""
    return network(0, 0, len(made.splits.train.labels))


def selecting(made, times):
    """What so many selections on the validation split take."""
    return times * 2 * network(made.layout.num_images, 3, len(made.splits.validation.labels))


def test_an_outer_step_is_linear_in_inner_steps_and_segments(make):
    """Broken: the predicted time of a run would not follow its settings."""
    for steps in (1, 2, 3, 8, 50):
        made = make(outer={"syn_steps": steps})
        found, calls, _ = forecast(made)
        assert found["distill"] == pytest.approx(10 * 2 * student(steps) + selecting(made, 4), abs=MS)
        assert max(n for kind, n in calls if kind == "student") == min(3, steps)


def test_steps_whose_graphs_do_not_fit_cost_what_recomputation_costs(make):
    """Broken: a run on a machine of little memory would be predicted as fast as on a large one."""
    made = make()
    _, one = expected_hold(made, Scripted(FakeClock()))
    made = make(gradient={"memory": 5 * one // 2})
    found, _, opened = forecast(made)
    mixed = Scripted.student + 2 * Scripted.held + 6 * Scripted.recomputed
    assert found["distill"] == pytest.approx(10 * 2 * mixed + selecting(made, 4), abs=MS)
    assert [context.held_steps for context in opened] == [0]


def test_a_short_last_batch_costs_its_part(make):
    """Broken: sets that batches do not divide would be predicted as larger ones."""
    made = make(budget={"ipc": 2}, outer={"syn_steps": 2, "batch_syn": 15})
    found, _, _ = forecast(made)
    one = Scripted.student + 2 * Scripted.held * 20 / 30
    assert found["distill"] == pytest.approx(10 * 2 * one + selecting(made, 4), abs=MS)


@pytest.mark.parametrize(("steps", "every", "expected"), [(3, 2, 3), (4, 2, 3), (80, 20, 5), (1, 50, 2), (50, 5, 11)])
def test_selections_are_counted_as_runs_make_them(make, steps, every, expected):
    """Broken: one too many or too few, which is much in short runs."""
    made = make(outer={"steps": steps}, eval={"every": every})
    found, _, _ = forecast(made)
    assert found["distill"] == pytest.approx(steps * 2 * student(8) + selecting(made, expected), abs=MS)


@pytest.mark.parametrize(("optimiser", "passes"), [("sgd", 1), ("gsam", 2)])
def test_an_expert_costs_its_epochs_and_what_judging_after_each_costs(make, optimiser, passes):
    """Broken: experts, the longest part of many runs, would be predicted wrongly."""
    made = make(experts={"optimiser": optimiser})
    found, _, _ = forecast(made, missing=3)
    train, validation = len(made.splits.train.labels), len(made.splits.validation.labels)
    assert found["experts"] == pytest.approx(3 * network(train, passes * 4, 4 * validation, batch_size=100), abs=MS)
    assert forecast(made, missing=0)[0]["experts"] == 0.0


def test_all_stages_add_up_over_selections_baselines_and_other_networks(make):
    """Broken: a part of the run, other networks say, would be missing in what it is said to take."""
    made = make(cross={"mlp": {"name": "mlp", "width": 4}}, eval={"baseline_lrs": [0.01, 0.02]})
    found, _, opened = forecast(made, missing=3)
    assert len(opened) == 1
    train, validation, test = (
        len(made.splits.train.labels), len(made.splits.validation.labels), len(made.splits.test)
    )  # fmt: skip
    # The learned set and four baselines, all of ten images; the baselines also at each of two rates.
    table = 5 * 5 * network(10, 6, test)
    rates = 4 * 2 * 2 * network(10, 3, validation)
    full = 5 * network(train, 2, test)
    evaluate = 2 * (table + rates) + full + looking(made)
    assert found["evaluate"] == pytest.approx(evaluate, abs=MS)
    experts = 3 * network(train, 4, 4 * validation, batch_size=100)
    distill = 10 * 2 * student(8) + selecting(made, 4)
    assert found["total"] == pytest.approx(experts + distill + evaluate, abs=MS)


def test_workers_of_the_session_shorten_what_they_share(make):
    """Broken: a run on sixteen cores would be predicted as on one."""
    made = make()
    alone, _, _ = forecast(made, missing=4)
    clock = FakeClock()
    made, _ = scripted(made, clock)
    found = predicted_times(made, Scripted(clock, described={"type": "scripted", "workers": 2}), 4, clock)
    assert found["workers"] == 2
    assert found["seconds"]["experts"] == pytest.approx(alone["experts"] / 2 + START_S, abs=MS)
    together = alone["evaluate"] - looking(made)
    assert found["seconds"]["evaluate"] == pytest.approx(together / 2 + looking(made), rel=0.02)
    assert found["cpu_seconds"]["experts"] == pytest.approx(alone["experts"] / 4 + 2 * START_S, abs=MS)


def test_a_slow_first_call_is_no_part_of_the_forecast(make):
    """Broken: what PyTorch loads at a first call would be multiplied, and hours predicted for a run of minutes."""
    made = make()
    warm, cold = forecast(made, missing=3), forecast(made, missing=3, warm_up=30.0)
    assert cold[0] == warm[0] and cold[1] == warm[1]


def test_processor_seconds_are_predicted_beside_those_of_the_clock(make):
    """Broken: on a busy machine nobody would know what the run itself needs."""
    clock = FakeClock()
    made, _ = scripted(make(), clock)
    found = predicted_times(made, Scripted(clock), 3, clock)
    assert found["cpu_seconds"] == pytest.approx(
        {stage: value / 4 for stage, value in found["seconds"].items()}, abs=MS
    )


def test_the_real_clock_counts_processors_apart_from_waiting():
    """Broken: a machine that waits would count as one that works, or the other way round."""
    clock = CostClock()
    began = clock.read()
    time.sleep(0.2)
    slept = clock.read() - began
    assert slept[0] >= 0.2 and slept[1] < 0.15
    began = clock.read()
    while time.process_time() - float(began[1]) < 0.1:
        pass
    assert clock.read()[1] - began[1] >= 0.1


def test_compiling_counts_once_and_not_for_each_step(make):
    """Broken: half a minute of compiling would be multiplied by the number of outer steps, or held graphs expected."""
    made, described = make(), {"type": "scripted", "compiled": True, "held_steps": 0}
    plain, _, _ = forecast(made)
    found, _, _ = forecast(made, described=described, warm_up=32.0)
    assert 32.0 < found["distill"] - plain["distill"] < 34.0
    assert expected_hold(made, Scripted(FakeClock(), described))[0] == 0


@pytest.mark.parametrize("way", ["compiled", "graphs"])
def test_the_short_batch_of_a_set_is_compiled_too(make, way):
    """Broken: a run with batches of two sizes begins its first step a minute late."""
    described = {"type": "scripted", way: True, "held_steps": 0}
    extra = []
    for batch in (10, 7):  # of ten images: one size, or seven and three
        made = make(budget={"ipc": 1}, outer={"batch_syn": batch, "syn_steps": 4})
        plain, _, _ = forecast(made)
        extra.append(forecast(made, described=described, warm_up=32.0)[0]["distill"] - plain["distill"])
    assert 32.0 < extra[0] < 34.0 and 64.0 < extra[1] < 67.0


def test_the_median_of_several_calls_is_taken_and_a_long_one_is_not_repeated():
    """Broken: a call that was disturbed would be the measurement, or looking would take minutes."""
    clock, times = FakeClock(), iter([0.01, 0.5, 0.01, *[0.02] * 30])

    def work():
        clock.wall += next(times)

    assert duration_of(clock, work).tolist() == [pytest.approx(0.02), 0.0]
    times = iter([5.0])
    assert duration_of(clock, work).tolist() == [pytest.approx(5.0), 0.0]


def test_a_large_network_is_measured_in_few_calls_of_few_images(make):
    """Broken: looking at what a run would cost would itself take minutes."""
    _, calls, _ = forecast(make(), missing=3, slow=64.0)
    assert len(calls) <= 9 and max(images for kind, images in calls if kind == "network") <= 48
    clock = FakeClock()
    made, _ = scripted(make(), clock)
    predicted_times(made, Scripted(clock), 3, clock)
    assert clock.wall < 30


def test_baselines_are_predicted_with_the_images_that_a_real_run_gives_them(make, tmp_path):
    """Broken: a baseline's price could change in the forecast alone, or in both, and nobody would notice."""
    names = [name for name, baseline in BASELINES.items() if baseline.selection != "all"]
    made = make(
        budget={"ipc": 3}, param={"name": "lss", "rank": 4}, experts={"count": 1, "epochs": 2},
        outer={"steps": 1, "syn_steps": 1, "segments_per_step": 1},
        eval={"networks": 2, "epochs": 1, "select_networks": 1, "select_epochs": 1, "baselines": names},
        traj={"name": "mtt", "expert_epochs": 1},
    )  # fmt: skip
    result = run(made.config, Places(out=tmp_path / "run", experts=tmp_path / "experts"), quiet=True)
    rows = {row["subject"]: row for row in result.summary["rows"]}
    images = {name: rows[name]["images"] for name in names}
    assert {name: num_baseline_images(made, BASELINES[name]) for name in names} == images
    # 3 · 10 · 64 floats buy 30 images of 64 floats, or 25 with ten floats of a label: two of each class.
    learned = rows["distilled"]["images"]
    assert learned not in (20, 30)
    for name in names:
        assert images[name] == (learned if "count" in name else 20 if "teacher" in name else 30), name
    assert rows["random_real"]["floats"]["strict"] == 1920 and rows["random_real_teacher"]["floats"]["strict"] == 1480
