"""The worker of the preset: runs sections and writes each row as a line of JSON on standard output.

    python -m ddfw_plugins.commands.bench.gpu.worker '{"sections": [...], "until": ..., "pretend": ..., ...}'

It ends with its parent, and with exit code `LOST` as soon as its device does not answer any more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

import torch

from ddfw import configure, flag_tables
from ddfw_plugins.commands.bench.gpu.cases import Cases, DeviceLost
from ddfw_plugins.commands.bench.gpu.preset import end_with_parent
from ddfw_plugins.commands.bench.gpu.sections import GPU_SECTIONS, LOST, GpuSection, plain_value
from ddfw_plugins.commands.bench.gpu.stage import Stage
from ddfw_plugins.executors.arithmetic import SIZE, WORKSPACE
from ddfw_plugins.executors.cuda import Cuda


def main(order: dict[str, Any]) -> int:
    """Runs the sections of an order and returns the exit code.

    Args:
        order: `sections`, names of them; `until`, the time (seconds since 1970) at which all have to be done;
            `pretend`; and `assignments` to options of the executor.
    """
    rows = _own_output()
    os.environ.setdefault(WORKSPACE, SIZE)  # so that rows of repeatable sessions may follow others
    warnings.simplefilter("ignore")
    threading.Thread(target=end_with_parent, daemon=True).start()

    def emit(section: str, kind: str, **facts: Any) -> None:
        rows.write(json.dumps(plain_value({"section": section, "kind": kind, **facts}), allow_nan=False) + "\n")
        rows.flush()

    executor = configure(None, flag_tables({"executor": "cuda"}), order["assignments"]).config.executor
    assert isinstance(executor, Cuda)
    stage = Stage(base=executor, pretend=order["pretend"])
    if stage.pretend:
        torch.set_num_threads(1)  # the work is tiny
    try:
        for name in order["sections"]:
            run_section(GPU_SECTIONS[name], stage, order["until"], emit)
    except DeviceLost:
        return LOST
    return 0


def run_section(section: GpuSection, stage: Stage, until: float, emit: Callable[..., None]) -> None:
    """Runs one section, or emits that it is left out because it would not be done in time.

    Raises:
        DeviceLost: the section left the device useless; its error, if any, was emitted.
    """
    left, needs = until - time.time(), section.pretended if stage.pretend else section.needs
    if left < needs:
        emit(section.name, "left_out", case="", reason=f"{max(left, 0):.0f} s were left, it takes about {needs:g}")
        return
    emit(section.name, "began")
    began = time.monotonic()
    cases = Cases(section=section, stage=stage, until=min(until, time.time() + section.at_most), emit=emit)
    module, _, function = section.work.partition(":")
    try:
        cases.guarded("", {}, lambda: getattr(import_module(f"{__package__}.{module}"), function)(cases))
    finally:
        emit(section.name, "finished", seconds=time.monotonic() - began)
    if not stage.usable():  # without an error, as a failed capture may leave it
        raise DeviceLost


def _own_output() -> TextIO:
    """Standard output for rows alone; what anything else prints goes to standard error."""
    rows = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return rows


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
