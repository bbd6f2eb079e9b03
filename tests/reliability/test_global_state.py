"""`ddfw.distill` in somebody's process: it leaves what the process has only one of, and does not depend on it."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import locale
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

import ddfw

SETTINGS = {
    "model.depth": 1,
    "model.width": 4,
    "experts.count": 1,
    "experts.epochs": 2,
    "outer.steps": 2,
    "outer.syn_steps": 2,
    "eval.networks": 2,
    "eval.epochs": 2,
    "eval.every": 2,
    "eval.baselines": [],
    "window.max_start": 1,
    "param.rank": 4,
}


def mask() -> int:
    """The process's umask, which can only be read by setting it."""
    found = os.umask(0)
    os.umask(found)
    return found


def loggers() -> dict[str, logging.Logger]:
    """The root logger and those of libraries that are imported here."""
    known = [logging.getLogger(), *(logging.getLogger(n) for n in ("ddfw", "torch", "matplotlib", "optuna", "PIL"))]
    return {logger.name: logger for logger in known}


#: Nineteen properties of a process, each with the function that reads it.
PROPERTIES = {
    "random numbers of Python": random.getstate,
    "random numbers of NumPy": lambda: pickle.dumps(np.random.get_state()),
    "random numbers of PyTorch": lambda: torch.get_rng_state().numpy().tobytes(),
    "warning filters": lambda: (list(warnings.filters), warnings.showwarning),
    "logger levels": lambda: {name: (one.level, one.disabled, one.propagate) for name, one in loggers().items()},
    "logger handlers": lambda: {name: list(one.handlers) for name, one in loggers().items()},
    "environment": lambda: dict(os.environ),
    "threads of PyTorch": lambda: (torch.get_num_threads(), torch.get_num_interop_threads()),
    "default dtype": torch.get_default_dtype,
    "default device": lambda: str(torch.get_default_device()),
    "gradient and inference mode": lambda: (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    "deterministic algorithms": lambda: (
        torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    ),
    "working directory and umask": lambda: (os.getcwd(), mask()),
    "signal handlers": lambda: {number: signal.getsignal(number) for number in signal.valid_signals()},
    "import path": lambda: (list(sys.path), list(sys.meta_path)),
    "standard streams and hooks": lambda: (
        sys.stdin, sys.stdout, sys.stderr, sys.excepthook, sys.displayhook, threading.excepthook
    ),
    "locale": lambda: locale.setlocale(locale.LC_ALL),
    "recursion limit and garbage collection": lambda: (sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold()),
    "running threads": lambda: {thread.name for thread in threading.enumerate()},
}  # fmt: skip


def distill(place, name="run", **more):
    """A tiny run in a folder, with an executor that sets the number of threads."""
    settings = {**SETTINGS, "executor.threads": 1, **more.pop("settings", {})}
    settings = {key: value for key, value in settings.items() if value is not None}
    return ddfw.distill(
        "default",
        param="lss",
        traj="mct",
        out=place / name,
        experts_dir=place / f"{name}-experts",
        settings=settings,
        **more,
    )


def bytes_of(place, name="run"):
    found = sorted((place / name / "synthetic").iterdir()) + sorted((place / f"{name}-experts").glob("*/expert-*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The bytes of a run in a process where nothing was set."""
    place = tmp_path_factory.mktemp("plain")
    distill(place)
    return bytes_of(place)


def changed(before):
    return [name for name, read in PROPERTIES.items() if read() != before[name]]


@pytest.mark.parametrize("ends", ["finished", "refused", "diverged"])
def test_nineteen_properties_of_the_process_are_unchanged(tmp_path, ends, figures):
    """Broken: a notebook's next cell would draw other random numbers, or lose its warnings."""
    assert len(PROPERTIES) == 19
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        before = {name: read() for name, read in PROPERTIES.items()}
        if ends == "finished":
            distill(tmp_path)
        elif ends == "refused":
            with pytest.raises(ddfw.ConfigError):
                distill(tmp_path, settings={"param.rank": 10**6})
        else:
            with pytest.raises(ddfw.DivergedError):
                distill(tmp_path, settings={"outer.step_size": 1e30})
        different = changed(before)
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
    assert different == []
    figures(properties=19, unchanged=19 - len(different), ends=ends)


@pytest.mark.extended
def test_the_first_call_in_a_process_changes_nothing_either(tmp_path):
    """Broken: what libraries set when they are imported – filters, variables, seeds – would stay."""
    code = f"""
import sys; sys.path.insert(0, {str(os.path.dirname(__file__))!r})
from pathlib import Path
from test_global_state import PROPERTIES, changed, distill
before = {{name: read() for name, read in PROPERTIES.items()}}
distill(Path({str(tmp_path)!r}))
sys.exit("; ".join(changed(before)) or 0)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert said.returncode == 0, said.stderr[-500:]


@contextlib.contextmanager
def doubles():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "float64 as default": doubles,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_is_set_around_a_call_changes_no_byte(tmp_path, plain, name):
    """Broken: the same call would give another result in another notebook."""
    with SURROUNDINGS[name]():
        distill(tmp_path)
    assert bytes_of(tmp_path) == plain


@pytest.mark.parametrize("threads", [1, None])
def test_two_threads_at_once_give_the_bytes_of_one_after_the_other(tmp_path, threads, figures):
    """Broken: runs that share a process would share random numbers or settings."""
    more = [{"seed": seed, "settings": {"outer.steps": 4, "executor.threads": threads}} for seed in (0, 1)]
    place = tmp_path
    for seed in (0, 1):
        distill(place, f"alone-{seed}", **more[seed])
    caught = []

    def work(seed):
        try:
            distill(place, f"both-{seed}", **more[seed])
        except BaseException as error:
            caught.append(error)

    both = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    before = {name: read() for name, read in PROPERTIES.items()}
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not caught, caught
    for seed in (0, 1):
        assert bytes_of(place, f"both-{seed}") == bytes_of(place, f"alone-{seed}")
    assert changed(before) == []
    figures(threads=2, equal=2)
