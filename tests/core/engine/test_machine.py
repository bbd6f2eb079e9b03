"""How many cores a process may use."""

from __future__ import annotations

import os

import pytest

from ddfw.engine.machine import processors
from ddfw.remote import tasks
from ddfw_plugins.executors import cpu


def system(root, groups, **files):
    """A made-up /proc and /sys below a folder; keyword `a__b` is the file a/b of the control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return processors(root)


@pytest.fixture
def many(monkeypatch):
    """A machine of sixteen cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def test_cores_that_a_process_is_bound_to_count(many, tmp_path):
    """Broken: a batch job of two cores would start a worker for each core of the machine."""
    assert system(tmp_path / "none", "") == 16
    assert system(tmp_path / "max", "0::/job\n", job__cpu_max="max 100000\n") == 16


def test_a_control_groups_share_of_the_cores_counts(many, tmp_path):
    """Broken: a container with two of sixty-four cores would start sixty-four workers, and give each a memory."""
    assert system(tmp_path / "v2", "0::/job\n", job__cpu_max="200000 100000\n") == 2
    assert system(tmp_path / "half", "0::/job\n", job__cpu_max="50000 100000\n") == 1
    assert system(tmp_path / "outer", "0::/a/b\n", a__cpu_max="300000 100000\n", a__b__cpu_max="max 100000\n") == 3


def test_so_does_one_of_the_older_kind(many, tmp_path):
    """Broken: on older systems containers would start as many workers as the whole machine has cores."""
    groups = "5:memory:/job\n4:cpu,cpuacct:/job\n"
    share = {"cpu__job__cpu_cfs_quota_us": "200000\n", "cpu__job__cpu_cfs_period_us": "100000\n"}
    assert system(tmp_path / "v1", groups, **share) == 2
    assert system(tmp_path / "no limit", groups, **{**share, "cpu__job__cpu_cfs_quota_us": "-1\n"}) == 16


def test_a_task_beside_others_counts_its_own_cores_alone(many, tmp_path, monkeypatch):
    """Broken: of a sweep that is sent to sixteen cores, each trial would start sixteen workers."""
    system(tmp_path, "")
    monkeypatch.setattr(cpu, "processors", lambda: processors(tmp_path))
    monkeypatch.setattr(cpu, "processor_memory", lambda: None)
    monkeypatch.setattr(tasks.pkgutil, "resolve_name", lambda name: lambda payload: cpu.Cpu().workers_here)
    assert [tasks.call("a trial", "{}", threads) for threads in (1, 4, 32)] == ["1", "4", "16"]
    assert cpu.Cpu().workers_here == 16
