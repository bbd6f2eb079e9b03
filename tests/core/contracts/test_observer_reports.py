"""Reports as events: what `--json` and metrics.jsonl are made of."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest

from ddfw.contracts.observer import (
    EVENT_SCHEMA,
    EvaluationReport,
    ExpertReport,
    ProgressReport,
    RunFinished,
    RunStarted,
    StepReport,
    as_event,
)

EVALUATION = EvaluationReport(
    subject="distilled", split="test", net="convnet", n=2, accuracies=(0.5, 0.25), mean=0.375, std=0.1, seeds=(0, 1),
    step=3, eval_seed=7, selected_by="validation", lr=0.01, images=20, floats={"strict": 5, "pixels": 4}, notes=("n",),
)  # fmt: skip
REPORTS = [
    (RunStarted(recipe="r", seed=1, directory=Path("a/b"), steps=3, experts=2, headline=("h",)), "run_started"),
    (ExpertReport(index=0, count=2, seed=0, cached=True, validation_accuracy=0.5, location=Path("e")), "expert"),
    (
        StepReport(step=1, steps=3, loss=0.5, step_size=0.01, start_epoch=0.5, window_high=1, grad_norm_images=1.0),
        "step",
    ),
    (EVALUATION, "evaluated"),
    (ProgressReport(stage="experts", done=1, total=2), "progress"),
    (RunFinished(status="finished", directory=Path("a"), summary={"rows": ({"p": Path("x")},)}), "run_finished"),
]


@pytest.mark.parametrize(("report", "name"), REPORTS, ids=[n for _, n in REPORTS])
def test_every_report_becomes_plain_json_that_starts_with_schema_name_and_time(report, name):
    """Broken: an event could not be written, or a reader would not know what it is."""
    event = as_event(report, 1.23456)
    assert list(event)[:3] == ["schema", "event", "t"]
    assert (event["schema"], event["event"], event["t"]) == (EVENT_SCHEMA, name, 1.235)
    assert json.loads(json.dumps(event, allow_nan=False)) == event


def test_an_event_holds_every_field_of_its_report_except_words_for_people():
    """Broken: a figure would be missing from every stream and log."""
    event = as_event(EVALUATION, 0.0)
    for name, part in attrs.fields_dict(EvaluationReport).items():
        if not part.metadata.get("event", True):  # the matrix, which stands in eval/ alone
            assert name == "confusion" and name not in event
            continue
        value = getattr(EVALUATION, name)
        assert event[name] == (list(value) if isinstance(value, tuple) else value)
    assert "headline" not in as_event(REPORTS[0][0], 0.0)


@pytest.mark.parametrize("report", [r for r, _ in REPORTS], ids=[n for _, n in REPORTS])
def test_a_report_cannot_be_changed_by_an_observer(report):
    """Broken: one observer could change what the next one sees, or the run itself."""
    name = next(iter(attrs.fields_dict(type(report))))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(report, name, 0)
