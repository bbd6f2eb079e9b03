"""Experts: trained into their store, looked at, and imported from other programs' buffers."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ddfw.app.announce import Announcer
from ddfw.app.catalog import catalog
from ddfw.app.plan import Ground, Roster, at, call_roster, lay_ground, subject_key
from ddfw.app.stopping import Stopping
from ddfw.artifacts.expert_store import ExpertStore, StoredExperts
from ddfw.artifacts.replay_buffer import ReplayBuffer, buffer_files
from ddfw.contracts.executor import Crew, LabelledImages, TrainedExpert
from ddfw.contracts.observer import ExpertReport
from ddfw.engine.training import accuracy
from ddfw.errors import DataError, StoppedError
from ddfw_registry import ConfigError, Problem, Structurer

if TYPE_CHECKING:
    from ddfw.app.config import RunConfig
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.engine.inner import Network

#: Validation images on which an import looks whether the network and the training space are right.
_LOOK_AT = 1000


def ensure_experts(
    ground: Ground,
    roster: Roster,
    session: ExecutorSession,
    announce: Announcer,
    train: LabelledImages,
    validation: LabelledImages,
    stopping: Stopping | None = None,
    crew: Crew | None = None,
) -> StoredExperts:
    """Experts from the store, the missing ones trained and added to it.

    Args:
        ground: configuration, data and network.
        roster: which experts.
        session: trains them; in a crew it yields those that this rank trained.
        announce: hears of each expert.
        train: the training split in training space.
        validation: likewise.
        stopping: asked after each expert whether time is over.
        crew: the processes that train them together.

    Raises:
        StoppedError: time is over; experts that are trained are in the store.
    """
    crew = crew or Crew()
    stopping = stopping or Stopping(crew)
    settings = ground.config.experts
    index, seeds = roster.store.index(), roster.seeds
    # Another rank may look when the first expert of this one is in the store already.
    missing = crew.share([seed for seed in seeds if seed not in index])
    epochs = len(missing) * settings.epochs

    def ready(seed: int, cached: bool, accuracies: Sequence[float]) -> None:
        announce(
            ExpertReport(
                index=seeds.index(seed),
                count=len(seeds),
                seed=seed,
                cached=cached,
                validation_accuracy=accuracies[-1] if accuracies else None,
                location=roster.store.folder,
            )
        )

    for seed in seeds:
        if seed in index and seed not in missing:
            ready(seed, True, index[seed].validation_accuracy)
    told = itertools.count(1)
    mine, over = set(), False
    # Where there is a time to look at, it is looked at after rounds: the ranks of a crew can only stop together, and
    # experts that are trained several at a time are ready together.
    rounds = any(crew.gather(stopping.timed))
    together = max(1, int(getattr(ground.config.executor, "together", 1)))
    at_once = crew.size * together if rounds and crew.size * together > 1 else max(1, len(missing))
    for first in range(0, len(missing), at_once):
        trained = session.train_experts(
            settings.training,
            train,
            validation,
            missing[first : first + at_once],
            # Counted, since experts may be trained side by side; every rank has its share of them.
            lambda position, epoch: announce.tick("experts", min(epochs, next(told) * crew.size), epochs),
        )
        for expert in trained:
            stored = roster.store.add(expert, ground.network)
            ready(expert.seed, False, stored.validation_accuracy)
            mine.add(expert.seed)
            if crew.size * together == 1 and stopping.time_is_over:
                break
        # When everybody is here, all that was trained is in the store.
        if over := any(crew.gather(stopping.time_is_over)):
            break
    if over or crew.size > 1:
        index = roster.store.index()
    for seed in missing if crew.size > 1 else ():
        if seed not in mine and seed in index:
            ready(seed, False, index[seed].validation_accuracy)
    if over and (absent := crew.share([seed for seed in missing if seed not in index])):
        raise StoppedError(
            f"time is over: stopped after {len(seeds) - len(absent)} of {len(seeds)} experts; "
            "the same command goes on from there"
        )
    return roster.store.source(seeds, ground.network, session.device, ground.dtype)


def train(config: RunConfig, experts_dir: Path, data_root: Path | None, *, quiet: bool = False) -> ExpertStore:
    """Trains the experts of a configuration that are not in their store yet.

    Raises:
        ConfigError, DataError, DivergedError: see there.
    """
    if config.experts.store:
        raise ConfigError((Problem(path="experts.store", message="imported experts are there already"),))
    with ExitStack() as stack:
        with at("executor"):
            crew = stack.enter_context(config.executor.assemble())
        ground = lay_ground(config, data_root)
        roster = call_roster(ground, experts_dir)
        announcer = Announcer()
        observers = progress_observers(config, quiet) if crew.rank == 0 else []
        stack.enter_context(announcer.opened(observers, experts_dir))
        with at("executor"):
            session = stack.enter_context(config.executor.open(ground.context()))
        real, held = (ground.encode(s, session.device) for s in (ground.splits.train, ground.splits.validation))
        ensure_experts(ground, roster, session, announcer, real, held, crew=crew)
    return roster.store


@frozen(kw_only=True)
class Imported:
    """What an import did.

    Args:
        store: where the experts are.
        experts: how many.
        epochs: K.
        accuracy: of the first expert's last checkpoint on validation images (a fraction).
        chance: what guessing would give.
        already_there: the same import was made before; nothing was written.
    """

    store: ExpertStore
    experts: int
    epochs: int
    accuracy: float
    chance: float
    already_there: bool


def import_buffers(
    path: Path,
    config: RunConfig,
    experts_dir: Path,
    data_root: Path | None,
    *,
    compact: bool = False,
    quiet: bool = False,
) -> Imported:
    """Copies the experts of replay_buffer_N.pt files into a store of their own; all of them, or nothing.

    Args:
        path: a file, or a folder of them.
        config: its data, training space and network say what the experts are.
        experts_dir: the folder of expert stores.
        data_root: where data sets look for their files.
        compact: keep only what `config.traj` needs.
        quiet: no progress.

    Raises:
        DataError: a buffer that is damaged, unsafe, or of another network; nothing is written.
        ConfigError: options that do not fit the data or the experts.
    """
    ground = lay_ground(config, data_root)
    network = ground.network
    buffers = [ReplayBuffer(file, network) for file in buffer_files(path)]
    for buffer in buffers:
        if buffer.num_epochs != buffers[0].num_epochs:
            raise DataError(
                f"{buffer.path} has experts of {buffer.num_epochs} epochs, {buffers[0].path.name} of "
                f"{buffers[0].num_epochs}; import them one by one"
            )
    key = {
        **subject_key(config, ground.splits, ground.data_sha256),
        "imported": [{"file": b.path.name, "sha256": b.sha256} for b in buffers],
        "form": Structurer(catalog()).unstructure(config.traj) if compact else "checkpoints",
    }
    title = f"{config.data.name}-{config.model.name}-imported"
    store = ExpertStore(experts_dir, key, title)
    there = bool(store.index())
    if not there:
        # Written aside and moved in as a whole: a buffer that turns out bad at its last expert leaves nothing.
        with _aside(experts_dir) as aside:
            written = ExpertStore(aside, key, title)
            announcer = Announcer()
            with announcer.opened(progress_observers(config, quiet), experts_dir):
                _copy(buffers, written, network, config if compact else None, announcer)
            try:
                written.folder.rename(store.folder)
            except OSError as error:
                raise DataError(f"{store.folder} is in the way, and is no expert store; move it away") from error
    return Imported(
        store=store,
        experts=len(store.index()),
        epochs=store.epochs(sorted(store.index()), network),
        accuracy=_look(buffers[0], ground),
        chance=1 / ground.splits.spec.num_classes,
        already_there=there,
    )


def _copy(
    buffers: Sequence[ReplayBuffer],
    store: ExpertStore,
    network: Network,
    compact: RunConfig | None,
    announcer: Announcer,
) -> None:
    """One expert at a time, each dropped before the next is read."""
    total, number = sum(b.num_experts for b in buffers), 0
    for buffer in buffers:
        for expert in range(buffer.num_experts):
            checkpoints = buffer.expert(expert)
            if compact is None:
                record = TrainedExpert(seed=number, snapshots=checkpoints, validation_accuracy=(), train_loss=())
                store.add(record, network)
                del record
            else:
                with at("traj"):
                    store.add_compact(number, compact.traj.compact(checkpoints, network.sizes), network)
            del checkpoints
            number += 1
            announcer.tick("import", number, total)


@contextmanager
def _aside(experts_dir: Path) -> Iterator[Path]:
    """A folder beside the stores that vanishes; the stores' own, if it was made for this, when it stays empty."""
    made = not experts_dir.exists()
    experts_dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".import-", dir=experts_dir) as aside:
            yield Path(aside)
    except BaseException:
        if made and not any(experts_dir.iterdir()):
            experts_dir.rmdir()
        raise


def _look(buffer: ReplayBuffer, ground: Ground) -> float:
    """Accuracy of the first expert's last checkpoint on some validation images."""
    last = buffer.expert(0)[-1]
    validation = ground.splits.validation
    stride = -(-len(validation.labels) // _LOOK_AT)  # spread out: data may be sorted by class
    images = ground.space.encode(validation.images[::stride], last.dtype)
    return accuracy(ground.network, last, LabelledImages(images=images, targets=validation.labels[::stride]))


def progress_observers(config: RunConfig, quiet: bool) -> list[tuple[str, Any]]:
    """The configuration's observers that only show what goes on, for work that is no run."""
    return [(k, o) for k, o in config.observers.items() if o.name == "progress" and not quiet]
