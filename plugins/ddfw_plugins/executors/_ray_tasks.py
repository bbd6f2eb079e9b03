"""What Ray's workers run, and the actor that hears how far they are; light, since every worker imports it first.

Data arrives as NumPy arrays, which Ray maps from its object store without a copy and read-only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from torch import Tensor

    from ddfw.remote.tasks import TaskData


def expert(
    job: Mapping[str, Any],
    settings: Mapping[str, Any],
    spec: tuple[int, int, int, int],
    seed: int,
    key: str,
    progress: Any,
    *arrays: numpy.ndarray[Any, Any],
) -> dict[str, Any]:
    """Trains one expert; progress is told under `key`."""
    from ddfw.remote import tasks

    def work() -> dict[str, Any]:
        found = tasks.remote_expert(
            job, settings, _given(spec, arrays), seed, lambda epoch: progress.note.remote(key, epoch)
        )
        return {**found, "snapshots": found["snapshots"].numpy()}

    return _outcome(work)


def network(
    job: Mapping[str, Any],
    settings: Mapping[str, Any],
    spec: tuple[int, int, int, int],
    seed: int,
    number: int,
    purpose: Any,
    *arrays: numpy.ndarray[Any, Any],
) -> dict[str, Any]:
    """Trains and judges one network."""
    from ddfw.remote import tasks

    return _outcome(lambda: tasks.remote_accuracy(job, settings, _given(spec, arrays), seed, number, purpose))


def call(task: str, payload: str, threads: int, folder: str) -> dict[str, Any]:
    """Calls a module's function, in the folder that it was asked for from, where this machine has that."""
    from ddfw.remote import tasks

    def work() -> str:
        with contextlib.chdir(folder) if os.path.isdir(folder) else contextlib.nullcontext():
            return tasks.call(task, payload, threads)

    return _outcome(work)


class Progress:
    """How many epochs each expert has done."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}

    def note(self, key: str, epoch: int) -> None:
        """An expert has done so many epochs; one that started again does not go back."""
        self._epochs[key] = max(epoch, self._epochs.get(key, 0))

    def read(self) -> dict[str, int]:
        """All of them."""
        return self._epochs


def _outcome(work: Callable[[], Any]) -> dict[str, Any]:
    """The result, or the error as data: Ray would wrap it into a class and a traceback of its own."""
    from ddfw.process.allocator import keep_freed_memory
    from ddfw.remote import tasks

    keep_freed_memory()  # a worker's process is Ray's and ours, not a user's
    try:
        return {"value": work(), "error": None}
    except Exception as error:
        return {"value": None, "error": tasks.error_record(error)}


def _given(spec: tuple[int, int, int, int], arrays: tuple[numpy.ndarray[Any, Any], ...]) -> TaskData:
    from ddfw import ImageSpec, LabelledImages
    from ddfw.remote.tasks import TaskData

    images, targets, judge_images, judge_targets = map(_tensor, arrays)
    channels, height, width, classes = spec
    return TaskData(
        train=LabelledImages(images=images, targets=targets),
        judge=LabelledImages(images=judge_images, targets=judge_targets),
        spec=ImageSpec(channels=channels, height=height, width=width, num_classes=classes),
    )


def _tensor(array: numpy.ndarray[Any, Any]) -> Tensor:
    """A tensor on the array's memory, which nobody writes to: training works on copies."""
    import torch
    from torch.utils.dlpack import from_dlpack

    try:
        return from_dlpack(array)  # torch.from_numpy warns about memory that is read-only
    except (BufferError, TypeError):  # a NumPy that does not lend such memory
        return torch.from_numpy(array.copy())
