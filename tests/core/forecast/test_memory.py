"""Predicted memory, held against the tensors that real runs hold."""

from __future__ import annotations

import inspect
import mmap
from types import SimpleNamespace

import pytest
import torch

from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.engine.budget import LiveBytes, graph_bytes
from ddfw.engine.training import accuracy
from ddfw.forecast import memory
from ddfw.forecast.memory import expected_hold, predicted_peak, process_bytes, sample_problem, stage_memory
from ddfw.pipeline.runner import Places, plan, run
from ddfw_plugins.executors.cpu import Cpu

#: Everything small, so that one part of a run can be made to outweigh all others.
SMALL = {
    "data": {"name": "digits", "per_class": 20},
    "param": {"name": "pixel"},
    "traj": {"name": "mtt", "expert_epochs": 1},
    "model": {"name": "mlp", "width": 8},
    "augment": {"name": "none"},
    "experts": {"count": 1, "epochs": 1, "batch_size": 100},
    "outer": {"steps": 1, "syn_steps": 1, "batch_syn": 10},
    "window": {"start": 1, "max_start": 1},
    "gradient": {"memory": 0},
    "eval": {"networks": 2, "epochs": 1, "batch_size": 64, "every": 4, "select_networks": 1, "baselines": []},
    "executor": {"threads": 1},
}
WIDE = {"name": "mlp", "width": 400}


@pytest.mark.parametrize(
    ("factor", "tables"),
    [
        ("NETWORK_COPIES", {"model": WIDE}),
        ("SHARPNESS_COPIES", {"model": WIDE, "experts": {"optimiser": "gsam"}}),
        ("CHECKPOINT_COPIES", {"model": WIDE, "experts": {"epochs": 20}}),
        ("REVERSE_COPIES", {"model": WIDE, "outer": {"syn_steps": 4}}),
        ("SOURCE_COPIES", {"model": WIDE, "traj": {"name": "mct"}, "experts": {"count": 10, "epochs": 2}}),
        ("LEARNED_COPIES", {"budget": {"ipc": 100}}),
        ("IMAGE_COPIES", {"budget": {"ipc": 30}, "param": {"name": "lss", "rank": 2}}),
    ],
)
def test_each_factor_is_what_a_real_run_holds(tmp_path, monkeypatch, factor, tables):
    """Broken: a run that does not fit would be said to; twice the factor would be noticed here."""
    merged = {key: {**table, **tables.get(key, {})} for key, table in SMALL.items()}
    merged["budget"] = tables.get("budget", {})
    config = structured_config(gather("default", merged, ()))
    places = Places(out=tmp_path / "run", experts=tmp_path / "experts")
    made = plan(config, places)

    def predicted():
        with config.executor.open(made.context()) as session:
            return max(sum(parts.values()) for parts in stage_memory(made, session, config.experts.count).values())

    once = predicted()
    with LiveBytes() as held:
        run(config, places, quiet=True)
    assert 0.8 < once / held.peak < 1.25
    monkeypatch.setattr(memory, factor, 2 * getattr(memory, factor))
    assert predicted() / held.peak > 1.25


def test_as_many_images_are_judged_at_a_time_as_the_engine_judges():
    """Broken: judging thousands of test images would be predicted as judging a few."""
    assert inspect.signature(accuracy).parameters["chunk"].default == memory.CHUNK


def test_parts_follow_the_settings(make):
    """Broken: a run that does not fit would be said to."""
    made = make(outer={"syn_steps": 400})
    with Cpu(threads=1).open(made.context()) as session:
        problem, segment = sample_problem(made, 3, session.device)
        session.meta_gradient(problem, [segment])
        one = session.describe()["graph_bytes"]
        assert one == graph_bytes(made.network, segment.start, problem.images, problem.targets)
        assert expected_hold(made, session) == (400, one)
        found = predicted_peak(made, session, 3, 0)
        # Whatever was reached already counts, too.
        most = predicted_peak(made, session, 3, 10**12)
    parts, splits = found["peak_bytes"], made.splits
    assert (found["peak_stage"], found["held_steps"], found["device"]) == ("distill", 400, "cpu")
    assert parts["step_graphs"] == 400 * one and "one_step" not in parts
    assert 400 < parts["path"] / (4 * made.network.num_parameters) < 420
    assert parts["data"] == (len(splits.train.labels) + len(splits.validation.labels)) * (64 * 4 + 8)
    assert parts["raw_images"] >= 1797 * 64
    assert (most["peak_stage"], sum(most["peak_bytes"].values())) == ("loading", 10**12)
    less = make(gradient={"memory": 0})
    with Cpu(threads=1).open(less.context()) as session:
        assert expected_hold(less, session)[0] == 0
        assert "step_graphs" not in predicted_peak(less, session, 3, 0)["peak_bytes"]


def test_memory_that_is_named_holds_as_many_graphs_as_fit(make):
    """Broken: a forecast would hold other graphs than the run, and so predict another time."""
    _, one = expected_hold(make(), SimpleNamespace(device=torch.device("cpu"), describe=dict))
    made = make(gradient={"memory": 3 * one - 1})
    with Cpu(threads=1).open(made.context()) as session:
        problem, segment = sample_problem(made, 8, session.device)
        assert expected_hold(made, session)[0] == 2
        assert session.meta_gradient(problem, [segment]).held_steps == 2


def test_an_accelerators_memory_is_counted_alone(make, monkeypatch):
    """Broken: program and raw images, which lie in the host's memory, would count against the device's."""
    made = make(gradient={"memory": 0})
    with Cpu(threads=1).open(made.context()) as session:
        host = predicted_peak(made, session, 0, 0)["peak_bytes"]
    monkeypatch.setattr(memory, "_work_memory", lambda plan, device: [lambda size: 10, lambda size: 10])
    monkeypatch.setattr(memory, "expected_hold", lambda plan, session: (0, 1000))
    session = SimpleNamespace(device=torch.device("meta"), describe=dict)
    found = predicted_peak(made, session, 0, 10**12)
    there = found["peak_bytes"]
    assert not {"program", "raw_images", "loading"} & set(there) and {"program", "raw_images"} <= set(host)
    assert found["device"] == "meta" and found["available_bytes"] is None
    assert sum(there.values()) < sum(host.values())


def test_a_process_knows_what_it_holds_and_the_most_that_it_held():
    """Broken: the program, by far the largest part of a small run, would count as nothing."""
    before = process_bytes("VmRSS")
    with mmap.mmap(-1, 2**26) as block:  # new pages; an allocator may hand out those of an earlier test
        for page in range(0, 2**26, mmap.PAGESIZE):
            block[page] = 1
        assert process_bytes("VmRSS") - before > 2**25
        assert process_bytes("VmHWM") >= process_bytes("VmRSS") - 2**20
