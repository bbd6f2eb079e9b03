"""Resumes a stopped run: writes and reads its checkpoints, and checks that it would continue bit for bit."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import define, evolve, field, frozen

from ddfw.artifacts import checkpoint, run_seals, seal, snapshots
from ddfw.artifacts.checkpoint import Checkpoint, Pointer
from ddfw.config.fingerprints import sha256_of
from ddfw.config.load import resolve
from ddfw.engine.distill import Learned, OuterState
from ddfw.engine.saved_state import learned_from, learned_tensors, restored, state_tensors
from ddfw.errors import DataError, ResumeError

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig
    from ddfw.contracts.executor import Crew, ExecutorSession
    from ddfw.contracts.records import ResolvedRun
    from ddfw.pipeline.prepare import Plan
    from ddfw.pipeline.stopping import StageTimer

#: Entries of a session's description that change no bit of a result: the size of a cluster, worker processes, and
#: `held_steps`, which a resumed run takes from its checkpoint.
_WITHOUT_EFFECT = ("held_steps", "nodes", "cpus", "gpus", "workers")


@define(kw_only=True)
class Best:
    """The best step so far by validation accuracy; of equal steps the earliest.

    Args:
        accuracy: validation accuracy of the best step, a fraction; -1 before the first selection.
        step: number of outer steps after which it was reached.
        learned: what was learned until then, None before the first selection.
        regular: the best step without the selection after the last step, where only the end of the run caused that one;
            None where both are the same. A run that is extended goes on with it.
    """

    accuracy: float = -1.0
    step: int = 0
    learned: Learned | None = None
    regular: Best | None = None


@frozen(kw_only=True)
class Facts:
    """What a checkpoint records beside the tensors.

    Args:
        circumstances: what the bits of the result depend on, as the function `circumstances` returns it.
        materials: hashes of what the run learns from, as the function `materials` returns them.
        seconds: seconds spent in each stage so far.
        held_steps: how many step graphs the session holds, None if it does not say.
        resumed_from: the outer steps after which the run was resumed before.
        extended_from: the outer steps at which the run was finished before it was extended.
    """

    circumstances: Mapping[str, Any] = field(factory=dict)
    materials: Mapping[str, Any] = field(factory=dict)
    seconds: Mapping[str, float] = field(factory=dict)
    held_steps: int | None = None
    resumed_from: tuple[int, ...] = ()
    extended_from: tuple[int, ...] = ()


@frozen(kw_only=True)
class Resumption:
    """A checkpoint from which an unfinished run is resumed.

    Args:
        folder: the folder of the checkpoints.
        step: number of outer steps that are done.
        tensors: the tensors of the state, and those of the best step, whose names begin with `best.`.
        skipped: number of steps that changed nothing because of `outer.skip_above`.
        best: (validation accuracy, step) of the best step.
        regular: likewise for `Best.regular`, whose tensors' names begin with `regular.`; None where there is none.
        facts: what the checkpoint records beside the tensors.
        unselected: whether the run was stopped before the selection that follows the step.
    """

    folder: Path
    step: int
    tensors: Mapping[str, torch.Tensor]
    skipped: int
    best: tuple[float, int]
    regular: tuple[float, int] | None
    facts: Facts
    unselected: bool = False

    def extended(self, configuration_sha256: str) -> Resumption:
        """The same for a longer run: its best step is the one that the longer run would have had by now.

        Args:
            configuration_sha256: hash of the longer run's config.toml.
        """
        best = self.best if self.regular is None else self.regular
        facts = evolve(
            self.facts,
            circumstances={**self.facts.circumstances, "configuration": configuration_sha256},
            extended_from=(*self.facts.extended_from, self.step),
        )
        return evolve(self, best=best, facts=facts)

    def require(self, recorded: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        """Refuses to resume if something has changed since the checkpoint was written.

        Args:
            recorded: `circumstances` or `materials` of the checkpoint.
            here: circumstances or materials as they are now.

        Raises:
            ResumeError: an entry differs; the message names the first few differences and the way out.
        """
        differ = [
            f"{key} {_short(recorded[key])}, not {_short(here.get(key))}"
            for key in recorded
            if recorded[key] != json.loads(json.dumps(here.get(key)))
        ]
        if differ:
            raise ResumeError(
                f"the unfinished run was made with {'; with '.join(differ[:3])}: it goes on with the same only "
                f"(or {checkpoint.way_out(self.folder)})"
            )

    def applied(self, state: OuterState, best: Best) -> OuterState:
        """Restores the state and the best step from the checkpoint, and returns the state.

        Args:
            state: the state before the first step; its tensors are overwritten.
            best: overwritten by the best step of the checkpoint.

        Raises:
            DataError: the tensors are those of another run.
        """
        try:
            best.accuracy, best.step = self.best
            source = "regular" if self.best == self.regular else "best"
            best.learned = learned_from(source, self.tensors, state.learned)
            rest = {name: t for name, t in self.tensors.items() if not name.startswith(("best.", "regular."))}
            return restored(state, rest, self.step, self.skipped)
        except DataError as error:
            raise DataError(f"{error}; {checkpoint.way_out(self.folder)}") from error


def is_shorter(run: ResolvedRun[RunConfig], resumed: Resumption) -> bool:
    """Whether a checkpoint is the last one of a run that is the same with fewer outer steps.

    Args:
        run: the run that is to go on.
        resumed: the checkpoint.
    """
    outer = run.config.outer
    if resumed.step >= outer.steps:
        return False
    shorter = resolve(evolve(run.config, outer=evolve(outer, steps=resumed.step)))
    return resumed.facts.circumstances.get("configuration") == shorter.sha256


def find(folder: Path, crew: Crew) -> Resumption | None:
    """The newest checkpoint, which rank 0 chooses and every rank reads; None if there is none.

    Args:
        folder: the folder of the checkpoints.
        crew: the processes that work on the run.

    Raises:
        DataError: the checkpoint is damaged.
    """
    found = checkpoint.latest(folder) if crew.rank == 0 else None
    if found is not None:
        _require_files(folder, found)
    shared = crew.share(None if found is None else attrs.asdict(found))
    if shared is None:
        return None
    there = checkpoint.read_checkpoint(folder, Pointer(**shared))
    if crew.rank == 0:
        checkpoint.keep_only(folder, shared["file"])  # a process that was killed may have left the one before
    try:
        return _resumption(folder, there)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / shared['file']} lacks or garbles {error}; {checkpoint.way_out(folder)}") from error


def _resumption(folder: Path, there: Checkpoint) -> Resumption:
    record = there.record
    return Resumption(
        folder=folder,
        step=there.step,
        tensors=there.tensors,
        skipped=int(record["skipped"]),
        best=_place(record["best"]),
        regular=None if record.get("regular") is None else _place(record["regular"]),
        unselected=record.get("unselected") is True,
        facts=Facts(
            circumstances=dict(record["circumstances"]),
            materials=dict(record["materials"]),
            seconds={stage: float(value) for stage, value in record["seconds"].items()},
            held_steps=None if record["held_steps"] is None else int(record["held_steps"]),
            resumed_from=tuple(int(step) for step in record["resumed_from"]),
            extended_from=tuple(int(step) for step in record.get("extended_from", ())),
        ),
    )


def _place(record: Mapping[str, Any]) -> tuple[float, int]:
    return float(record["accuracy"]), int(record["step"])


@define(kw_only=True)
class Checkpoints:
    """Writes the checkpoints of a run; only the newest one is kept.

    Args:
        folder: the folder of the checkpoints.
        session: the executor's session, which says how many step graphs it holds.
        timer: measures the seconds of each stage.
        facts: what a checkpoint records beside the tensors; `save` adds seconds and held_steps.
        writes: whether this process writes the files, as rank 0 does.
        saved: number of outer steps in the newest checkpoint, None if there is none.
    """

    folder: Path
    session: ExecutorSession
    timer: StageTimer
    facts: Facts
    writes: bool
    saved: int | None = None

    def save(self, state: OuterState, best: Best, *, unselected: bool = False, again: bool = False) -> None:
        """Writes a checkpoint and removes the one before; does nothing if the newest one is of this step already.

        Args:
            state: the state after the step.
            best: the best step so far.
            unselected: whether the selection that follows the step was not made.
            again: replace the newest checkpoint if it is of this step.
        """
        if self.saved == state.step and not again:
            return
        if self.writes:
            assert best.learned is not None
            held = held_steps(self.session)
            facts = evolve(self.facts, seconds=self.timer.seconds, held_steps=held)
            tensors = {**state_tensors(state), **learned_tensors("best", best.learned)}
            record: dict[str, Any] = {
                "skipped": state.skipped,
                "best": {"accuracy": best.accuracy, "step": best.step},
                **attrs.asdict(facts),
                **({"unselected": True} if unselected else {}),
            }
            if (regular := best.regular) is not None and regular.learned is not None:
                tensors |= learned_tensors("regular", regular.learned)
                record["regular"] = {"accuracy": regular.accuracy, "step": regular.step}
            configs = tuple(str(c) for c in (facts.circumstances.get("configuration"),) if c)
            checkpoint.write_checkpoint(
                self.folder, state.step, tensors, record, configs=configs, files=_files(self.folder.parent)
            )
        self.saved = state.step


def _files(run: Path) -> dict[str, dict[str, Any]]:
    """Seals of what an unfinished run has written so far: its events and the pictures of what its set looked like."""
    names = [name for name in (run_seals.METRICS,) if (run / name).is_file()]
    names += snapshots.snapshot_files(run)
    return {name: seal.part_of(run / name) for name in names}


def _require_files(folder: Path, pointer: Pointer) -> None:
    """Checks what an unfinished run had written when its checkpoint was.

    Raises:
        DataError: a file is missing, damaged or was edited; with the way out.
    """
    run = folder.parent
    try:
        run_seals.require_metrics(run)
        for name in pointer.files:
            if name != run_seals.METRICS:
                run_seals.require_file(run, name)
        checkpoint.begun_evaluations(folder)
    except DataError as error:
        raise DataError(f"{error}; {checkpoint.way_out(folder)}") from error


def circumstances(
    configuration_sha256: str, sources: Mapping[str, str], session: ExecutorSession, crew: Crew
) -> dict[str, Any]:
    """What the bits of a result depend on: configuration, versions, machine, device, threads, code.

    Args:
        configuration_sha256: hash of config.toml.
        sources: hash of the code of each component that is not built in, by the id of its kind.
        session: the executor's session before its first step; it describes its device.
        crew: the processes that work on the run.

    Returns:
        JSON-able values by their names in messages.
    """
    return {
        **surroundings(session, crew),
        "configuration": configuration_sha256,
        "plugins' code": dict(sources),
    }


def surroundings(session: ExecutorSession, crew: Crew) -> dict[str, Any]:
    """The machine, device, threads and versions that the bits of a result depend on, JSON-able.

    Args:
        session: an executor's session before its first step; it describes its device.
        crew: the processes that work on the run.
    """
    machine = f"{platform.system()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    device = session.describe()
    return {
        **{key: value for key, value in device.items() if value is not None and key not in _WITHOUT_EFFECT},
        "processes": crew.size,
        "machine": machine,
        "torch": str(torch.__version__),
        "ddfw": importlib.metadata.version("ddfw"),
    }


def materials(plan: Plan, init_from: Mapping[str, str]) -> dict[str, Any]:
    """Hashes of what a run learns from: its data, its experts, and the set that it starts from.

    Args:
        plan: the run; all of its experts are in their store.
        init_from: hashes of the set that `outer.init_from` names, {} without one.
    """
    expert_set = plan.expert_set
    index = expert_set.store.index()
    files = [expert_set.store.digest, [[seed, index[seed].sha256] for seed in expert_set.seeds]]
    return {
        "data": plan.data_sha256,
        "test data": plan.splits.test.fingerprint(sha256_of),
        "experts": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "outer.init_from": init_from.get("init_from_sha256"),
        "the whole set of outer.init_from": init_from.get("init_from_set_sha256"),
    }


def held_steps(session: ExecutorSession) -> int | None:
    """Number of step graphs that a session holds according to its description, None if it does not say."""
    held = session.describe().get("held_steps")
    return held if isinstance(held, int) else None


def _short(value: object) -> str:
    """A value as text, with a hash shortened."""
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return str(value)
