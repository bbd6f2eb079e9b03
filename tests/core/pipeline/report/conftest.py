"""Run directories made by hand, so that pages are compared with what is known to be in them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ddfw.artifacts import atomic, snapshots, synthetic
from ddfw.contracts.space import AffineSpace

CONFIG = """[run]
recipe = "of-a-test"
seed = 3

[budget]
ipc = 1

[data]
name = "squares"

[param]
name = "plain"
rank = 4

[traj]
name = "path"

[labels]
name = "fixed"

[outer]
steps = 40
"""


def make_run(
    folder: Path,
    names: list[str],
    per_class: int = 2,
    shape: tuple[int, int, int] = (3, 8, 8),
    soft: bool = True,
    config: str = CONFIG,
) -> Path:
    """A finished run of 40 steps whose loss is 100 / step, NaN at step 10, which was skipped."""
    m, n = len(names), len(names) * per_class
    folder.mkdir(parents=True, exist_ok=True)
    rng = torch.Generator().manual_seed(0)
    images, targets = torch.rand((n, *shape), generator=rng), torch.eye(m).repeat_interleave(per_class, 0)
    if soft:
        targets = 0.75 * targets + 0.25 * targets.roll(1, dims=1)
    for step in (0, 20, 40, None):
        snapshot = snapshots.Snapshot(
            pixels=images, targets=targets, per_class=per_class, of_per_class=per_class, step=step
        )
        snapshots.write_snapshot(folder, snapshot)
    space = AffineSpace(kind="none", max_value=1.0, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
    card = {
        "schema": 1,
        "source_data": {"name": "squares", "class_names": names, "licence": "of <our> own"},
        "training_space": space.record(),
        "selected": {"step": 40, "by": "validation"},
        "images": {"count": n, "per_class": per_class, "shape": list(shape)},
        "citations": ["@misc{one,\n  title = {A <b>title</b>}\n}"],
    }
    synthetic.write_set(folder / "synthetic", {"pixels": images}, {}, images, targets, space, card)
    row = {"mean": 0.625, "std": 0.0125, "n": 3, "floats": {"strict": 480, "pixels": 384}, "images": n, "lr": 0.02}
    summary = {
        "schema": 1,
        "recipe": "of-a-test",
        "seed": 3,
        "rows": [
            {"subject": "distilled", **row},
            {"subject": "random_real", **row, "mean": 0.31, "source": "runs/other", "notes": ["a note & more"]},
        ],
        "cross": [{"subject": "distilled", **row, "mean": 0.55, "net": "wide"}],
        "budget": {"floats": 500, "accounting": "strict", "strict": 480, "pixels": 384, "over_budget": False},
        "images_per_class": per_class,
        "outer_steps": 40,
        "selected_step": 40,
        "selected_by": "validation",
        "selected_accuracy": 0.7,
        "skipped_steps": 1,
        "step_size": 0.02,
        "trajectories": {"source_bytes": 2000, "checkpoint_bytes": 9000, "experts": 2},
        "seconds": {"experts": 1.5, "distill": 2.25},
        "device": {"type": "cpu", "threads": 1},
        "test_reads": 1,
    }
    manifest = {
        "schema": 1,
        "versions": {"ddfw": "0.0.1"},
        "origins": {"param.rank": "--set", "data": "file <mine>.toml"},
        "components": [{"kind": "param", "name": "plain", "plugin": "mine:plain", "distribution": "mine"}],
        "status": "finished",
        "data_sha256": "ab" * 32,
    }
    (folder / "eval").mkdir(exist_ok=True)
    confusion = [[30 if i == j else 10 if j == (i + 1) % m else 0 for j in range(m)] for i in range(m)]
    atomic.write_json(folder / "eval" / "distilled.json", {"schema": 1, "confusion": confusion})
    atomic.write_json(folder / "manifest.json", manifest)
    atomic.write_text(folder / "config.toml", config)
    atomic.write_json(folder / "summary.json", summary)
    lines = [{"event": "run_started", "steps": 40, "first_step": 0}]
    for step in range(1, 41):
        loss = None if step == 10 else 100 / step
        lines.append(
            {"event": "step", "step": step, "loss": loss, "step_size": 0.01 * math.sqrt(step), "skipped": step == 10}
        )
        if step % 20 == 0:
            facts = {"subject": "distilled", "split": "validation", "mean": 0.01 * step, "std": 0.0, "n": 1}
            lines.append({"event": "evaluated", "step": step, **facts})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def made():
    """Makes run directories by hand."""
    return make_run
