"""A run that was stopped goes on: what its checkpoints hold, and whether it can go on here bit for bit."""

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

from ddfw.artifacts import checkpoint
from ddfw.artifacts.checkpoint import Checkpoint, Pointer
from ddfw.engine.distill import Learned, OuterState
from ddfw.engine.resume import learned_from, learned_tensors, restored, state_tensors
from ddfw.errors import DataError, ResumeError

if TYPE_CHECKING:
    from ddfw.contracts.executor import Crew, ExecutorSession
    from ddfw.pipeline.prepare import Plan
    from ddfw.pipeline.stopping import StageTimer

#: What a session may describe and bits do not depend on: how large a cluster is, and what a checkpoint fixes itself.
_WITHOUT_EFFECT = ("held_steps", "nodes", "cpus", "gpus")


@define(kw_only=True)
class Best:
    """The best step so far by validation accuracy; earlier steps win ties."""

    accuracy: float = -1.0
    step: int = 0
    learned: Learned | None = None


@frozen(kw_only=True)
class Facts:
    """What goes into a checkpoint beside the tensors.

    Args:
        circumstances: what the result depends on besides the configuration.
        materials: what the run learns from.
        seconds: of each stage so far.
        held_steps: how many step graphs the session holds, None where it does not say.
        resumed_from: the steps after which the run went on before.
    """

    circumstances: Mapping[str, Any] = field(factory=dict)
    materials: Mapping[str, Any] = field(factory=dict)
    seconds: Mapping[str, float] = field(factory=dict)
    held_steps: int | None = None
    resumed_from: tuple[int, ...] = ()


@frozen(kw_only=True)
class Resumption:
    """Where an unfinished run goes on.

    Args:
        folder: of the checkpoints.
        step: outer steps that are done.
        tensors: of the state, and of the best step.
        skipped: how many steps changed nothing.
        best: (accuracy, step) of the best step.
        facts: what else the checkpoint says.
    """

    folder: Path
    step: int
    tensors: Mapping[str, torch.Tensor]
    skipped: int
    best: tuple[float, int]
    facts: Facts

    def require(self, recorded: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        """Refuses to go on where something is not what it was.

        Args:
            recorded: of `facts`.
            here: the same of this process.

        Raises:
            ResumeError: the first few differences, and the way out.
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
        """The state, and the best step so far, as they were.

        Args:
            state: before the first step; its tensors are written over.
            best: is filled in.

        Raises:
            DataError: tensors of another run.
        """
        try:
            best.accuracy, best.step = self.best
            best.learned = learned_from("best", self.tensors, state.learned)
            rest = {name: t for name, t in self.tensors.items() if not name.startswith("best.")}
            return restored(state, rest, self.step, self.skipped)
        except DataError as error:
            raise DataError(f"{error}; {checkpoint.way_out(self.folder)}") from error


def find(folder: Path, crew: Crew) -> Resumption | None:
    """The newest checkpoint, which rank 0 chooses and every rank reads; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    found = checkpoint.latest(folder) if crew.rank == 0 else None
    shared = crew.share(None if found is None else attrs.asdict(found))
    if shared is None:
        return None
    there = checkpoint.read_checkpoint(folder, Pointer(**shared))
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
        best=(float(record["best"]["accuracy"]), int(record["best"]["step"])),
        facts=Facts(
            circumstances=dict(record["circumstances"]),
            materials=dict(record["materials"]),
            seconds={stage: float(value) for stage, value in record["seconds"].items()},
            held_steps=None if record["held_steps"] is None else int(record["held_steps"]),
            resumed_from=tuple(int(step) for step in record["resumed_from"]),
        ),
    )


@define(kw_only=True)
class Checkpoints:
    """Keeps the state of a run between steps; only the newest one.

    Args:
        folder: where.
        session: says how many step graphs it holds.
        timer: seconds of each stage so far.
        facts: what goes into a checkpoint beside the tensors, as far as it is known.
        writes: whether this process is the one that writes.
        saved: the step of the newest checkpoint, None where there is none.
    """

    folder: Path
    session: ExecutorSession
    timer: StageTimer
    facts: Facts
    writes: bool
    saved: int | None = None

    def save(self, state: OuterState, best: Best) -> None:
        """Writes a checkpoint in place of the one before, unless the newest one is of this step."""
        if self.saved == state.step:
            return
        if self.writes:
            assert best.learned is not None
            held = held_steps(self.session)
            facts = evolve(self.facts, seconds=self.timer.seconds, held_steps=held)
            checkpoint.write_checkpoint(
                self.folder,
                state.step,
                {**state_tensors(state), **learned_tensors("best", best.learned)},
                {
                    "skipped": state.skipped,
                    "best": {"accuracy": best.accuracy, "step": best.step},
                    **attrs.asdict(facts),
                },
            )
        self.saved = state.step


def circumstances(
    configuration_sha256: str, sources: Mapping[str, str], session: ExecutorSession, crew: Crew
) -> dict[str, Any]:
    """What the bits of a result depend on: configuration, versions, machine, device, threads, code.

    Args:
        configuration_sha256: hash of config.toml.
        sources: by kind, the hash of the code of each component that is not built in.
        session: is asked what it describes before its first step.
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
        "configuration": configuration_sha256,
        "plugins' code": dict(sources),
    }


def materials(plan: Plan, init_from_sha256: str | None) -> dict[str, Any]:
    """What a run learns from: the bytes of its data, of its experts, and of the set that it starts from."""
    expert_set = plan.expert_set
    index = expert_set.store.index()
    files = [expert_set.store.digest, [[seed, index[seed].sha256] for seed in expert_set.seeds]]
    return {
        "data": plan.data_sha256,
        "experts": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "outer.init_from": init_from_sha256,
    }


def held_steps(session: ExecutorSession) -> int | None:
    """How many step graphs a session says that it holds, None if it does not say."""
    held = session.describe().get("held_steps")
    return held if isinstance(held, int) else None


def _short(value: object) -> str:
    """A value for people, a long hash cut."""
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return str(value)
