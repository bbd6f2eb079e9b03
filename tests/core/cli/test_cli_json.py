"""`--json`: every line of standard output is an event, and the stream, the metrics file and the summary agree."""

from __future__ import annotations

import hashlib
import json
import math

from ddfw.contracts.settings import EvalSettings


def test_every_line_is_an_event_with_schema_name_and_time(streamed):
    """Broken: a program that reads the stream would stumble."""
    events = streamed.said.events
    for event in events:
        assert isinstance(event["schema"], int) and isinstance(event["event"], str)
        assert event["t"] >= 0
    times = [e["t"] for e in events]
    assert times == sorted(times)
    assert streamed.said.err == ""


def test_the_stream_tells_the_run_from_start_to_finish(streamed):
    """Broken: a program could not follow a run."""
    names = [e["event"] for e in streamed.said.events]
    assert names[0] == "run_started" and names[-1] == "run_finished"
    assert names.count("run_started") == names.count("run_finished") == 1
    assert names.count("expert") == 2 and names.count("step") == 3
    steps = [e for e in streamed.said.events if e["event"] == "step"]
    assert [s["step"] for s in steps] == [1, 2, 3] and {s["steps"] for s in steps} == {3}
    assert all(math.isfinite(s["loss"]) and s["step_size"] > 0 for s in steps)
    experts = [e for e in streamed.said.events if e["event"] == "expert"]
    assert [(e["index"], e["count"], e["cached"]) for e in experts] == [(0, 2, False), (1, 2, False)]


def test_selections_happen_before_every_other_step_and_tests_only_at_the_end(streamed):
    """Broken: a step could be chosen by looking at the test split."""
    found = [e for e in streamed.said.events if e["event"] == "evaluated"]
    selections = [e for e in found if e["split"] == "validation" and e["subject"] == "distilled"]
    assert [e["step"] for e in selections] == [0, 2, 3]
    tests = [e for e in found if e["split"] == "test"]
    assert found[-6:] == tests and len(tests) == 6
    last_step = max(i for i, e in enumerate(streamed.said.events) if e["event"] == "step")
    assert all(streamed.said.events.index(t) > last_step for t in tests)


def test_the_selected_step_is_the_first_best_on_validation(streamed):
    """Broken: the set that is handed out would not be the one that was selected."""
    selections = [e for e in streamed.said.events if e["event"] == "evaluated" and e["split"] == "validation"]
    best = max(e["mean"] for e in selections)
    first = next(e["step"] for e in selections if e["mean"] == best)
    assert json.loads((streamed.out / "summary.json").read_text())["selected_step"] == first


def test_the_last_line_carries_the_summary_with_every_row(streamed):
    """Broken: a sweep could not collect its results from the stream."""
    last = streamed.said.events[-1]
    assert last["status"] == "finished" and last["directory"] == str(streamed.out)
    assert last["summary"] == json.loads((streamed.out / "summary.json").read_text())
    rows = last["summary"]["rows"]
    assert [r["subject"] for r in rows] == ["distilled", *EvalSettings().baselines]
    for row in rows:
        assert 0 <= row["mean"] <= 1 and row["std"] >= 0 and row["n"] == 2
        assert set(row["floats"]) == {"strict", "pixels"}
    assert set(last["summary"]["seconds"]) == {"experts", "distill", "evaluate"}
    assert last["summary"]["recipe"] == "default" and last["summary"]["device"]["type"] == "cpu"


def test_the_metrics_file_holds_the_same_events(streamed):
    """Broken: a run's history on disk would differ from what was streamed."""
    lines = (streamed.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    stored = [json.loads(line) for line in lines]

    def timeless(events):
        return [{k: v for k, v in e.items() if k != "t"} for e in events]

    assert len(stored[-1].pop("seal")) == 64  # the last line of the file has one
    assert timeless(stored) == timeless(streamed.said.events)


def test_a_finished_run_repeats_its_summary_as_one_event(ddfw, streamed):
    """Broken: a sweep that is started again would get nothing from runs that are done."""
    said = ddfw(*streamed.arguments)
    assert said.code == 0
    (event,) = said.events
    assert event["event"] == "run_finished"
    assert event["summary"] == streamed.said.events[-1]["summary"]


def test_no_file_of_a_run_holds_a_number_that_strict_json_refuses(streamed):
    """Broken: NaN or Infinity in a file would break every reader but Python's."""

    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    for path in [*streamed.out.rglob("*.json"), streamed.out / "metrics.jsonl"]:
        for text in path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse)


def test_the_manifest_says_what_a_repetition_needs(streamed):
    """Broken: nobody could find out how a result came about."""
    manifest = json.loads((streamed.out / "manifest.json").read_text())
    assert manifest["status"] == "finished" and manifest["test_reads"] == 1
    assert {"python", "ddfw", "torch", "numpy", "safetensors"} <= set(manifest["versions"])
    assert manifest["seeds"] == {"run": 0, "split": 0, "experts": [0, 1], "eval": 0}
    assert manifest["device"]["threads"] == 1
    assert "ddfw:param-lss" in {p["identity"] for p in manifest["plugins"]}
    assert manifest["selected_step"] == streamed.said.events[-1]["summary"]["selected_step"]


def test_the_hashes_in_the_manifest_are_those_of_the_files(streamed, finished):
    """Broken: a damaged result could not be told from a good one."""
    for run in (streamed, finished):
        outputs = json.loads((run.out / "manifest.json").read_text())["outputs"]
        for name, digest in outputs.items():
            assert hashlib.sha256((run.out / name).read_bytes()).hexdigest() == digest, name
        assert {f"synthetic/{p.name}" for p in (run.out / "synthetic").iterdir()} <= set(outputs)
