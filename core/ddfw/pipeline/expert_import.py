"""Experts that other programs trained, copied from their buffers into a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from ddfw.artifacts.expert_store import ExpertStore
from ddfw.artifacts.replay_buffer import ReplayBuffer, buffer_files
from ddfw.artifacts.temporaries import discard, temporary_beside, tidy
from ddfw.config.catalog import as_table
from ddfw.config.fingerprints import subject_key
from ddfw.config.load import resolve
from ddfw.contracts.executor import LabelledImages, TrainedExpert
from ddfw.engine.training import accuracy
from ddfw.errors import DataError, option_errors_at
from ddfw.pipeline.experts import observers_for_people
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Setup, set_up
from ddfw.process.isolation import isolated

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig
    from ddfw.engine.inner import Network


#: Number of validation images on which an import checks that the network and the training space are right.
_LOOK_AT = 1000


@frozen(kw_only=True)
class ImportedExperts:
    """The result of an import of experts.

    Args:
        store: the store that holds the experts.
        experts: number of experts.
        epochs: K, the number of epochs of each expert.
        accuracy: accuracy of the first expert's last checkpoint on validation images, a fraction.
        chance: accuracy of guessing, a fraction.
        already_there: whether the same import had been made before, so that nothing was written.
    """

    store: ExpertStore
    experts: int
    epochs: int
    accuracy: float
    chance: float
    already_there: bool


@isolated
def import_experts(
    path: Path,
    config: RunConfig,
    experts_dir: Path,
    data_root: Path | None,
    *,
    compact: bool = False,
    quiet: bool = False,
) -> ImportedExperts:
    """Copies the experts of replay_buffer_N.pt files into an expert store of their own; all of them, or none.

    Args:
        path: a buffer file, or a folder of buffer files.
        config: a configuration with the data, training space and network of the experts.
        experts_dir: the folder of expert stores.
        data_root: folder in which data sets look for their files.
        compact: keep only what `config.traj` needs of each expert, instead of all checkpoints.
        quiet: show no progress.

    Raises:
        DataError: a buffer is damaged, unsafe, or of another network; nothing is written.
        ConfigError: options do not fit the data or the experts.
    """
    setup = set_up(resolve(config), data_root)
    network = setup.network
    buffers = [ReplayBuffer(file, network) for file in buffer_files(path)]
    for buffer in buffers:
        if buffer.num_epochs != buffers[0].num_epochs:
            raise DataError(
                f"{buffer.path} has experts of {buffer.num_epochs} epochs, {buffers[0].path.name} of "
                f"{buffers[0].num_epochs}; import them one by one"
            )
    key = {
        **subject_key(setup.run, setup.splits, setup.data_sha256),
        "imported": [{"file": b.path.name, "sha256": b.sha256} for b in buffers],
        "form": as_table(config.traj) if compact else "checkpoints",
    }
    title = f"{config.data.name}-{config.model.name}-imported"
    store = ExpertStore(experts_dir, key, title)
    there = bool(store.index())
    if not there:
        # Written to a temporary folder that is renamed at the end, so that a damaged buffer leaves nothing behind.
        with _aside(experts_dir) as aside:
            written = ExpertStore(aside, key, title)
            announcer = Announcer()
            with announcer.opened(observers_for_people(config, quiet), experts_dir):
                _copy(buffers, written, network, config if compact else None, announcer)
            try:
                written.folder.rename(store.folder)
            except OSError as error:
                raise DataError(f"{store.folder} is in the way, and is no expert store; move it away") from error
    return ImportedExperts(
        store=store,
        experts=len(store.index()),
        epochs=store.epochs(sorted(store.index()), network),
        accuracy=_look(buffers[0], setup),
        chance=1 / setup.splits.spec.num_classes,
        already_there=there,
    )


def _copy(
    buffers: Sequence[ReplayBuffer],
    store: ExpertStore,
    network: Network,
    compact: RunConfig | None,
    announcer: Announcer,
) -> None:
    """Copies experts one at a time, so that only one of them is in memory."""
    total, number = sum(b.num_experts for b in buffers), 0
    for buffer in buffers:
        for expert in range(buffer.num_experts):
            checkpoints = buffer.expert(expert)
            if compact is None:
                record = TrainedExpert(seed=number, snapshots=checkpoints, validation_accuracy=(), train_loss=())
                store.add(record, network)
                del record
            else:
                with option_errors_at("traj"):
                    store.add_compact(number, compact.traj.compact(checkpoints, network.sizes), network)
            del checkpoints
            number += 1
            announcer.tick("import", number, total)


@contextmanager
def _aside(experts_dir: Path) -> Iterator[Path]:
    """A temporary folder beside the stores; after an error an `experts_dir` that was made here is removed, too."""
    made = not experts_dir.exists()
    experts_dir.mkdir(parents=True, exist_ok=True)
    try:
        tidy(experts_dir)
        aside = temporary_beside(experts_dir / "import")
        try:
            aside.mkdir()
            yield aside
        finally:
            discard(aside)
    except BaseException:
        if made and not any(experts_dir.iterdir()):
            experts_dir.rmdir()
        raise


def _look(buffer: ReplayBuffer, setup: Setup) -> float:
    """Accuracy (a fraction) of the first expert's last checkpoint on some validation images."""
    last = buffer.expert(0)[-1]
    validation = setup.splits.validation
    stride = -(-len(validation.labels) // _LOOK_AT)  # spread over the split, since data may be sorted by class
    images = setup.space.encode(validation.images[::stride], last.dtype)
    return accuracy(setup.network, last, LabelledImages(images=images, targets=validation.labels[::stride]))
