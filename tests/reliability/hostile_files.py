"""Reads many hostile files in one process and reports what came of it; `test_hostile_files.py` starts it.

    python hostile_files.py FOLDER '{"headers": 100, "npz": 50, "others": 50}'

Each case writes one hostile file into FOLDER and gives it to every function that would read it. What is counted: how
many were read (then the values must be sound), refused by ddfw's own errors, or ended with a foreign exception; the
longest time; and the largest memory that a case took on top of what the process had.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hostile_archives
import hostile_headers
import hostile_npz
import torch

import ddfw
from ddfw.errors import DdfwError

GROUPS = {
    "headers": hostile_headers.cases,
    "npz": hostile_npz.cases,
    "others": hostile_archives.cases,
}


def _memory(field: str) -> int:
    """A field of this process's memory in bytes, such as VmHWM (the peak of what is resident)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def sound(found: object) -> None:
    """Fails unless what was read is a set of finite numbers with a positive step size."""
    tensors = [getattr(found, name, None) for name in ("images", "targets", "pixels")]
    tensors += list(found) if isinstance(found, list | tuple) else []
    tensors += [found] if isinstance(found, torch.Tensor) else []
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            assert tensor.numel() > 0 and bool(tensor.isfinite().all()), "read values that are not finite, or none"
    rate = getattr(found, "step_size", None)
    assert rate is None or 0 < rate < float("inf"), f"read the step size {rate}"


def run(cases: Iterator[tuple[str, list[Callable[[], object]]]]) -> dict[str, object]:
    """Reads every case by each of its readers and counts the outcomes."""
    count = SimpleNamespace(
        cases=0, calls=0, read=0, refused=0, foreign=[], slowest_s=0.0, slowest="", peak_mb=0.0, peak=""
    )
    for name, readers in cases:
        count.cases += 1
        for read in readers:
            count.calls += 1
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before, start = _memory("VmRSS"), time.perf_counter()
            try:
                sound(read())
                count.read += 1
            except (DdfwError, ddfw.ConfigError) as error:
                count.refused += 1
                if name.endswith("as it was"):
                    count.foreign.append(f"{name} was refused: {error}")
                if "\n" in str(error) or len(str(error)) > 5000:
                    count.foreign.append(f"{name}: a message of {len(str(error))} characters or several lines")
            except BaseException as error:  # a library's panic is no Exception
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
                count.foreign.append(f"{name}: {type(error).__name__} {str(error)[:150]} at {place}")
            seconds, taken = time.perf_counter() - start, (_memory("VmHWM") - before) / 1e6
            if seconds > count.slowest_s:
                count.slowest_s, count.slowest = round(seconds, 3), name
            if taken > count.peak_mb:
                count.peak_mb, count.peak = round(taken, 1), name
    return {**vars(count), "foreign": count.foreign[:20], "num_foreign": len(count.foreign)}


def main(folder: Path, counts: dict[str, int]) -> None:
    """Runs the groups and prints what came of them as one line of JSON."""
    torch.set_num_threads(1)
    limit = _memory("VmSize") + (6 << 30)  # a bomb that goes off ends this process, not the machine
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found = {}
    for group, number in counts.items():
        place = folder / group
        place.mkdir()
        found[group] = run(GROUPS[group](place, random.Random(group), number))
        found[group]["canaries"] = sorted(str(p) for p in folder.rglob("canary*"))
        shutil.rmtree(place)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
