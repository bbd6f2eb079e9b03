"""Reads expert files of other programs: the `replay_buffer_N.pt` files that mtt-distillation's buffer.py writes.

Such a file is list[expert][snapshot][tensor in `parameters()` order], float32, without metadata. The network that it
belongs to is therefore given by the caller, and its shapes are checked. Nothing in a file is ever executed.

Shapes: E experts in a file, K epochs (K+1 snapshots), P parameters in T tensors.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddfw.artifacts import atomic
from ddfw.artifacts.opening import opened
from ddfw.artifacts.torch_file import check_archive, identity, plain, read_torch_file
from ddfw.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.model import ParameterTable

_BUFFER_FILE = re.compile(r"replay_buffer_([0-9]+)\.pt")
_LAYOUT = "a replay buffer is a list of experts, each a list of snapshots, each a list of tensors"
_COPY = "write the buffer again with a copy of each snapshot: p.detach().cpu().clone()"


def buffer_files(path: Path) -> tuple[Path, ...]:
    """The replay_buffer_N.pt files at `path`: the file itself, or those of a folder in the order of N.

    Raises:
        DataError: `path` does not exist, or is a folder without such files.
    """
    try:
        if not path.exists():
            raise DataError(f"{path} is missing; expected a replay_buffer_N.pt file or a folder of them")
        if not path.is_dir():
            return (path,)
        found = [(p, _BUFFER_FILE.fullmatch(p.name)) for p in path.iterdir() if not p.is_dir()]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    numbered = sorted((int(match[1]), p.name, p) for p, match in found if match)
    if not numbered:
        raise DataError(f"{path} holds no replay_buffer_N.pt files (N = 0, 1, …)")
    return tuple(p for _, _, p in numbered)


class ReplayBuffer:
    """One replay_buffer_N.pt file, checked when it is opened and read one expert at a time.

    Args:
        path: the file.
        network: names and shapes of the parameters that each snapshot must have.

    Attributes:
        num_experts: number E of experts in the file.
        num_epochs: number K of epochs; an expert has K+1 checkpoints.

    Raises:
        DataError: the file is not a replay buffer, is damaged, holds one tensor in several snapshots, or belongs to
            another network.
    """

    def __init__(self, path: Path, network: ParameterTable) -> None:
        self.path = path
        self._network = network
        self._identity = check_archive(path)
        self.num_experts, self.num_epochs = _Structure(path, network).check(read_torch_file(path, "a replay buffer"))

    @functools.cached_property
    def sha256(self) -> str:
        """The file's sha256, the only record of where its experts come from."""
        return atomic.file_sha256(self.path)

    def expert(self, number: int) -> Tensor:
        """Reads the checkpoints [K+1, P] of expert `number` as a new float32 tensor on the CPU.

        Reading takes twice the memory of the result.

        Raises:
            IndexError: there is no expert of this number.
            DataError: a value is NaN or infinite, all checkpoints are equal, or the file was changed after opening it.
        """
        if not 0 <= number < self.num_experts:
            raise IndexError(f"{self.path} has experts 0 to {self.num_experts - 1}, not {number}")
        checkpoints = self._copied(number)
        for snapshot, row in enumerate(checkpoints):
            if not row.isfinite().all():
                raise DataError(self._not_finite(number, snapshot, row))
        if all(row.equal(checkpoints[0]) for row in checkpoints[1:]):
            raise DataError(
                f"{self.path}: expert {number} stands still, its {self.num_epochs + 1} snapshots hold the same values; "
                f"it was not trained, or its last weights were written each time; if so, {_COPY}"
            )
        return checkpoints

    def _copied(self, number: int) -> Tensor:
        """Copies the rows [K+1, P]; the file is unmapped on return, since mapped pages stay in memory once read."""
        import torch

        with opened(self.path) as file:
            if identity(file) != self._identity:
                raise DataError(f"{self.path} was changed while it was in use; start again")
        snapshots = read_torch_file(self.path, "a replay buffer")[number]
        out = torch.empty(self.num_epochs + 1, self._network.num_parameters, dtype=torch.float32, device="cpu")
        for row, snapshot in zip(out, snapshots, strict=True):
            for piece, tensor in zip(row.split(self._network.sizes), snapshot, strict=True):
                piece.view(tensor.shape).copy_(plain(tensor))
        return out

    def _not_finite(self, expert: int, snapshot: int, row: Tensor) -> str:
        pieces = row.split(self._network.sizes)
        tensor = next(n for n, piece in enumerate(pieces) if not piece.isfinite().all())
        bad = (~pieces[tensor].isfinite()).nonzero().flatten()
        first = int(bad[0])
        return (
            f"{self.path}: expert {expert}, snapshot {snapshot}, tensor {tensor} ({self._network.names[tensor]}) has "
            f"{len(bad)} of {len(pieces[tensor])} values that are not finite, the first is "
            f"{float(pieces[tensor][first])} at flat index {first}; this expert diverged, train it again"
        )


class _Structure:
    """Checks types, shapes, dtypes and devices in a replay buffer without reading any value.

    Args:
        path: the file, named in error messages.
        network: names and shapes of the parameters that each snapshot must have.
    """

    def __init__(self, path: Path, network: ParameterTable) -> None:
        self._path = path
        self._network = network
        self._owners: dict[int, tuple[int, int]] = {}

    def check(self, content: object) -> tuple[int, int]:
        """Checks a file's content and returns the numbers of experts E and epochs K.

        Raises:
            DataError: the content is not a replay buffer of this network.
        """
        experts = [
            self._list(expert, f"expert {e}") for e, expert in enumerate(self._list(content, "the file's content"))
        ]
        if not experts:
            raise DataError(f"{self._path} holds no experts; {_LAYOUT}")
        for e, expert in enumerate(experts):
            if len(expert) < 2:
                raise DataError(
                    f"{self._path}: expert {e} has {_count(len(expert), 'snapshot')}, at least 2 are needed: the "
                    "initial weights and those after each epoch"
                )
            if len(expert) != len(experts[0]):
                raise DataError(
                    f"{self._path}: expert {e} has {_count(len(expert), 'snapshot')}, expert 0 has {len(experts[0])}; "
                    "all experts of a file need the same number of epochs"
                )
        for e, expert in enumerate(experts):
            for s, snapshot in enumerate(expert):
                self._check_snapshot(e, s, snapshot, experts)
        needed = 4 * len(experts) * len(experts[0]) * self._network.num_parameters
        if needed > self._path.stat().st_size:  # a few values can be told to stand for any number of them
            raise DataError(f"{self._path} has fewer bytes than the {needed:,} of its snapshots; {_COPY}")
        return len(experts), len(experts[0]) - 1

    def _check_snapshot(self, e: int, s: int, snapshot: object, experts: Sequence[Sequence[object]]) -> None:
        where = f"expert {e}, snapshot {s}"
        tensors = self._tensors(snapshot, where)
        shapes = tuple(tuple(t.shape) for t in tensors)
        if shapes != self._network.shapes:
            if all(_shapes(other) == shapes for expert in experts for other in expert):
                raise DataError(
                    f"{self._path} belongs to another network: {self._difference(shapes, 'each snapshot')}; "
                    "check the model's options, as depth, width and norm"
                )
            raise DataError(
                f"{self._path}: {self._difference(shapes, where)}; not all snapshots of the file are like that, "
                "write it again"
            )
        for number, tensor in enumerate(tensors):
            self._check_alone(e, s, number, tensor)

    def _check_alone(self, e: int, s: int, number: int, tensor: Tensor) -> None:
        if tensor.numel() == 0:
            return
        owner = self._owners.setdefault(tensor.data_ptr(), (e, s))
        if owner != (e, s):
            raise DataError(
                f"{self._path}: expert {e}, snapshot {s}, {self._tensor(number)} is the same memory as in expert "
                f"{owner[0]}, snapshot {owner[1]}; on a machine without a GPU .cpu() copies nothing, so that all "
                f"snapshots hold the last weights; {_COPY}"
            )

    def _difference(self, found: Sequence[tuple[int, ...]], where: str) -> str:
        """An error text that says how a snapshot's shapes differ from the network's."""
        expected = self._network.shapes
        pairs = enumerate(zip(found, expected, strict=False))
        number = next((n for n, (a, b) in pairs if a != b), min(len(found), len(expected)))
        if len(found) != len(expected):
            return (
                f"{where} has {_count(len(found), 'tensor')}, the network has {len(expected)}; the first that is "
                f"missing, surplus or does not fit is {self._tensor(number)}"
            )
        return (
            f"{where}, {self._tensor(number)} has shape {list(found[number])}, the network has "
            f"{list(expected[number])} {_elements(found[number], expected[number])}"
        )

    def _tensors(self, snapshot: object, where: str) -> list[Tensor]:
        """The tensors of a snapshot, checked to be strided, float32 and on the CPU."""
        import torch

        found = []
        for number, value in enumerate(self._list(snapshot, where)):
            place = f"{self._path}: {where}, {self._tensor(number)}"
            if not isinstance(value, torch.Tensor):
                raise DataError(f"{place} is a {type(value).__name__}, not a tensor; {_LAYOUT}")
            if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
                kind = "quantised" if value.is_quantized else f"{value.layout} on {value.device}"
                raise DataError(f"{place} is {kind}, expected an ordinary tensor with values; write it as such")
            if value.dtype != torch.float32:
                raise DataError(f"{place} is {value.dtype}, expected torch.float32; write it with .float()")
            found.append(plain(value))
        return found

    def _list(self, value: object, what: str) -> list[object]:
        if not isinstance(value, list):
            raise DataError(f"{self._path}: {what} is a {type(value).__name__}, not a list; {_LAYOUT}")
        return value

    def _tensor(self, number: int) -> str:
        """The words "tensor <number>" with the name of the network's parameter of that number, if there is one."""
        names = self._network.names
        return f"tensor {number} ({names[number]})" if number < len(names) else f"tensor {number}"


def _shapes(snapshot: object) -> tuple[tuple[int, ...], ...] | None:
    """The shapes of a snapshot's tensors; None if anything in the snapshot is not a tensor."""
    import torch

    if not isinstance(snapshot, list) or not all(isinstance(t, torch.Tensor) for t in snapshot):
        return None
    return tuple(tuple(t.shape) for t in snapshot)


def _elements(found: Sequence[int], expected: Sequence[int]) -> str:
    a, b = math.prod(found), math.prod(expected)
    return "(as many elements, in another order)" if a == b else f"({a} elements instead of {b})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
