"""How many inner steps keep their autograd graph ("step graphs") between the forward and the backward pass.

The number follows from the bytes that one graph keeps, the memory that is available and the option `gradient.memory`.

Shapes: b images of one batch, m classes, P parameters.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddfw.engine.inner import StepGraph
from ddfw.engine.machine import processor_memory

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.executor import Problem
    from ddfw.contracts.settings import GradientSettings
    from ddfw.engine.inner import Network

#: Bytes that `gradient.memory = "auto"` stands for when the available memory cannot be determined.
AUTO_MEMORY_UNKNOWN = 512 * 2**20
#: Share of the available memory that `gradient.memory = "auto"` takes on a CPU, whose memory other programs need too.
SHARE_CPU = 0.5
#: Share of the available memory that `gradient.memory = "auto"` takes on a GPU.
SHARE_ACCELERATOR = 0.8

#: Bytes of a step graph's own nodes, which hold no tensors.
NODES = 2**16

#: A function that gives the bytes available on a device now, or None when they cannot be determined.
Available = Callable[[torch.device], int | None]


@frozen(kw_only=True)
class StepBudget:
    """How many step graphs are held, and the two measurements that this number was computed from.

    Args:
        held_steps: number of step graphs that are held at one time.
        graph_bytes: bytes of one step graph; None if it was not measured.
        memory_seen: bytes that were available; None if `gradient.memory` is a number or they cannot be determined.
    """

    held_steps: int
    graph_bytes: int | None = None
    memory_seen: int | None = None

    def describe(self) -> dict[str, int | None]:
        """The three fields as a dictionary, as they stand in a session's description and in the run's manifest."""
        return {"held_steps": self.held_steps, "graph_bytes": self.graph_bytes, "memory_seen": self.memory_seen}


#: The step budget in a session's description before its first step, when nothing has been measured yet.
NOT_YET: dict[str, int | None] = {"held_steps": None, "graph_bytes": None, "memory_seen": None}


def graph_bytes(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> int:
    """Bytes that one held step graph keeps alive, θ excluded.

    Counted are the distinct storages saved for the backward pass, the step's inputs and its gradient, plus a quarter of
    their sum and the bytes of the graph's nodes. The estimate is meant to be too large: processes were measured to grow
    by 40 to 90 % of it for each graph that they held.

    Args:
        network: the student.
        theta: [P] parameters at which the graph is built.
        images: [b, C, H, W], one batch.
        targets: [b, m] class probabilities of the batch.

    Returns:
        The estimate in bytes.
    """
    sizes: dict[int, int] = {}
    keep: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        # The tensor is kept alive so that no later one gets its address and goes uncounted. It is detached, because a
        # graph that is kept alive by what it saves itself would never be freed.
        keep.append(tensor.detach())
        return keep[-1]

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        graph = StepGraph(network, theta, images, targets)
    for tensor in (images, targets, graph.gradient, *graph.tensors()):
        note(tensor)
    sizes.pop(theta.untyped_storage().data_ptr(), None)
    return sum(sizes.values()) * 5 // 4 + NODES


def step_budget(
    settings: GradientSettings,
    problem: Problem,
    network: Network,
    theta: Tensor,
    device: torch.device,
    available: Available | None = None,
) -> StepBudget:
    """How many of a problem's N step graphs fit into the memory that `gradient.memory` allows; at most N.

    One graph is measured on the problem's largest batch. `gradient.memory = "auto"` allows half of the available memory
    on a CPU and four fifths of it on a GPU.

    Args:
        settings: the `[gradient]` table of the configuration.
        problem: the first problem of the run; all problems of a run have the same number of steps.
        network: the student.
        theta: [P] parameters, on the device.
        device: the device on which step graphs will be held.
        available: gives the available bytes, and is called after one graph was measured; None: `available_memory`.

    Returns:
        The number of graphs and the measurements behind it.
    """
    if settings.memory == 0:
        return StepBudget(held_steps=0)
    batches = problem.schedules[0].batches
    batch = max(batches, key=len)
    one = max(1, graph_bytes(network, theta, problem.images[batch], problem.targets[batch]))
    if settings.memory != "auto":
        return StepBudget(held_steps=min(settings.memory // one, len(batches)), graph_bytes=one)
    seen = (available or available_memory)(device)
    fitting = auto_memory(device, seen) // one
    return StepBudget(held_steps=min(fitting, len(batches)), graph_bytes=one, memory_seen=seen)


def auto_memory(device: torch.device, seen: int | None) -> int:
    """The bytes that `gradient.memory = "auto"` allows when `seen` bytes are available (None: unknown)."""
    if seen is None:
        return AUTO_MEMORY_UNKNOWN
    return int(seen * (SHARE_CPU if device.type == "cpu" else SHARE_ACCELERATOR))


def available_memory(device: torch.device) -> int | None:
    """Bytes that could be allocated on a device now; None when they cannot be determined.

    On a CPU this is the smallest of two kinds of numbers: the memory that Linux calls available, and what each control
    group (cgroup) of this process leaves under its limit. On a CUDA device it is the free memory plus what PyTorch's
    allocator has reserved without using it, except in the pools of captured graphs, which serve these alone.
    """
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
        number = torch.cuda.current_device() if device.index is None else device.index
        spare = sum(
            int(segment["total_size"] - segment["active_size"])
            for segment in torch.cuda.memory_snapshot()
            if segment["device"] == number and tuple(segment["segment_pool_id"]) == (0, 0)
        )
        return free + spare
    return processor_memory() if device.type == "cpu" else None


class LiveBytes(TorchDispatchMode):
    """Counts bytes of tensor storages created inside a `with` block: `live` is now, `peak` is the most at one time.

    Memory that an operation uses internally, such as a convolution's scratch memory, is not counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one PyTorch operation and counts the storages that it created."""
        out = func(*args, **(kwargs or {}))
        # A storage of the inputs that comes out again, as in a view, was not created by the operation.
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                self._note(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        # Python's storage object is created anew on each access, so the C++ storage behind it is the key.
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self.live += size

        def gone(_: object, key: int = key, size: int = size) -> None:
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)


def peak_bytes(work: Callable[[], object]) -> int:
    """Calls `work` and returns the most bytes that tensors created by it held at one time; its result is dropped."""
    with LiveBytes() as count:
        work()
    return int(count.peak)
