"""Small networks and experts, two processes that write at the same time, and one tiny real run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.contracts.executor import TrainedExpert
from ddfw.engine.inner import Network
from ddfw.pipeline.runner import Places, run

#: A process of its own: one tensor file, and five experts that go into a store which others write to as well.
WRITER = """
import sys
from pathlib import Path

import torch
from ddfw.artifacts import atomic
from ddfw.artifacts.expert_store import ExpertStore
from ddfw.contracts.executor import TrainedExpert
from ddfw.engine.inner import Network

folder, name, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
names = ("weight", "bias", "alpha", "omega", "middle")
tensors = {n: torch.arange(6.0) + i for i, n in enumerate(names)}
facts = {n: i for i, n in enumerate(names)}
atomic.write_tensors(folder / f"{name}.safetensors", tensors, facts)
store = ExpertStore(folder / "experts", {"data": "toy"}, "toy-net")
network = Network(torch.nn.Linear(3, 2))
(folder / f"{name}.ready").touch()
while len(list(folder.glob("*.ready"))) < 2:
    pass
for seed in range(first, first + 5):
    store.add(
        TrainedExpert(
            seed=seed, snapshots=torch.full((2, 8), float(seed)), validation_accuracy=(0.5,), train_loss=(1.0,)
        ),
        network,
    )
"""


@pytest.fixture
def network() -> Network:
    """P = 8 parameters in two tensors."""
    return Network(nn.Linear(3, 2))


@pytest.fixture
def expert() -> Callable[..., TrainedExpert]:
    """Makes an expert; row k of its snapshots holds 100 · seed + k."""

    def make(seed: int, epochs: int = 3, parameters: int = 8) -> TrainedExpert:
        rows = torch.arange(epochs + 1.0).unsqueeze(1) + 100.0 * seed
        return TrainedExpert(
            seed=seed,
            snapshots=rows.repeat(1, parameters),
            validation_accuracy=tuple(0.1 * (k + 1) for k in range(epochs)),
            train_loss=tuple(2.0 / (k + 1) for k in range(epochs)),
        )

    return make


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that two processes with different hash seeds wrote to at the same time: `a` and `b`."""
    folder = tmp_path_factory.mktemp("two-processes")
    running = []
    for name, first, hash_seed in (("a", 0, "1"), ("b", 5, "4321")):
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WRITER, str(folder), name, str(first)]
        running.append(subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    return folder


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A real, tiny run with `lss` and `soft`: its directory, its configuration and its summary."""
    place = tmp_path_factory.mktemp("small-run")
    flags = {
        "param": {"name": "lss", "rank": 4},
        "traj": {"name": "mct"},
        "labels": {"name": "soft"},
        "model": {"depth": 2, "width": 4},
        "experts": {"count": 2, "epochs": 3},
        "outer": {"steps": 3, "syn_steps": 3},
        "eval": {"networks": 2, "epochs": 3, "full_epochs": 1, "every": 2},
        "window": {"max_start": 1},
        "executor": {"threads": 1},
        "run": {"seed": 5},
    }
    config = structured_config(gather("default", flags, ()))
    result = run(config, Places(out=place / "run", experts=place / "experts"))
    return SimpleNamespace(directory=result.directory, config=config, summary=result.summary, result=result)
