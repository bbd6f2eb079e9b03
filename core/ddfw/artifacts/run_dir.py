"""A run's directory: its lock, its files and whether its run is finished.

runs/<name>/  config.toml  manifest.json  summary.json  metrics.jsonl  synthetic/  steps/  eval/*.json  images/*.png
              checkpoints/  report.html  earlier/step-…/ of a run that was extended
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from ddfw.artifacts import atomic, checkpoint, run_seals, seal
from ddfw.artifacts.differences import MISSING, differing_texts
from ddfw.artifacts.run_seals import CONFIG as CONFIG
from ddfw.artifacts.run_seals import MANIFEST as MANIFEST
from ddfw.artifacts.run_seals import SUMMARY as SUMMARY
from ddfw.artifacts.temporaries import temporary_beside
from ddfw.errors import DataError, DirectoryInUseError

#: How many settings that differ a message names; an error has six lines at most.
_SHOWN = 4
REPORT = "report.html"


@frozen
class RunDirectory:
    """The directory of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """Path of config.toml, the complete configuration of the run; it can be run again."""
        return self.path / CONFIG

    def config_text(self) -> str:
        """The text of config.toml.

        Raises:
            DataError: it is no TOML.
        """
        text = atomic.read_text(self.config)
        try:
            tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.config} is damaged: {error}") from error
        return text

    @property
    def synthetic(self) -> Path:
        """Path of the folder with the learned images and labels."""
        return self.path / "synthetic"

    @property
    def checkpoints(self) -> Path:
        """Path of the folder with the checkpoint from which an unfinished run is resumed."""
        return self.path / "checkpoints"

    def finished(self, config_text: str) -> dict[str, Any] | None:
        """The summary of a finished run of this configuration; None if the directory holds no finished run.

        Args:
            config_text: the text of config.toml for the configuration that is asked for.

        Raises:
            DataError: a file of the run was changed or is missing.
            DirectoryInUseError: the directory holds a run of another configuration, or other files.
        """
        self._refuse_strangers(config_text)
        if not (self.path / SUMMARY).exists():
            return None
        run_seals.require_whole(self.path)
        return atomic.read_json(self.path / SUMMARY)

    def mend(self) -> None:
        """Removes what a process that died after it had finished the run left of the last line of metrics.jsonl.

        Raises:
            DirectoryInUseError: another process holds the directory's lock.
        """
        if run_seals.cut_line(self.path) is not None:
            with atomic.locked(self.path, "the run directory", wait=False):
                run_seals.remove_cut_line(self.path)

    @contextlib.contextmanager
    def claimed(self, config_text: str) -> Iterator[None]:
        """Creates the directory, writes config.toml and holds the directory's lock inside a `with` block.

        Args:
            config_text: the text of config.toml.

        Raises:
            DirectoryInUseError: another process holds the lock, or the directory holds something that is not this run.
        """
        self._refuse_strangers(config_text)
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic.locked(self.path, "the run directory", wait=False):
            self._refuse_strangers(config_text)
            atomic.write_text(self.config, config_text)
            for folder in ("eval", "images"):
                (self.path / folder).mkdir(exist_ok=True)
            yield

    @contextlib.contextmanager
    def claimed_to_extend(self, config_text: str) -> Iterator[None]:
        """Holds the lock of a finished run inside a `with` block, for `archive` and `lengthen`.

        Args:
            config_text: the text of config.toml of the finished run.

        Raises:
            DirectoryInUseError: another process holds the lock, or the directory holds something that is not this run.
        """
        with atomic.locked(self.path, "the run directory", wait=False):
            self._refuse_strangers(config_text)
            yield

    def archive(self, step: int) -> None:
        """Keeps what a finished run says and has learned in `earlier/step-…`, which is a run directory itself.

        Args:
            step: number of outer steps of the finished run.
        """
        kept = self.path / "earlier" / f"step-{step:06d}"
        if kept.exists():
            return
        started = temporary_beside(kept)
        for pattern in ("*.toml", "*.json", "*.jsonl", "eval/*.json", "images/*.png", "steps/*", "synthetic/*"):
            for path in sorted(self.path.glob(pattern)):
                target = started / path.relative_to(self.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".jsonl":  # the only kind of file that is appended to
                    shutil.copy2(path, target)
                else:
                    _link_or_copy(path, target)
        os.replace(started, kept)

    def lengthen(self, config_text: str) -> None:
        """Turns the directory of a finished run, which was archived, into that of an unfinished longer one.

        Args:
            config_text: the text of config.toml of the longer run.
        """
        # In this order: a summary of fewer steps than config.toml asks for is no summary of a finished run.
        checkpoint.allow_config(self.checkpoints, hashlib.sha256(config_text.encode()).hexdigest())
        atomic.write_text(self.config, config_text)
        (self.path / SUMMARY).unlink(missing_ok=True)
        (self.path / REPORT).unlink(missing_ok=True)  # kept, it would pass for the page of the longer run

    def write_json(self, name: str, value: Mapping[str, Any]) -> str:
        """Writes a JSON file at the path `name` below the directory, and returns its sha256."""
        return atomic.write_json(self.path / name, value)

    def write_sealed(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file with its seal at the path `name` below the directory."""
        seal.write_sealed(self.path / name, value)

    def _refuse_strangers(self, config_text: str) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise DirectoryInUseError(f"{self.path} is a file; choose another --out")
        if not self.path.is_dir():
            return
        if self.config.exists():
            if self._abandoned():
                return
            run_seals.require_config(self.path)
            there = self.config_text()
            if there != config_text:
                raise DirectoryInUseError(*self._other_configuration(there, config_text))
        elif any(e.name != ".lock" and not e.name.endswith(".tmp") for e in self.path.iterdir()):
            raise DirectoryInUseError(f"{self.path} is not empty and not a run of ddfw; choose another --out")

    def _other_configuration(self, there: str, asked: str) -> list[str]:
        """Which settings of the run in this directory differ from those that are asked for, and the ways out."""
        found = differing_texts(there, asked)
        # Recipes are names for other settings, and options of another component or of a newer version follow from it.
        both = [d for d in found if d.path != "run.recipe" and MISSING not in (d.left, d.right)]
        told = both or list(found)
        lines = [f"  {d.path}: {_shown(d.left)} there, {_shown(d.right)} asked for" for d in told[:_SHOWN]]
        if len(told) > _SHOWN:
            lines[-1] = f"  … and {len(told) - _SHOWN + 1} more"
        name = shlex.quote(str(self.path))
        ways = ["choose another --out", f"start from its set by --init-from {name}"]
        steps = next((d.right for d in told if d.path == "outer.steps"), None)
        if len(told) == 1 and steps is not None and steps > told[0].left:
            ways.insert(0, f"continue it by `ddfw extend {name} --steps {steps}`")
        head = f"{self.path} holds a run with another configuration"
        return [f"{head}:" if lines else head, *lines, f"{', '.join(ways[:-1])}, or {ways[-1]}"]

    def _abandoned(self) -> bool:
        """Whether the directory holds only a run that ended before its first checkpoint, which may be overwritten."""
        ours = {".lock", CONFIG, MANIFEST, "metrics.jsonl", REPORT, "eval", "images", "steps"}
        names = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".tmp")}
        return ".lock" in names and names <= ours


def _shown(value: object) -> str:
    """A value in a message, shortened."""
    text = "nothing" if value is MISSING else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _link_or_copy(path: Path, target: Path) -> None:
    """A second name for a file that is only ever replaced as a whole; a copy where the disk cannot do that."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
