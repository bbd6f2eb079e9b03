"""The ranks that torchrun started, as a crew: their process group, the messages between them, and how they end.

Messages are JSON in tensors of bytes, so nothing that another process sends is ever executed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import torch
import torch.distributed as dist
import torch.distributed.nn
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ddfw import Crew, DdfwError, DivergedError
from ddfw.errors import StoppedError
from ddfw.process.ranks import Launch
from ddfw_plugins.executors._heartbeat import START_S, Heartbeat

# `torch.distributed.nn`, which an optimiser's first step imports, has functions whose default argument is the process
# group of that moment. Within a crew they would keep the group and its threads alive after it was destroyed, and in one
# of a hundred runs abort the process at its exit ("terminate called without an active exception"). So it is imported
# above, while there is no group.

#: How long collectives wait: longer than the longest work of any rank; the heartbeat finds ranks that are gone.
_FOREVER = timedelta(days=14)


class LostRankError(DdfwError):
    """The connection to another rank broke."""


@final
class ProcessCrew(Crew):
    """The ranks of one start of torchrun, connected by a process group."""

    def __init__(self, launch: Launch, backend: str, control: dist.ProcessGroup | None) -> None:
        """Wraps an initialised process group.

        Args:
            launch: which rank this is.
            backend: of the default process group, which adds gradients up: gloo or nccl.
            control: the gloo group that messages use; None for the default group.
        """
        self.rank = launch.rank
        self.size = launch.size
        self.backend = backend
        self._control = control

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank; what JSON can hold."""
        return self.gather(value if self.rank == 0 else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in the order of ranks, on every rank; what JSON can hold."""
        if self.size == 1:
            return [value]
        sent = _encode(value)
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        with connected():
            dist.all_gather(lengths, torch.tensor([len(sent)]), group=self._control)
            longest = int(max(lengths))
            padded = torch.cat([sent, sent.new_zeros(longest - len(sent))])
            messages = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(messages, padded, group=self._control)
        return [_decode(m[: int(n)]) for m, n in zip(messages, lengths, strict=True)]

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Copies rank 0's values into these tensors, in place; any dtype, any device, the same shapes on every rank."""
        if self.size == 1:
            return
        for tensor in tensors:
            here = tensor.detach().cpu().contiguous().clone()
            if here.numel():
                with connected():
                    dist.broadcast(here.reshape(-1).view(torch.uint8), src=0, group=self._control)
                with torch.no_grad():
                    tensor.copy_(here)

    def add_up(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over all ranks; on the CPU with gloo, on a GPU with nccl."""
        if self.size > 1:
            with connected():
                dist.all_reduce(tensor)

    def wait(self) -> None:
        """Waits until every rank has called this."""
        self.gather(None)


@contextmanager
def connected() -> Iterator[None]:
    """Turns whatever PyTorch raises inside, when the connection to another rank breaks, into a LostRankError.

    Raises:
        LostRankError: the connection broke.
    """
    try:
        yield
    except RuntimeError as error:  # what torch.distributed raises, its own DistError included
        words = " ".join(str(error).split())[:200]
        raise LostRankError(f"the connection between the ranks broke: {words}") from error


_crew: ProcessCrew | None = None
_numbers = itertools.count()
_stores: dict[str, Store] = {}


def current() -> ProcessCrew | None:
    """The crew of this process, None outside `assembled`."""
    return _crew


@contextmanager
def assembled(launch: Launch, device: torch.device) -> Iterator[ProcessCrew]:
    """Waits for all ranks and connects them for the block; within another such block, its crew is given again.

    Args:
        launch: which rank this is.
        device: where gradients are added up: a GPU by nccl, the CPU by gloo.
    """
    global _crew
    if _crew is not None:
        yield _crew
        return
    number = next(_numbers)
    store = PrefixStore(f"ddfw/{launch.name}/{number}/group", _store(launch))
    heartbeat = Heartbeat(launch, number)
    try:
        heartbeat.meet()
        _crew = _group(launch, device, store)
        try:
            yield _crew
        except (DivergedError, StoppedError):
            # All ranks raise these together; rank 0 may need longer, to write what was learned.
            with contextlib.suppress(LostRankError):
                _crew.wait()
            raise
        _crew.wait()
        dist.destroy_process_group()
    except BaseException as error:
        _abandon()
        if isinstance(error, LostRankError) or not isinstance(error, Exception):
            # Perhaps the cause is another rank: one that broke the connection, or one whose end made the launcher send
            # this rank a signal.
            heartbeat.leave(with_the_others=not isinstance(error, LostRankError))
        raise
    finally:
        _crew = None
        heartbeat.close()


def _abandon() -> None:
    """Leaves a gloo group in which others may still wait for this rank: they notice it at once.

    A process that ended with a gloo group would abort. A group of the backend nccl would wait for the other ranks.
    """
    if dist.is_initialized() and dist.get_backend() == "gloo":
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _store(launch: Launch) -> Store:
    """The store of the launcher; where it serves none, a store that rank 0 serves until it ends.

    The ranks write there how to reach each other.
    """
    if launch.name in _stores:
        return _stores[launch.name]
    found: tuple[Store, int, int] = next(rendezvous("env://", timeout=timedelta(seconds=START_S)))
    store = found[0]
    store.set_timeout(_FOREVER)
    if not launch.agent:
        _stores[launch.name] = store
    return store


def _group(launch: Launch, device: torch.device, store: Store) -> ProcessCrew:
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # Otherwise nccl ends this process with pages of its own when another rank dies, before the heartbeat does.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    with connected():
        dist.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=_FOREVER,
            device_id=device if device.type == "cuda" else None,
        )
        made = None if backend == "gloo" else dist.new_group(backend="gloo", timeout=_FOREVER)
    control = made if isinstance(made, dist.ProcessGroup) else None
    return ProcessCrew(launch, backend, control)


def _encode(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _decode(message: Tensor) -> Any:
    return json.loads(bytes(message.tolist()))
