"""Stores of experts on disk: one folder per training configuration, one safetensors file per expert.

Shapes: E experts, K epochs, S snapshots, P parameters, T parameter tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from ddfw.artifacts import atomic, seal
from ddfw.artifacts.row_cache import ROWS
from ddfw.artifacts.stored_experts import StoredExpert, StoredExperts, expert_file, removal_command
from ddfw.artifacts.temporaries import tidy
from ddfw.contracts.trajectory import CompactExpert
from ddfw.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddfw.contracts.executor import TrainedExpert
    from ddfw.contracts.model import ParameterTable

#: Of an expert's file.
STORE_SCHEMA = 1
#: Of index.json, which seals itself since 2.
INDEX_SCHEMA = 2
_EXPERT_FILE = re.compile(r"expert-\d+\.safetensors")
#: Everything that a store's folder may hold, unfinished files of a killed process included.
_OUR_FILES = re.compile(rf"index\.json|\.lock|expert-\d+\.lock|{_EXPERT_FILE.pattern}|.*\.tmp", re.DOTALL)


class ExpertStore:
    """A folder of experts that were trained with the same configuration, or imported together.

    Args:
        root: the folder of all stores (`--experts-dir`).
        key: JSON-able description of everything that shapes an expert, except its seed; its hash names the folder.
        title: readable first part of the folder's name (`<data>-<model>`).
    """

    def __init__(self, root: Path, key: Mapping[str, Any], title: str) -> None:
        self.key = json.loads(json.dumps(key))
        text = json.dumps(self.key, sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self.folder = root / f"{title}-{self.digest[:12]}"

    @classmethod
    def named(cls, root: Path, name: str) -> ExpertStore:
        """Opens the store in the folder `name` below `root`; its key is read from its index.

        Raises:
            DataError: there is no such store, or its index is damaged.
        """
        folder = require_store(root, name)
        key = _read_index(folder).get("key")
        if not isinstance(key, dict):
            raise DataError(f"{folder / 'index.json'} has no key; {removal_command(folder)} removes the store")
        store = cls(root, key, name.rpartition("-")[0])
        experts = store.index()
        if store.folder != folder:
            raise DataError(f"{folder} was renamed, or its index was edited: its key belongs to {store.folder.name}")
        if not experts:
            raise DataError(f"{folder} holds no experts; {removal_command(folder)} removes the store")
        return store

    def index(self) -> dict[int, StoredExpert]:
        """Reads the index: the stored experts by seed. Their files are not checked here.

        Raises:
            DataError: the index is damaged or its key is not this store's.
        """
        path = self.folder / "index.json"
        if not path.exists():
            return {}
        value = _read_index(self.folder)
        if value.get("key") != self.key:
            raise DataError(
                f"{path} describes other experts than its folder's name says; remove it: {removal_command(self.folder)}"
            )
        return _experts(path, value)

    def add(self, expert: TrainedExpert, network: ParameterTable) -> StoredExpert:
        """Writes one expert's file and then the index; several processes may add to the same store at once."""
        curves = {"validation_accuracy": expert.validation_accuracy, "train_loss": expert.train_loss}
        return self._add(expert.seed, {"snapshots": expert.snapshots}, {}, network, **curves)

    def add_compact(self, number: int, expert: CompactExpert, network: ParameterTable) -> StoredExpert:
        """Writes the way-points that a trajectory source keeps of expert `number`, instead of all its checkpoints."""
        about = {
            "source": expert.source,
            "options": dict(expert.options),
            "num_epochs": expert.num_epochs,
            "rows": {str(epoch): row for epoch, row in expert.rows.items()},
        }
        return self._add(number, expert.tensors, {"compact": about}, network)

    def _add(
        self,
        seed: int,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
        network: ParameterTable,
        **curves: tuple[float, ...],
    ) -> StoredExpert:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"expert-{seed}.safetensors"
        with atomic.locked(self.folder, "the expert store", wait=True):
            metadata = {"schema": STORE_SCHEMA, "seed": seed, "key_sha256": self.digest, **about}
            digest = atomic.write_tensors(self.folder / name, tensors, metadata)
            stored = StoredExpert(seed=seed, file=name, sha256=digest, **curves)
            experts = {**self.index(), seed: stored}
            seal.write_sealed(
                self.folder / "index.json",
                {
                    "schema": INDEX_SCHEMA,
                    "key": self.key,
                    "tensors": _tensors(network),
                    "experts": {str(seed): experts[seed].as_json() for seed in sorted(experts)},
                },
            )
        return stored

    @contextlib.contextmanager
    def claimed(self, seed: int) -> Iterator[bool]:
        """Yields whether this process may train the expert of a seed: not if another trains it, or if it is there.

        Inside the block no other process trains it; a process that ends holds no claim any more.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic.claimed(self._claim(seed)) as mine:
            # Asked once more, since another process may have stored it just before it gave up its claim.
            yield mine and seed not in self.index()

    def trainer(self, seed: int) -> str:
        """The process that trains the expert of a seed now, in words."""
        return atomic.holder(self._claim(seed))

    def _claim(self, seed: int) -> Path:
        return self.folder / f"expert-{seed}.lock"

    def tidy(self) -> None:
        """Removes what killed processes left unfinished in this store, beside it and among the rows of baselines."""
        for folder in (self.folder, self.folder.parent, self.folder.parent / ROWS):
            tidy(folder)
        for path in self.folder.glob("expert-*.lock"):
            # A claim that nobody holds any more is removed, where this process may write.
            with contextlib.suppress(OSError), atomic.claimed(path):
                pass

    def epochs(self, seeds: Sequence[int], network: ParameterTable) -> int:
        """Number K of epochs of the experts of these seeds, read from the headers of their files.

        Raises:
            DataError: an expert is missing, or its file is not that of an expert of this network.
        """
        index = self.index()
        return min(expert_file(self.folder / index[seed].file, network.num_parameters).num_epochs for seed in seeds)

    def source(
        self, seeds: Sequence[int], network: ParameterTable, device: torch.device, dtype: torch.dtype
    ) -> StoredExperts:
        """Opens the experts of these seeds for reading.

        Raises:
            DataError: an expert is missing, damaged, or does not fit the network.
        """
        index = self.index()
        if absent := [seed for seed in seeds if seed not in index]:
            raise DataError(f"{self.folder} has no expert of seed {', '.join(map(str, absent))}")
        recorded = _read_index(self.folder).get("tensors")
        if recorded != _tensors(network):
            raise DataError(
                f"{self.folder} holds experts of another network; remove them: {removal_command(self.folder)}"
            )
        return StoredExperts([index[seed] for seed in seeds], self.folder, network, device, dtype)


@frozen(kw_only=True)
class StoreSummary:
    """One line of `ddfw experts list`.

    Args:
        name: name of the store's folder.
        folder: path of the store's folder.
        experts: the index entries by seed, or by number for imported experts.
        epochs: number K of epochs of each expert.
        validation_accuracy: mean over experts of the accuracy after the last epoch, a fraction; None if unknown.
        bytes: size of all expert files.
        key: the description of everything that shapes the store's experts.
        problem: what is wrong with the store; "" if nothing is.
    """

    name: str
    folder: Path
    experts: Mapping[int, StoredExpert]
    epochs: int
    validation_accuracy: float | None
    bytes: int
    key: Mapping[str, Any]
    problem: str = ""

    @property
    def form(self) -> str:
        """What the store keeps of each expert: `checkpoints`, or the name of the trajectory source that needs less."""
        form = self.key.get("form", "checkpoints")
        return str(form.get("name")) if isinstance(form, Mapping) else str(form)


def list_stores(root: Path) -> list[StoreSummary]:
    """All stores below a folder, sorted by name; damaged ones are listed with a `problem`."""
    return [summarise_store(path.parent) for path in (sorted(root.glob("*/index.json")) if root.is_dir() else [])]


def summarise_store(folder: Path) -> StoreSummary:
    """Describes a store from its index; the hashes of expert files are not checked."""
    path, experts, key, problem = folder / "index.json", dict[int, StoredExpert](), dict[str, Any](), ""
    epochs = 0
    try:
        value = _read_index(folder)
        experts, key = _experts(path, value), dict(value.get("key", {}))
        if experts:
            epochs = min(expert_file(folder / e.file, None).num_epochs for e in experts.values())
    except (DataError, TypeError, ValueError) as error:
        removal = f"{removal_command(folder)} removes the store"
        problem = str(error) if removal in str(error) else f"{error}; {removal}"
    last = [e.validation_accuracy[-1] for e in experts.values() if e.validation_accuracy]
    return StoreSummary(
        name=folder.name,
        folder=folder,
        experts=experts,
        epochs=epochs,
        validation_accuracy=sum(last) / len(last) if last else None,
        bytes=sum(f.stat().st_size for f in folder.glob("*.safetensors")),
        key=key,
        problem=problem,
    )


def _read_index(folder: Path) -> dict[str, Any]:
    """The content of a store's index.json.

    Raises:
        DataError: it is missing, damaged or was edited; with the way out.
    """
    try:
        return seal.read_sealed(folder / "index.json", since=2, newest=INDEX_SCHEMA)
    except DataError as error:
        raise DataError(f"{error}; {removal_command(folder)} removes the store") from error


def require_store(root: Path, name: str) -> Path:
    """The folder of the store `name` below `root`; the store may be damaged.

    Raises:
        DataError: there is no such store, or it is a symbolic link.
    """
    folder = root / name
    if Path(name).name != name or not (folder / "index.json").exists():
        hint = did_you_mean(name, [p.parent.name for p in root.glob("*/index.json")])
        raise DataError(f"no expert store {name!r} below {root}.{hint} `ddfw experts list` shows what is there")
    if folder.is_symlink():
        raise DataError(f"{folder} is a link, not a store of ours; remove it yourself")
    return folder


def remove_store(root: Path, name: str) -> int:
    """Removes one store and returns the number of bytes that were freed.

    Raises:
        DataError: there is no such store, or its folder holds files that are not experts.
    """
    folder = require_store(root, name)
    with atomic.locked(folder, "the expert store", wait=True):
        strange = sorted(p.name for p in folder.iterdir() if not _OUR_FILES.fullmatch(p.name))
        if strange:
            raise DataError(f"{folder} also holds {', '.join(strange[:3])}, which is not ours; remove it yourself")
        freed = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        shutil.rmtree(folder)
    return freed


def _tensors(network: ParameterTable) -> list[dict[str, Any]]:
    return [{"name": n, "shape": list(s)} for n, s in zip(network.names, network.shapes, strict=True)]


def _experts(path: Path, value: Mapping[str, Any]) -> dict[int, StoredExpert]:
    try:
        experts = {
            int(seed): StoredExpert(
                seed=int(seed),
                file=str(e["file"]),
                sha256=str(e["sha256"]),
                validation_accuracy=tuple(map(float, e["validation_accuracy"])),
                train_loss=tuple(map(float, e["train_loss"])),
            )
            for seed, e in value["experts"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not an expert index: {type(error).__name__} {error}") from error
    if any(not _EXPERT_FILE.fullmatch(e.file) for e in experts.values()):
        raise DataError(f"{path} names files that are not expert files")
    return experts
