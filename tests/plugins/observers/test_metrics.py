"""`metrics`: one JSON line for each report, on disk as soon as it was told."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import evolve

from ddfw.contracts.observer import EvaluationReport, ExpertReport, ProgressReport, RunFinished, RunStarted, StepReport
from ddfw_plugins.observers.metrics import Metrics

STARTED = RunStarted(recipe="r", seed=0, directory=Path("d"), steps=2, experts=1, headline=("for people",))
EXPERT = ExpertReport(index=0, count=1, seed=0, cached=False, validation_accuracy=0.5, location=Path("é"))
STEP = StepReport(step=1, steps=2, loss=0.25, step_size=0.01, start_epoch=0.5, window_high=1, grad_norm_images=2.0)
FINISHED = RunFinished(status="finished", directory=Path("d"), summary={"rows": [{"mean": 0.5}]})


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_report_but_a_tick_is_a_line_in_its_order(tmp_path):
    """Broken: a run's history would have holes, or be flooded by progress."""
    with Metrics().open(tmp_path) as session:
        session.run_started(STARTED)
        session.progress(ProgressReport(stage="experts", done=1, total=2))
        session.expert_ready(EXPERT)
        session.step_finished(STEP)
        session.run_finished(FINISHED)
    found = lines(tmp_path)
    assert [f["event"] for f in found] == ["run_started", "expert", "step", "run_finished"]
    assert found[2]["loss"] == 0.25 and found[2]["window_high"] == 1
    assert found[1]["location"] == "é"
    assert found[3]["summary"] == {"rows": [{"mean": 0.5}]}
    times = [f["t"] for f in found]
    assert times == sorted(times) and times[0] >= 0


def test_a_line_is_on_disk_before_the_run_goes_on(tmp_path):
    """Broken: a killed run would have lost its last steps, and nobody could watch a run from outside."""
    with Metrics().open(tmp_path) as session:
        for step in range(1, 4):
            session.step_finished(STEP)
            assert len(lines(tmp_path)) == step


def test_a_run_that_starts_anew_starts_a_new_file(tmp_path):
    """Broken: two attempts would be mixed in one history."""
    for _ in range(2):
        with Metrics().open(tmp_path) as session:
            session.step_finished(STEP)
    assert len(lines(tmp_path)) == 1


def test_the_file_is_complete_when_the_run_fails(tmp_path):
    """Broken: a crash would leave half a line."""
    try:
        with Metrics().open(tmp_path) as session:
            session.step_finished(STEP)
            raise RuntimeError("the run failed")
    except RuntimeError:
        pass
    assert (tmp_path / "metrics.jsonl").read_text().endswith("\n") and len(lines(tmp_path)) == 1


def test_a_run_that_goes_on_keeps_what_was_told_up_to_its_step_and_nothing_later(tmp_path):
    """Broken: metrics.jsonl would hold a step twice, or lack one."""

    def step(number):
        return evolve(STEP, step=number)

    def selection(number, subject="distilled", split="validation"):
        return EvaluationReport(
            subject=subject, split=split, net="convnet", n=1, accuracies=(0.5,), mean=0.5, std=0.0, seeds=(0,),
            eval_seed=0, step=number, selected_by="nothing", lr=0.1, images=1, floats={},
        )  # fmt: skip

    told = [STARTED, EXPERT, selection(0), step(1), step(2), selection(2), step(3)]
    for later in (
        [],
        [step(4), selection(4)],
        [selection(None, "random_real")],
        [selection(2, split="test")],
        [FINISHED],
    ):
        with Metrics().open(tmp_path) as session:
            for report in [*told, *later]:
                tell(session, report)
        text = (tmp_path / "metrics.jsonl").read_text()
        with Metrics().open(tmp_path) as session:
            assert (tmp_path / "metrics.jsonl").read_text() == text, "nothing goes before the run says that it goes on"
            session.run_started(evolve(STARTED, first_step=3))
            session.step_finished(step(4))
        events = lines(tmp_path)
        assert [e["event"] for e in events[-2:]] == ["run_started", "step"] and events[-2]["first_step"] == 3
        assert len(events) == len(told) + 2 and [e["step"] for e in events if e["event"] == "step"] == [1, 2, 3, 4]
        assert [e["t"] for e in events] == sorted(e["t"] for e in events)


def test_a_run_that_goes_on_without_its_metrics_starts_a_file(tmp_path):
    """Broken: a history that somebody moved away would end the observer."""
    with Metrics().open(tmp_path) as session:
        session.run_started(evolve(STARTED, first_step=3))
    assert [e["first_step"] for e in lines(tmp_path)] == [3]


def tell(session, report):
    names = {"run_started": "run_started", "expert": "expert_ready", "step": "step_finished"}
    getattr(session, names.get(report.event, report.event))(report)
