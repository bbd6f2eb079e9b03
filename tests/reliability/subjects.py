"""What is killed and started again: a run, a store of experts, an export and a sweep, each a command on a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

SETTINGS = {
    "model.depth": 2,
    "model.width": 4,
    "experts.count": 2,
    "experts.epochs": 2,
    "outer.steps": 3,
    "outer.syn_steps": 2,
    "eval.networks": 2,
    "eval.epochs": 2,
    "eval.full_epochs": 1,
    "eval.every": 2,
    "window.max_start": 1,
    "param.rank": 4,
    "executor.threads": 1,
}
CHOSEN = ["--param", "lss", "--traj", "mct"]
TINY = ["default", *CHOSEN, *(f"--set={key}={value}" for key, value in SETTINGS.items())]
EXPERTS = ["default", *(f"--set={k}={v}" for k, v in SETTINGS.items() if k.startswith(("model.", "experts.")))]
#: What measures time, names the process, says where a baseline was measured or counts evaluations that were begun.
_VARYING = ("seal", "seconds", "t", "device", "test_reads", "source", "resumed_from", "started", "finished")
SWEEP = """
[sweep]
recipe = "default"
[base]
param = {name = "lss", rank = 4}
traj = "mct"
model = {depth = 2, width = 4}
experts = {count = 2, epochs = 2}
outer = {steps = 2, syn_steps = 2}
eval = {networks = 2, epochs = 2, every = 1, select_networks = 1, baselines = []}
window = {max_start = 1}
executor = {threads = 1}
[grid]
outer.step_size = [0.01, 0.05]
"""


def invoke(*arguments: object) -> int:
    """Runs a command line in this process."""
    from ddfw.cli.main import invoke as real

    return real([str(a) for a in arguments])


@attrs.frozen(kw_only=True)
class Subject:
    """A command whose result lies in a folder.

    Args:
        folder: the folder.
        first: another folder with what the command finds.
        arguments: the command.
        results: what has to be the same, read from the folder.
    """

    folder: Path
    first: Path
    arguments: tuple[object, ...]
    results: Callable[[Path], dict[str, object]]

    def fresh(self) -> None:
        """Makes the folder what the command finds."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.first, self.folder)

    def call(self) -> int:
        """Runs the command in this process; an export that is whole already is as good as one that is written."""
        code = invoke(*self.arguments)
        there = self.arguments[0] == "export" and (self.folder / "set" / "card.json").exists()
        return 0 if there else code

    def found(self) -> tuple[list[str], dict[str, object]]:
        """The names of all files and folders, and the results."""
        names = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*"))
        return names, self.results(self.folder)


def digest_of(folder: Path, pattern: str) -> dict[str, object]:
    """The sha256 of each file that fits."""
    found = (p for p in sorted(folder.glob(pattern)) if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def without_time(value: object) -> object:
    """A JSON value without what differs between two equal runs."""
    if isinstance(value, dict):
        return {key: without_time(inner) for key, inner in value.items() if key not in _VARYING}
    return [without_time(inner) for inner in value] if isinstance(value, list) else value


def of_run(folder: Path) -> dict[str, object]:
    """What has to be the same of a run below a folder: its set, pictures, figures, and the steps in its metrics."""
    found = {
        **digest_of(folder, "**/synthetic/*"),
        **digest_of(folder, "**/images/*"),
        **digest_of(folder, "**/steps/*"),
    }
    for path in sorted([*folder.glob("**/summary.json"), *folder.glob("**/eval/*.json")]):
        found[path.relative_to(folder).as_posix()] = without_time(json.loads(path.read_text()))
    for path in sorted(folder.glob("**/metrics.jsonl")):
        events = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [e for e in events if e["event"] == "step" or (e["event"] == "evaluated" and e["split"] == "validation")]
        found[path.relative_to(folder).as_posix()] = without_time(kept)
    return found


def of_store(folder: Path) -> dict[str, object]:
    """What has to be the same of expert stores: all bytes."""
    return {**digest_of(folder, "**/expert-*"), **digest_of(folder, "**/index.json")}


def of_export(folder: Path) -> dict[str, object]:
    """What has to be the same of an export: all bytes."""
    return digest_of(folder, "set/**/*")


def of_sweep(folder: Path) -> dict[str, object]:
    """What has to be the same of a sweep: its record and its trials."""
    return {**of_run(folder), "record": without_time(json.loads((folder / "sweep" / "sweep.json").read_text()))}


def make(kind: str, place: Path) -> Subject:
    """A subject of a kind – run, experts, export, sweep – below an empty folder; what it needs is made first."""
    first, folder = place / "first", place / "work"
    first.mkdir(parents=True)
    if kind != "experts":  # kept outside of the folder where kills are counted
        assert invoke("experts", "train", *EXPERTS, "-q", "--experts-dir", place / "ready") == 0
    arguments: tuple[object, ...]
    if kind == "run":
        arguments = ("run", *TINY, "-q", "--no-cache", "--out", folder / "run", "--experts-dir", place / "ready")
        results = of_run
    elif kind == "experts":
        arguments, results = ("experts", "train", *EXPERTS, "-q", "--experts-dir", folder / "experts"), of_store
    elif kind == "export":
        assert invoke("run", *TINY, "-q", "--out", place / "run", "--experts-dir", place / "ready") == 0
        assert invoke("export", place / "run", "--format", "npz", "--out", first / "set") == 0
        arguments = ("export", place / "run", "--format", "safetensors", "--out", folder / "set", "--force")
        results = of_export
    else:
        (place / "grid.toml").write_text(SWEEP)
        arguments = ("sweep", place / "grid.toml", "-q", "--out", folder / "sweep", "--experts-dir", place / "ready")
        results = of_sweep
    return Subject(folder=folder, first=first, arguments=arguments, results=results)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing that is printed in the block is shown."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def forked(call: Callable[[], int]) -> int:
    """Starts a call in a forked process, silently, and returns the process's number."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            with silent():
                code = call()
        except BaseException as error:
            sys.__stderr__.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(code)
    return child


def code_of(child: int) -> int:
    """Waits for a process: its exit code, or the number of the signal that ended it with a minus."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_after(call: Callable[[], int], seconds: float) -> bool:
    """Runs a call in a forked process and kills it after some time; whether it was still running then."""
    child = forked(call)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return code_of(child) == -signal.SIGKILL
