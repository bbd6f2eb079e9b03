"""Worker processes of this machine, and the distribution of work among them.

A worker that is lost – killed, out of memory – is replaced, and its piece of work begun anew; the numbers are the same,
since a piece depends on nothing but its arguments.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from ddfw.engine.interruption import stop_if_wanted
from ddfw.errors import DdfwError
from ddfw.remote.channel import Block, Channel, in_shared_memory, mapped
from ddfw.remote.shelf import Shelf
from ddfw.remote.tasks import error_from

if TYPE_CHECKING:
    from torch import Tensor

#: Seconds that a worker needs to load PyTorch before its first piece of work, about.
START_S = 2.0
#: Bytes of a worker process that has loaded PyTorch and done nothing else: what it does not share with others.
WORKER_BYTES = 300 * 2**20
#: How often a piece of work is begun whose worker is lost again and again.
TRIES = 4
#: Seconds between two questions whether to stop, at most.
_LOOK_S = 0.05
#: Seconds that a worker gets to end by itself.
_END_S = 2.0

#: A message with the block that came with it; None from a worker that is lost.
Received = tuple[dict[str, Any], Block] | None

logger = logging.getLogger(__name__)


@frozen(kw_only=True, eq=False)
class Piece:
    """A piece of work.

    Args:
        title: for messages.
        message: what a worker is told, JSON-able.
        tensors: what it needs; several pieces may share them.
        size: how long it takes, in any unit; long pieces are begun first.
    """

    title: str
    message: Mapping[str, Any]
    tensors: Sequence[Tensor]
    size: float = 1.0


@frozen(kw_only=True, eq=False)
class Outcome:
    """What became of a piece of work.

    Args:
        found: JSON-able results.
        tensors: and tensors.
        error: why there are none; None if there are.
    """

    found: Mapping[str, Any]
    tensors: Sequence[Tensor]
    error: Exception | None = None


@define(eq=False)
class _Worker:
    """One process, and what it is doing.

    Args:
        process: the process.
        channel: the connection to it.
        known: keys of the tensors that it has.
        position: of the piece that it works on; None if it has none.
    """

    process: subprocess.Popen[bytes]
    channel: Channel
    known: set[int] = field(factory=set)
    position: int | None = None


@define(eq=False)
class Pool:
    """Worker processes, started when there is work for them, that end with this process.

    Args:
        size: how many there are at most.
    """

    size: int
    _workers: list[_Worker] = field(init=False, factory=list)
    _keys: Iterator[int] = field(init=False, factory=count)
    _blocks: dict[int, Block] = field(init=False, factory=dict)
    _shelf: Shelf[int] = field(init=False)
    _said: set[str] = field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        self._shelf = Shelf(self._store, self._drop)

    @property
    def started(self) -> bool:
        """Whether there are processes already."""
        return bool(self._workers)

    @property
    def busy(self) -> bool:
        """Whether the workers are at work for somebody who has not asked for all outcomes yet."""
        return any(worker.position is not None for worker in self._workers)

    def run(
        self, pieces: Sequence[Piece], on_epoch: Callable[[int, int], None] = lambda position, epoch: None
    ) -> Iterator[tuple[int, Outcome]]:
        """Does pieces of work, and yields the position and the outcome of each as soon as it has come.

        Whoever stops to iterate ends what is still being done.

        Args:
            pieces: what to do.
            on_epoch: called with a piece's position and the number of its epochs that are done.

        Raises:
            DdfwError: the workers of a piece were lost, `TRIES` times.
            Interrupted: the run is to stop.
        """
        if self.busy:
            raise DdfwError("the workers are still at work for somebody else")
        self._shelf.tidy()
        waiting = sorted(range(len(pieces)), key=lambda position: (-pieces[position].size, position))
        left, begun = len(pieces), [0] * len(pieces)
        told, received = [0] * len(pieces), list[tuple[_Worker, Received]]()
        try:
            while left:
                while waiting and (worker := self._free(left)) is not None:
                    following = waiting.pop(0)
                    begun[following] += 1
                    self._give(worker, following, pieces[following])
                stop_if_wanted()
                received = self._received()
                while received:
                    worker, came = received.pop(0)
                    position = worker.position
                    if came is None:
                        code = self._lost(worker)
                        if position is None:
                            continue
                        if begun[position] == TRIES:
                            raise DdfwError(_lost_words(pieces[position].title, code))
                        waiting.insert(0, position)
                        continue
                    message, block = came
                    if "log" in message:
                        self._pass_on(message)
                    elif "epoch" in message and position is not None:
                        for epoch in range(told[position] + 1, message["epoch"] + 1):
                            on_epoch(position, epoch)  # a piece that was begun anew does not tell them again
                        told[position] = max(told[position], message["epoch"])
                    elif position is not None:
                        worker.position, left = None, left - 1
                        yield position, _outcome(message, block)
        finally:
            for _, came in received:
                if came is not None:
                    came[1].close()
            for worker in [worker for worker in self._workers if worker.position is not None]:
                self._end(worker, 0.0)

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            worker.channel.connection.close()  # all at once, so that they end side by side
        for worker in list(self._workers):
            self._end(worker, _END_S)
        self._shelf.clear()

    def _free(self, wanted: int) -> _Worker | None:
        """A worker without work, a new one if need be; None if all that there may be are busy."""
        for worker in self._workers:
            if worker.position is None:
                return worker
        return self._start() if len(self._workers) < min(self.size, wanted) else None

    def _start(self) -> _Worker:
        here, there = socket.socketpair()
        with there:
            # -P: a module of ours is run, and no file of this folder that has the name of one that it imports.
            # A session of its own: what a terminal sends to all processes is for this one to decide.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "ddfw.remote.worker", str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=_standard_error(),
                pass_fds=(there.fileno(),),
                start_new_session=True,
            )
        worker = _Worker(process=process, channel=Channel(here))
        self._workers.append(worker)
        with contextlib.suppress(ConnectionError):  # it has ended, which is noticed when an answer is waited for
            worker.channel.send({"path": [str(path) or os.getcwd() for path in sys.path]})
        return worker

    def _give(self, worker: _Worker, position: int, piece: Piece) -> None:
        worker.position = position
        keys = [self._shelf.put(tensor) for tensor in piece.tensors]
        with contextlib.suppress(ConnectionError):  # as above; after other errors an answer would never come
            for key in keys:
                if key not in worker.known:
                    worker.channel.send({"key": key}, self._blocks[key])
                    worker.known.add(key)
            worker.channel.send({**piece.message, "data": keys})

    def _received(self) -> list[tuple[_Worker, Received]]:
        """A message of each worker that has sent one; None of a worker that is lost."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.channel.connection, selectors.EVENT_READ, worker)
            ready = [key.data for key, _ in selector.select(_LOOK_S)]
        return [(worker, worker.channel.receive()) for worker in ready]

    def _lost(self, worker: _Worker) -> int:
        """Removes a worker whose connection has ended; returns its exit code."""
        self._end(worker, _END_S)
        return worker.process.returncode

    def _end(self, worker: _Worker, seconds: float) -> None:
        """Closes the connection to a worker, and kills it if it has not ended after so many seconds."""
        self._workers.remove(worker)
        worker.channel.connection.close()
        try:
            worker.process.wait(seconds)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()

    def _store(self, tensor: Tensor) -> int:
        key = next(self._keys)
        self._blocks[key] = in_shared_memory([tensor])
        return key

    def _drop(self, key: int) -> None:
        self._blocks.pop(key).close()
        for worker in self._workers:
            if key in worker.known:
                worker.known.remove(key)
                with contextlib.suppress(ConnectionError):
                    worker.channel.send({"drop": key})

    def _pass_on(self, message: Mapping[str, Any]) -> None:
        """Logs what a worker logged; what several of them say is said once."""
        if message["text"] not in self._said:
            self._said.add(message["text"])
            logging.getLogger(message["log"]).log(message["level"], "%s", message["text"])


def _outcome(message: Mapping[str, Any], block: Block) -> Outcome:
    with contextlib.closing(block):
        if "failed" in message:
            return Outcome(found={}, tensors=(), error=error_from(message["failed"]))
        return Outcome(found=message["done"], tensors=mapped(block))


def _lost_words(title: str, code: int) -> str:
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    memory = ", as for want of memory" if code == -9 else ""
    return (
        f"the worker of {title} was lost {TRIES} times ({how}{memory}); executor.workers = 1 does the work in this "
        "process; what was finished is kept, the same command goes on from there"
    )


def _standard_error() -> int:
    """Where a worker's standard output goes: not to this process's, which may be a pipe that JSON is read from."""
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else subprocess.DEVNULL
    except (OSError, ValueError):
        return subprocess.DEVNULL


def can_start_workers() -> bool:
    """Whether this process can start others and hand them descriptors: not inside another program, nor on Windows."""
    # Of a program that carries its own Python, `sys.executable` is the program: it would start itself.
    return bool(sys.executable) and not hasattr(sys, "frozen") and hasattr(socket, "send_fds")


_here = threading.local()


@contextlib.contextmanager
def pool_of(size: int) -> Iterator[Pool]:
    """A pool of so many workers; sessions that are open in this thread at the same time share one."""
    pools: dict[int, tuple[Pool, int]] = _here.__dict__.setdefault("pools", {})
    pool, users = pools.get(size, (None, 0))
    pool = pool or Pool(size)
    pools[size] = (pool, users + 1)
    try:
        yield pool
    finally:
        _, users = pools.pop(size)
        if users > 1:
            pools[size] = (pool, users - 1)
        else:
            pool.close()
