"""A run directory, read: state, settings, figures and curves, as far as they are there.

Nothing here imports torch, so that a folder of runs is listed at once.
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from ddfw.artifacts import atomic, checkpoint, run_seals
from ddfw.artifacts.opening import MAX_JSON, read_whole
from ddfw.artifacts.run_seals import CONFIG, MANIFEST, METRICS, SUMMARY
from ddfw.artifacts.snapshots import snapshot_steps
from ddfw.config.toml import read_tables
from ddfw.contracts.records import Summary
from ddfw.errors import DataError

State = Literal["finished", "running", "unfinished", "diverged", "failed", "damaged"]


@frozen(kw_only=True)
class CurvePoint:
    """What the learned set was worth after an outer step.

    Args:
        step: number of outer steps that were done.
        mean: mean accuracy on the validation split, a fraction.
        std: sample standard deviation over the networks.
        n: number of networks.
    """

    step: int
    mean: float
    std: float
    n: int


@frozen(kw_only=True)
class Curves:
    """How a run went, from its metrics.jsonl.

    Args:
        loss: matching loss after each outer step, by step; NaN where it was none.
        step_size: inner step size after each outer step, by step.
        skipped: the outer steps that changed nothing.
        validation: what the set was worth, by selection.
    """

    loss: Mapping[int, float] = field(factory=dict)
    step_size: Mapping[int, float] = field(factory=dict)
    skipped: tuple[int, ...] = ()
    validation: tuple[CurvePoint, ...] = ()


@frozen(kw_only=True, slots=False)
class RunRecord:
    """One run directory; each file is read, and checked against the run's seals, when it is first asked for.

    Args:
        path: the directory.
    """

    path: Path

    @property
    def name(self) -> str:
        """The directory's name; its last two parts where the last one says little, as `seed-0` does."""
        whole = self.path.resolve()
        return f"{whole.parent.name}/{whole.name}" if whole.name.startswith("seed-") else whole.name

    @cached_property
    def tables(self) -> Mapping[str, Any]:
        """The tables of config.toml.

        Raises:
            DataError: it is damaged or was edited.
        """
        path = self.path / CONFIG
        self._check(run_seals.require_config)
        try:
            return read_tables(atomic.read_text(path))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not readable TOML: {error}") from error

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The content of manifest.json, {} where there is none yet.

        Raises:
            DataError: it is damaged or was edited, or it is missing though the run is finished.
        """
        return run_seals.read_manifest(self.path)

    @cached_property
    def summary(self) -> Summary | None:
        """What a finished run found, None for others.

        Raises:
            DataError: summary.json is damaged or was edited.
        """
        path = self.path / SUMMARY
        if not path.is_file():
            return None
        self._check(run_seals.require_file, SUMMARY)
        try:
            return Summary.from_json(atomic.read_json(path))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} lacks or garbles {error}") from error

    @cached_property
    def curves(self) -> Curves:
        """How the run went; lines of an unfinished run that were cut are passed over.

        Raises:
            DataError: what metrics.jsonl held when the run was finished, or its checkpoint written, was changed.
        """
        self._check(run_seals.require_metrics)
        return _curves(_events(self.path / METRICS))

    @cached_property
    def card(self) -> Mapping[str, Any]:
        """The content of synthetic/card.json, {} where there is none.

        Raises:
            DataError: it is damaged or was edited.
        """
        return self._json("synthetic/card.json")

    @property
    def stored_steps(self) -> list[int]:
        """The outer steps of which the run keeps pictures."""
        return snapshot_steps(self.path)

    @property
    def earlier(self) -> tuple[RunRecord, ...]:
        """The shorter runs that this one was before it was extended."""
        return tuple(RunRecord(path=path.parent) for path in sorted(self.path.glob(f"earlier/step-*/{CONFIG}")))

    @cached_property
    def state(self) -> State:
        """What became of the run."""
        if self.problem:
            return "damaged"
        try:
            if self.summary is not None and self.summary.outer_steps == self.setting("outer", "steps"):
                return "finished"
            if self._locked():
                return "running"
            status = self.manifest.get("status")
            return status if status in ("diverged", "failed") else "unfinished"
        except DataError:
            return "damaged"

    @cached_property
    def problem(self) -> str:
        """What is wrong with the files that the run's figures stand in, "" where nothing is."""
        try:
            run_seals.require_figures(self.path)
        except DataError as error:
            return str(error)
        return ""

    @property
    def reason(self) -> str:
        """Why the run ended before it was finished, "" where nobody says."""
        return str(self.manifest.get("reason", ""))

    @property
    def bytes(self) -> int:
        """Size of all files of the directory; a file that several names have counts once."""
        found = {(s.st_dev, s.st_ino): s.st_size for p in self.path.rglob("*") if p.is_file() for s in [p.stat()]}
        return sum(found.values())

    @property
    def modified(self) -> float:
        """When the run last wrote one of its main files, in seconds since 1970."""
        paths = [self.path / name for name in (CONFIG, MANIFEST, SUMMARY, METRICS)]
        return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)

    @property
    def steps_done(self) -> int:
        """Number of outer steps that are done, as far as anything says."""
        if self.state == "finished" and self.summary is not None:
            return self.summary.outer_steps
        return max(self.curves.loss, default=0)

    def setting(self, table: str, key: str) -> Any:
        """A value of config.toml, None where there is none."""
        found = self.tables.get(table)
        return found.get(key) if isinstance(found, Mapping) else None

    @property
    def title(self) -> str:
        """What the run distils and how, in a few words: `digits · 1 image per class · lss + mct + hard`."""
        parts = "+".join(str(self.setting(kind, "name") or "?") for kind in ("param", "traj", "labels"))
        asked = [
            f" · {kind} {self.setting(kind, 'name')}" for kind in ("loss", "model", "augment") if self._asked(kind)
        ]
        data, ipc = self.setting("data", "name") or "?", self.setting("budget", "ipc") or "?"
        return f"{data} · ipc {ipc} · {parts}{''.join(asked)}"

    def _asked(self, kind: str) -> bool:
        """Whether somebody chose a component, and no recipe did, as far as the run knows."""
        try:
            origins = self.manifest.get("origins", {})
        except DataError:
            return False
        origin = origins.get(f"{kind}.name", "recipe") if isinstance(origins, Mapping) else "recipe"
        return not str(origin).startswith(("recipe", "--quick"))

    def evaluation(self, name: str = "distilled") -> Mapping[str, Any]:
        """The content of a file of eval/, {} where there is none.

        Args:
            name: the file's name without its suffix.

        Raises:
            DataError: it is damaged or was edited.
        """
        return self._json(f"eval/{name}.json")

    def _json(self, name: str) -> Mapping[str, Any]:
        """The content of a JSON file of the run, {} where there is none."""
        if not (self.path / name).is_file():
            return {}
        self._check(run_seals.require_file, name)
        return atomic.read_json(self.path / name)

    @property
    def confusion(self) -> list[list[int]] | None:
        """How many test images of each class (row) were taken for each class (column); None where nobody counted."""
        found = self.evaluation().get("confusion")
        if not isinstance(found, list) or not all(isinstance(row, list) and len(row) == len(found) for row in found):
            return None
        return found if all(type(count) is int and count >= 0 for row in found for count in row) else None

    def _check(self, check: Callable[..., None], *more: str) -> None:
        """Checks a file, unless what it is checked against is damaged itself, which `problem` says."""
        if not self._unsealed:
            check(self.path, *more)

    @cached_property
    def _unsealed(self) -> bool:
        """Whether the files that seal the others cannot be read."""
        try:
            run_seals.read_manifest(self.path)
            checkpoint.latest(self.path / "checkpoints")
        except DataError:
            return True
        return False

    def _locked(self) -> bool:
        """Whether a process holds the directory's lock."""
        try:
            if not (self.path / ".lock").is_file():
                return False
            with (self.path / ".lock").open("r") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def read_run(path: str | Path) -> RunRecord:
    """A run directory.

    Args:
        path: the directory.

    Raises:
        DataError: there is no run directory.
    """
    path = Path(path)
    if (path / CONFIG).is_file():
        return RunRecord(path=path)
    if not path.exists():
        what = "is missing"
    elif path.is_file():
        what = "is a file"
    elif (path / "card.json").is_file():
        what = "is an export or a set"
    else:
        below = sum(1 for _ in runs_below(path))
        what = f"is a folder of {below} runs" if below else "is no run directory"
    raise DataError(f"{path} {what}; expected a run directory, which holds {CONFIG} (`ddfw runs` lists a folder's)")


def runs_below(folder: Path) -> Iterator[RunRecord]:
    """All run directories in a folder and its folders; what a run keeps of itself is not one of them."""
    if (folder / CONFIG).is_file():
        yield RunRecord(path=folder)
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from runs_below(path)


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events of a file, without lines that are damaged or were cut."""
    if not path.is_file():
        return
    try:
        lines = read_whole(path, MAX_JSON).splitlines()
    except DataError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def _curves(events: Iterator[Mapping[str, Any]]) -> Curves:
    loss, step_size, skipped, validation = dict[int, float](), dict[int, float](), set[int](), dict[int, CurvePoint]()
    for event in events:
        try:
            kind = event.get("event")
            if kind == "run_started":  # later steps that were made before are done again
                first = int(event.get("first_step", 0))
                for curve in (loss, step_size):
                    for step in [s for s in curve if s > first]:
                        del curve[step]
                skipped = {s for s in skipped if s <= first}
                void = event.get("void_selection")  # of an extended run: only its former end caused this selection
                validation = {s: point for s, point in validation.items() if s <= first and s != void}
            elif kind == "step":
                step = int(event["step"])
                loss[step], step_size[step] = _number(event["loss"]), _number(event["step_size"])
                if event.get("skipped"):
                    skipped.add(step)
            elif kind == "evaluated" and event["split"] == "validation" and event["subject"] == "distilled":
                step = int(event["step"])
                validation[step] = CurvePoint(
                    step=step, mean=float(event["mean"]), std=float(event["std"]), n=int(event["n"])
                )
        except (KeyError, TypeError, ValueError):
            continue
    return Curves(
        loss=loss,
        step_size=step_size,
        skipped=tuple(sorted(skipped)),
        validation=tuple(validation[step] for step in sorted(validation)),
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
