"""How many step graphs are held: what one of them keeps, what memory there is, what `gradient.memory` makes of both.

Shapes: b images of one batch, m classes, P parameters.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddfw.engine.inner import StepGraph

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.executor import Problem
    from ddfw.contracts.settings import GradientSettings
    from ddfw.engine.inner import Network

#: `gradient.memory = "auto"` in bytes, where nobody can say what memory is available.
AUTO_MEMORY_UNKNOWN = 512 * 2**20
#: Share of the available memory that "auto" takes: on a processor, whose memory other programs want, too.
SHARE_CPU = 0.5
#: Likewise on an accelerator.
SHARE_ACCELERATOR = 0.8

#: Bytes that a graph needs besides tensors.
NODES = 2**16

#: Bytes available on a device now, None where that cannot be known.
Available = Callable[[torch.device], int | None]


@frozen(kw_only=True)
class StepBudget:
    """How many step graphs are held, and why.

    Args:
        held_steps: how many.
        graph_bytes: of one graph, None where it was not measured.
        memory_seen: bytes that were available, None where `gradient.memory` names a number, or where nobody can say.
    """

    held_steps: int
    graph_bytes: int | None = None
    memory_seen: int | None = None

    def describe(self) -> dict[str, int | None]:
        """The same for a session's `describe`."""
        return {"held_steps": self.held_steps, "graph_bytes": self.graph_bytes, "memory_seen": self.memory_seen}


#: What a session describes before its first step.
NOT_YET: dict[str, int | None] = {"held_steps": None, "graph_bytes": None, "memory_seen": None}


def graph_bytes(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> int:
    """Bytes that one held step graph keeps alive, θ excluded.

    These are the distinct storages saved for its backward pass, the step's own inputs and its gradient, a quarter more,
    and what the nodes of the graph need themselves, so that the estimate errs on the safe side: processes grew by 40 to
    90 % of it for each graph that they held.

    Args:
        network: the student.
        theta: [P].
        images: a batch [b, C, H, W].
        targets: its probabilities [b, m].
    """
    sizes: dict[int, int] = {}
    keep: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        # Kept, or its address could be used again before the count is over; without its own graph, which would keep
        # itself alive for ever through what it saves.
        keep.append(tensor.detach())
        return keep[-1]

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        graph = StepGraph(network, theta, images, targets)
    for tensor in (images, targets, graph.gradient):
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
    """What `gradient.memory` means for a problem: as many of its N step graphs as fit, at most N.

    One graph is measured on the problem's largest batch. "auto" then takes a share of the memory that is available:
    half of it on a processor, four fifths on an accelerator.

    Args:
        settings: `[gradient]`.
        problem: the first one that is asked for; all have as many steps.
        network: the student.
        theta: [P], on the device.
        device: where graphs will be held.
        available: asked after one graph was measured; None for `available_memory`.
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


def held_steps_within(
    settings: GradientSettings,
    problem: Problem,
    network: Network,
    theta: Tensor,
    device: torch.device,
    available: Available | None = None,
) -> int:
    """How many step graphs are held; see `step_budget`."""
    return step_budget(settings, problem, network, theta, device, available).held_steps


def auto_memory(device: torch.device, seen: int | None) -> int:
    """The bytes that "auto" takes where `seen` bytes are available (None: unknown)."""
    if seen is None:
        return AUTO_MEMORY_UNKNOWN
    return int(seen * (SHARE_CPU if device.type == "cpu" else SHARE_ACCELERATOR))


def available_memory(device: torch.device) -> int | None:
    """Bytes that could be allocated on a device now, None where nobody can say.

    On a processor the smallest of what the system calls available and what the control groups of this process leave.
    On a CUDA device what is free there and what PyTorch's allocator has reserved and not handed out.
    """
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    return processor_memory() if device.type == "cpu" else None


def processor_memory(root: Path = Path("/")) -> int | None:
    """Bytes available to this process, from Linux' /proc and /sys/fs/cgroup; None on other systems.

    Args:
        root: where these lie.
    """
    found = list(_control_groups(root))
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        words = rest.split()
        if name == "MemAvailable" and words and words[0].isdigit():
            found.append(int(words[0]) * 1024)
    return max(0, min(found)) if found else None


def _control_groups(root: Path) -> Iterator[int]:
    """What each group that this process is in leaves, outer ones included; those without a limit are left out."""
    top = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            mounts = [top, top / "unified"]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mounts = [top / "memory"]
        else:
            continue
        group = Path(path.lstrip("/"))
        # In a container the path may be the host's, which is not there; then the mount itself is the group.
        for mount in mounts:
            for folder in dict.fromkeys((mount / group, *(mount / parent for parent in group.parents), mount)):
                left = _left(folder, *names)
                if left is not None:
                    yield left


def _left(folder: Path, limit: str, use: str, cache: str) -> int | None:
    """A group's limit less its use; cached files that the system would drop do not count as use."""
    most, used = _number(folder / limit), _number(folder / use)
    if most is None or used is None or most >= 2**60:  # the first version writes a huge number where there is no limit
        return None
    stat = dict(line.split(maxsplit=1) for line in _lines(folder / "memory.stat") if " " in line)
    dropped = int(stat[cache]) if stat.get(cache, "").isdigit() else 0
    return most - max(0, used - dropped)


def _number(path: Path) -> int | None:
    first = next(iter(_lines(path)), "").strip()
    return int(first) if first.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the distinct storages that are made while it is on: alive now, and at most.

    What operations use inside, such as a convolution's scratch memory, is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and notes what it made."""
        out = func(*args, **(kwargs or {}))
        # What an operation was given and hands on, as a view does, was not made by it.
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                self._note(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        # A storage object is made anew on each access; its C++ implementation is what lives and dies.
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
    """The most bytes that tensors made by `work` held at one time; its result is dropped."""
    with LiveBytes() as count:
        work()
    return int(count.peak)
