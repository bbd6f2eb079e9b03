"""The torchrun executor: the ranks of a crew do together what one process does alone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ddfw import OptionError
from ddfw.cli.main import invoke
from ddfw.process import ranks
from ddfw.testing import check_executor
from ddfw_plugins.executors.torchrun import Torchrun

COMMON = (
    *("model.depth=2", "model.width=8", "experts.count=3", "experts.epochs=2", "experts.lr=0.05", "outer.steps=5"),
    *("outer.syn_steps=5", "outer.step_size=0.05", "eval.networks=3", "eval.epochs=40", "eval.full_epochs=1"),
    *("eval.every=5", "window.max_start=1", "window.start=1", 'eval.baselines=["random_real", "kmeans_real_teacher"]'),
    *('run.precision="float64"', "outer.step_size_lr=1e-3"),
)
LSS = ("--param", "lss", "--traj", "mct", "--labels", "soft")
PIXEL = ("--param", "pixel", "--traj", "mtt", "--labels", "hard")


def command(*flags: str, **settings: object) -> list[str]:
    texts = [*COMMON, *(f"{key.replace('__', '.')}={value}" for key, value in settings.items())]
    return ["run", *flags, *(part for text in texts for part in ("--set", text))]


def alone(folder: Path, *flags: str, **settings: object) -> None:
    out = ["--out", str(folder / "one"), "--experts-dir", str(folder / "experts-one"), "--executor", "cpu", "-q"]
    assert invoke([*command(*flags, **settings), *out]) == 0


def together(*flags: str, **settings: object) -> list[str]:
    out = ["--out", "two", "--experts-dir", "experts-two", "--executor", "torchrun"]
    return ["-m", "ddfw", *command(*flags, **settings), *out]


def worst_difference(folder: Path) -> float:
    """Relative to each tensor's largest value, over everything that was learned."""
    worst = 0.0
    for file in ("params", "images", "labels"):
        one, two = (load_file(folder / name / "synthetic" / f"{file}.safetensors") for name in ("one", "two"))
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            if tensor.is_floating_point() and tensor.numel():
                worst = max(worst, float((tensor - two[key]).abs().max() / tensor.abs().max().clamp_min(1e-300)))
            else:
                assert torch.equal(tensor, two[key]), key
    steps = [json.loads((folder / name / "summary.json").read_text())["step_size"] for name in ("one", "two")]
    return max(worst, abs(steps[0] / steps[1] - 1))


def require_same(folder: Path) -> None:
    """Learned tensors to rounding, experts to the byte, accuracies exactly; step 5 was chosen in both."""
    summaries = [json.loads((folder / name / "summary.json").read_text()) for name in ("one", "two")]
    assert [s["selected_step"] for s in summaries] == [5, 5]
    worst = worst_difference(folder)
    assert worst < 1e-12  # measured: 4e-16
    stores = [next((folder / name).glob("*/index.json")).parent for name in ("experts-one", "experts-two")]
    assert stores[0].name == stores[1].name
    files = sorted(p.name for p in stores[0].glob("expert-*"))
    assert files == sorted(p.name for p in stores[1].glob("expert-*"))
    assert len(files) == 3
    for file in files:
        assert (stores[0] / file).read_bytes() == (stores[1] / file).read_bytes(), file
    indices = [json.loads((store / "index.json").read_text()) for store in stores]
    assert indices[0] == indices[1]
    for file in ("distilled", "random_real", "kmeans_real_teacher"):
        records = [json.loads((folder / name / "eval" / f"{file}.json").read_text()) for name in ("one", "two")]
        assert records[0]["accuracies"] == records[1]["accuracies"]
        assert len(records[0]["accuracies"]) == 3


@pytest.mark.extended
def test_two_ranks_of_one_segment_are_one_process_of_two(tmp_path, torchrun):
    """Broken: the ranks would learn another set than one process, or rank 1 would write or print too."""
    alone(tmp_path, *LSS, outer__segments_per_step=2)
    done = torchrun(tmp_path, *together(*LSS))
    assert done.returncode == 0, done.stderr
    require_same(tmp_path)
    assert done.stdout.count("random real images") == 1
    assert done.stderr.count("after 5 steps") == 1
    assert done.stderr.count("expert 3/3") == 1
    device = json.loads((tmp_path / "two" / "manifest.json").read_text())["device"]
    assert (device["type"], device["ranks"], device["backend"]) == ("torchrun", 2, "gloo")
    assert not [line for line in done.stderr.splitlines() if "arning" in line], done.stderr


@pytest.mark.extended
def test_two_ranks_of_two_segments_are_one_process_of_four(tmp_path, torchrun):
    """Broken: gradients would be weighed wrongly, or a second start would do the work again or fail on a rank."""
    alone(tmp_path, *PIXEL, outer__segments_per_step=4, param__lr=30)
    arguments = together(*PIXEL, outer__segments_per_step=2, param__lr=30)
    done = torchrun(tmp_path, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    require_same(tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["event"] for e in events].count("run_finished") == 1
    again = torchrun(tmp_path, *arguments)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("nothing to do") == 1
    assert again.stdout.count("random real images") == 1


@pytest.mark.extended
def test_a_crew_of_two_in_one_script(tmp_path, torchrun):
    """Broken: messages, dealt-out work or a divergence on one rank would not reach the other, or hang it; or
    threads of the process group would live on, which abort a process at its exit now and then.
    """
    done = torchrun(tmp_path, str(Path(__file__).with_name("crew_of_two.py")))
    assert done.returncode == 0, done.stderr
    said = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda one: one["rank"])
    assert [one["rank"] for one in said] == [0, 1]
    for one in said:
        assert one["shared"] == {"from": 0, "text": "é", "nothing": None}
        assert one["gathered"] == [[], ["x" * 1000]]
        assert one["aligned"] == [[[0.0] * 3] * 2, 0, [True], [[0.0] * 3] * 2, []]
        assert one["worst"] < 1e-14
        assert one["counted"] == [1, 2, 3]
        assert one["expert"] == ["expert of seed 6", 3]
        assert one["network"] == ["network 1", None]
        assert one["threads"] == []
    assert [one["seeds"] for one in said] == [[3, 7], [5]]
    assert [one["told"] for one in said] == [[[0, 1], [0, 2], [2, 1], [2, 2]], [[1, 1], [1, 2]]]


def test_without_a_crew_it_is_an_executor_like_any_other():
    """Broken: a session that is opened without torchrun, as conformance checks do, would not work."""
    check_executor(Torchrun(device="cpu", threads=1))


def test_started_without_torchrun_it_says_how(tmp_path, monkeypatch, capsys):
    """Broken: a user who forgets torchrun would get an internal error, or a crew of one without a word."""
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(OptionError, match=r"torchrun --nproc-per-node N -m ddfw run … --executor torchrun"):
        Torchrun().assemble().__enter__()
    assert invoke([*command(*LSS), "--out", str(tmp_path / "run"), "--executor", "torchrun"]) == 2
    assert "torchrun --nproc-per-node N -m ddfw run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def launched(monkeypatch, **values: str) -> None:
    start = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for key, value in {**start, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", **values}.items():
        monkeypatch.setenv(key, value)


def test_gpus_are_counted_for_the_ranks_of_a_machine(monkeypatch):
    """Broken: two ranks would share a GPU until nccl fails, or ranks of another machine would be counted."""
    launched(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    here = ranks.launch()
    assert Torchrun()._device(here) == torch.device("cuda", 1)
    assert Torchrun(device="cpu")._device(here) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionError, match="--nproc-per-node 1"):
        Torchrun()._device(here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Torchrun()._device(here) == torch.device("cpu")
    with pytest.raises(OptionError, match="no GPU"):
        Torchrun(device="cuda")._device(here)


def test_other_ranks_print_nothing_and_without_a_store_rank_0_speaks(monkeypatch, capsys):
    """Broken: N ranks would print N tables and N errors, or none at all."""
    assert ranks.speaks(2)
    launched(monkeypatch)
    assert not ranks.speaks(2)
    with ranks.first_rank_shows():
        sys.stdout.write("table\n")
        sys.stderr.write("note\n")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert ranks.speaks(2)
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"))
    with ranks.first_rank_shows():
        sys.stdout.write("table\n")
    assert capsys.readouterr().out == "table\n"


def test_an_environment_that_is_no_launch_changes_nothing(monkeypatch):
    """Broken: a stray RANK, as some clusters set, would silence a process that was started alone."""
    launched(monkeypatch)
    monkeypatch.delenv("MASTER_ADDR")
    assert ranks.launch() is None
    launched(monkeypatch, RANK="one")
    assert ranks.launch() is None
