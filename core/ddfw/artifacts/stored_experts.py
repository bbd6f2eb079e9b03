"""Experts read from the files of a store: their index entries, their checkpoints, or what is kept instead of these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import asdict, evolve, frozen

from ddfw.artifacts import atomic
from ddfw.artifacts.tensor_file import load_rows, load_tensors, read_header, refuse_not_finite
from ddfw.contracts.trajectory import CompactExpert
from ddfw.errors import DataError, OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddfw.contracts.model import ParameterTable


@frozen(kw_only=True)
class StoredExpert:
    """The entry of one expert in a store's index.json.

    Args:
        seed: seed of the expert, or its number if it was imported.
        file: name of its file.
        sha256: hash of its file, in hexadecimal.
        validation_accuracy: fractions, one for each epoch; empty if it was imported.
        train_loss: mean training losses, one for each epoch; empty if it was imported.
    """

    seed: int
    file: str
    sha256: str
    validation_accuracy: tuple[float, ...] = ()
    train_loss: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The entry as JSON-able values, without the seed."""
        return asdict(self, filter=lambda a, _: a.name != "seed")


class StoredExperts:
    """An `ExpertSource` that reads single checkpoints, or the way-points kept instead of them, from a store's files.

    The hash of every file is checked once, in the constructor.

    Args:
        experts: index entries of the experts to read.
        folder: the store's folder.
        network: names and shapes of the network's parameters.
        device: device of the returned tensors.
        dtype: dtype of the returned tensors.

    Attributes:
        num_experts: number E of experts.
        num_epochs: number K of epochs; an expert has K + 1 checkpoints.
        sizes: number of elements of each of the T parameter tensors.
    """

    def __init__(
        self,
        experts: Sequence[StoredExpert],
        folder: Path,
        network: ParameterTable,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._files = [folder / e.file for e in experts]
        self._device, self._dtype = device, dtype
        self.sizes = network.sizes
        for expert, path in zip(experts, self._files, strict=True):
            try:
                atomic.verify(path, expert.sha256)
            except DataError as error:
                raise DataError(f"{error}; {removal_command(folder)} removes the store") from error
        self._abouts = [expert_file(path, network.num_parameters) for path in self._files]
        self.num_experts = len(self._files)
        self.num_epochs = min(about.num_epochs for about in self._abouts)

    def snapshots(self, expert: int, epochs: Sequence[int]) -> Tensor:
        """Checkpoints [S, P] of expert number `expert` at the given S epochs; no others are read from disk.

        Raises:
            OptionError: the store keeps only way-points, and one of the epochs is not a way-point.
        """
        about = self._abouts[expert]
        if not about.source:
            tensor, rows = "snapshots", list(epochs)
        elif absent := [epoch for epoch in epochs if epoch not in about.rows]:
            there = ", ".join(map(str, about.rows)) or "none"
            raise OptionError(
                f"{self._files[expert].parent.name} keeps what {about.source} needs and of the checkpoints "
                f"only epoch {there}, not {absent[0]}; import the buffer again without --as"
            )
        else:
            tensor, rows = "points", [about.rows[epoch] for epoch in epochs]
        return load_rows(self._files[expert], tensor, rows).to(self._device, self._dtype)

    def compact(self, expert: int) -> CompactExpert | None:
        """The way-points kept of expert number `expert`; None if all its checkpoints are kept."""
        about = self._abouts[expert]
        if not about.source:
            return None
        found = load_tensors(self._files[expert])
        refuse_not_finite(self._files[expert], found)
        return evolve(about, tensors={key: tensor.to(self._device, self._dtype) for key, tensor in found.items()})


def expert_file(path: Path, num_parameters: int | None) -> CompactExpert:
    """What an expert's file says of its way-points, without their tensors; no `source` where all checkpoints are kept.

    Raises:
        DataError: it is no expert's file, or that of another network.
    """
    header = read_header(path)
    try:
        about = header.metadata.get("compact")
        name = "snapshots" if about is None else "points"
        count, columns = header.shapes[name]
        if not count or not columns or header.dtypes[name] not in ("F32", "F64"):
            raise ValueError(f"{name} {count} × {columns} {header.dtypes[name]}")
        if about is None:
            about = {"source": "", "options": {}, "num_epochs": count - 1, "rows": {}}
        rows = {int(epoch): int(row) for epoch, row in about["rows"].items()}
        if not all(0 <= row < count for row in rows.values()):
            raise ValueError(f"rows {list(rows.values())} of {count} points")
        source, options, num_epochs = str(about["source"]), dict(about["options"]), int(about["num_epochs"])
        found = CompactExpert(source=source, options=options, num_epochs=num_epochs, tensors={}, rows=rows)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not an expert file: {type(error).__name__} {error}") from error
    if num_parameters is not None and columns != num_parameters:
        raise DataError(f"{path} holds {columns} parameters, the network has {num_parameters}")
    return found


def removal_command(folder: Path) -> str:
    """The end of an error message: the command that removes this store."""
    return f"ddfw experts rm {folder.name} --experts-dir {folder.parent}"
