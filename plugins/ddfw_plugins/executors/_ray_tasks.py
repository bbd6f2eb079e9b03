"""The functions that Ray's workers run, and the actor that collects their progress.

Every worker imports this module first, so it imports little. Images and labels arrive as read-only NumPy arrays in the
shared memory of Ray's object store.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from torch import Tensor

    from ddfw.remote.tasks import TaskData


def experts(
    job: Mapping[str, Any],
    settings: Mapping[str, Any],
    spec: tuple[int, int, int, int],
    seeds: Sequence[int],
    keys: Sequence[str],
    progress: Any,
    *arrays: numpy.ndarray[Any, Any],
) -> dict[str, Any]:
    """Trains experts and reports the epochs of each to `progress` under its key."""
    from ddfw.remote import tasks

    def told(position: int, epoch: int) -> None:
        progress.note.remote(keys[position], epoch)

    def work() -> list[dict[str, Any]]:
        found = tasks.remote_experts(job, settings, _given(spec, arrays), seeds, told)
        return [{**one, "snapshots": one["snapshots"].numpy()} for one in found]

    return _outcome(work)


def networks(
    job: Mapping[str, Any],
    settings: Mapping[str, Any],
    spec: tuple[int, int, int, int],
    seed: int,
    numbers: range,
    purpose: Any,
    *arrays: numpy.ndarray[Any, Any],
) -> dict[str, Any]:
    """Trains evaluation networks and tests them."""
    from ddfw.remote import tasks

    def work() -> list[dict[str, Any]]:
        found = tasks.remote_evaluations(job, settings, _given(spec, arrays), seed, numbers, purpose)
        return [{**one, "predicted": None if one["predicted"] is None else one["predicted"].numpy()} for one in found]

    return _outcome(work)


def call(task: str, payload: str, threads: int, folder: str) -> dict[str, Any]:
    """Calls the function `task` (module:name), in the folder of the process that asked if this machine has it."""
    from ddfw.remote import tasks

    def work() -> str:
        with contextlib.chdir(folder) if os.path.isdir(folder) else contextlib.nullcontext():
            return tasks.call(task, payload, threads)

    return _outcome(work)


class Progress:
    """An actor that knows how many epochs each expert has done."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}

    def note(self, key: str, epoch: int) -> None:
        """Notes the epochs that an expert has done; after a restart of its task, the number does not go back."""
        self._epochs[key] = max(epoch, self._epochs.get(key, 0))

    def read(self) -> dict[str, int]:
        """The number of epochs of every expert, by its key."""
        return self._epochs


def _outcome(work: Callable[[], Any]) -> dict[str, Any]:
    """Runs `work` and returns its result or its error as data; Ray would wrap an error into a class of its own."""
    from ddfw.process.allocator import keep_freed_memory
    from ddfw.remote import tasks

    keep_freed_memory()  # a worker runs nothing of the user's, so its allocator may be set
    try:
        return {"value": work(), "error": None}
    except Exception as error:
        return {"value": None, "error": tasks.error_record(error)}


def _given(spec: tuple[int, int, int, int], arrays: tuple[numpy.ndarray[Any, Any], ...]) -> TaskData:
    from ddfw import ImageSpec, LabelledImages
    from ddfw.remote.tasks import TaskData

    images, targets, test_images, test_targets = map(_tensor, arrays)
    channels, height, width, classes = spec
    return TaskData(
        train=LabelledImages(images=images, targets=targets),
        test=LabelledImages(images=test_images, targets=test_targets),
        spec=ImageSpec(channels=channels, height=height, width=width, num_classes=classes),
    )


def _tensor(array: numpy.ndarray[Any, Any]) -> Tensor:
    """A tensor that shares the array's read-only memory; nothing writes to it, since training works on copies."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(array)  # torch.from_numpy warns about memory that is read-only
