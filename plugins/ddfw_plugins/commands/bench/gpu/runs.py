"""Sections on whole runs: where they wait for the device, and whether two of them write the same bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddfw import distill
from ddfw_plugins.commands.bench.gpu.cases import Cases
from ddfw_plugins.commands.bench.gpu.stage import Figures, Stage

#: Outer steps by which two runs differ whose waits are compared, and those of runs whose bytes are.
OUTER_STEPS = 5
#: So many lines are named, those that wait most often.
NAMED = 30
#: Settings of a run of seconds on digits.
SMALL = {
    "experts.count": 2,
    "experts.epochs": 3,
    "outer.steps": OUTER_STEPS,
    "outer.syn_steps": 5,
    "eval.networks": 2,
    "eval.epochs": 5,
    "eval.full_epochs": 1,
    "eval.every": OUTER_STEPS,
    "eval.baseline_lrs": [0.01],
    "window.max_start": 1,
    "window.start": 1,
}


def waits(cases: Cases) -> None:
    """Where a whole small run makes the processor wait for the device, by file and line.

    Two runs differ by `steps` outer steps alone, so that their difference is what these steps wait for.
    """
    steps = 1 if cases.stage.pretend else OUTER_STEPS
    for title, graphs in (("CUDA graphs", True), ("eager", False)):
        chosen = {"compile": False, "graphs": graphs}
        cases.case(title, partial(_waits, cases.stage, chosen, steps), needs=20, steps=steps, **chosen)
        if cases.stage.pretend:
            break  # on a CPU both are the same


def _waits(stage: Stage, options: Figures, steps: int) -> Figures:
    short, _ = _one_run(stage, options, steps)
    whole, seconds = _one_run(stage, options, 2 * steps)
    each = {line: count / steps for line, count in (whole - short).most_common(NAMED)}
    return {
        "in_each_outer_step": (whole.total() - short.total()) / steps,
        "in_the_whole_run": whole.total(),
        "run_seconds": seconds,
        "lines_of_an_outer_step": each,
        "lines_of_the_run": dict(whole.most_common(NAMED)),
    }


def _one_run(stage: Stage, options: Figures, steps: int) -> tuple[Counter[str], float]:
    """The waits of a run with so many outer steps, and its seconds."""
    with tempfile.TemporaryDirectory() as folder, stand_in_waits() if stage.pretend else device_waits() as where:
        run = distill(
            out=f"{folder}/run",
            experts_dir=f"{folder}/experts",
            data="digits",
            executor=stage.executor(**options),
            settings={**SMALL, "outer.steps": steps, "eval.every": steps, "observers": {}},
        )
    return where, run.summary["seconds"]


@contextmanager
def device_waits() -> Iterator[Counter[str]]:
    """Counts, by file and line, the calls in the block that make the processor wait for the GPU."""
    found = Counter[str]()

    def count(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if "called a synchronizing" in str(message):
            found[_line_of_ddfw() or _place(filename, lineno)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count  # what the standard library offers for that
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


@contextmanager
def stand_in_waits() -> Iterator[Counter[str]]:
    """Counts what would wait on a GPU: numbers that are read from tensors on the CPU, whichever they are."""
    reading = _Reading()
    with reading:
        yield reading.found


class _Reading(TorchDispatchMode):
    """Counts, by file and line, the operations that read a number from a tensor or ask how many there are."""

    ASKING = ("aten._local_scalar_dense", "aten.nonzero", "aten._unique2", "aten.masked_select")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith(self.ASKING):
            self.found[_line_of_ddfw() or "elsewhere"] += 1
        return func(*args, **(kwargs or {}))


def _line_of_ddfw() -> str:
    """The innermost line of ddfw that is being executed, this module apart; "" if there is none."""
    frame = sys._getframe()
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module != __name__ and module.partition(".")[0] in ("ddfw", "ddfw_plugins"):
            return _place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _place(file: str, line: int) -> str:
    """File and line, without the folders that differ from machine to machine."""
    return f"{'/'.join(Path(file).parts[-3:])}:{line}"


def twice(cases: Cases) -> None:
    """Whether two runs of the command line with one seed, at the same time, write the same bytes."""
    ways: dict[str, Figures] = {"defaults, uncompiled": {}}
    if not cases.stage.pretend:  # runs on a CPU repeat without the option, and have none
        ways["deterministic, uncompiled"] = {"deterministic": True}
    for title, options in ways.items():
        cases.case(title, partial(_twice, cases.stage, options), needs=30, compile=False, **options)


def _twice(stage: Stage, options: Figures) -> Figures:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        one, two = pool.map(partial(_hashes, stage, options), (Path(folder, str(number)) for number in (1, 2)))
    return {f"same_{part}": one[part] == two[part] for part in one} | {"files": {k: len(v) for k, v in one.items()}}


def _hashes(stage: Stage, options: Figures, folder: Path) -> dict[str, dict[str, str]]:
    """Runs the command line and gives the sha256 of each file of tensors that the run and its experts left."""
    folder.mkdir()
    if stage.pretend:
        chosen: Figures = {"name": "cpu", "workers": 1, "threads": 1}
    else:
        chosen = {"name": "cuda", "device": stage.base.device, "compile": False, **options}
    changed = {**SMALL, **{f"executor.{name}": value for name, value in chosen.items()}}
    sets = [part for path, value in changed.items() for part in ("--set", f"{path}={_toml(value)}")]
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "ddfw", "run", "--data", "digits", *sets),
            *("--out", str(folder / "run"), "--experts-dir", str(folder / "experts"), "-q"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"ddfw run ended with exit code {done.returncode}: {done.stderr[-300:]}")
    return {
        part: {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((folder / below).rglob("*.safetensors"))
        }
        for part, below in (("learned_set", "run/synthetic"), ("experts", "experts"))
    }


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
