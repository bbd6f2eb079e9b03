"""A worker: a process that does pieces of work for the process that started it, one after another.

It is started as `python -m ddfw.remote.worker DESCRIPTOR`, where the descriptor is its end of a socket, and ends as
soon as the other end is closed – also when the process there was killed, and in the midst of a piece of work.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddfw.remote.channel import Block, Channel, in_shared_memory, mapped

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.remote.tasks import TaskData

Message = tuple[dict[str, Any], Block]


def work_for(descriptor: int) -> None:
    """Works until the other end of the socket is closed.

    Args:
        descriptor: of this end of the socket.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started this one decides
    channel, messages = Channel(socket.socket(fileno=descriptor)), queue.SimpleQueue[Message]()
    threading.Thread(target=_listen, args=(channel, messages), daemon=True).start()
    hello, _ = messages.get()
    sys.path[:] = hello["path"]
    # Loaded after the thread has started, so that a process that is not needed any more does not load PyTorch first.
    from ddfw.process.allocator import keep_freed_memory
    from ddfw.remote import tasks

    keep_freed_memory()
    root = logging.getLogger()
    root.addHandler(_Passing(channel))
    logging.captureWarnings(True)
    work = _Work(channel)
    while True:
        message, block = messages.get()
        if "key" in message:
            work.keep(message["key"], block)
            continue
        if "drop" in message:
            work.kept.pop(message["drop"], None)
            continue
        try:
            found, tensors = work.do(message)
        except Exception as error:
            channel.send({"failed": tasks.error_record(error)})
        else:
            result = in_shared_memory(tensors)
            with contextlib.closing(result):
                channel.send({"done": found}, result)


def _listen(channel: Channel, messages: queue.SimpleQueue[Message]) -> None:
    try:
        while (message := channel.receive()) is not None:
            messages.put(message)
    except BaseException:  # such as too many open files: a worker that hears nothing would be waited for for ever
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # at once: whoever wanted the work is gone


class _Passing(logging.Handler):
    """Passes messages of loggers on to the process that started this one."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._channel.send({"log": record.name, "level": record.levelno, "text": record.getMessage()})


class _Work:
    """What a worker does.

    Args:
        channel: tells the other process how far it is.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.kept: dict[int, Tensor] = {}

    def keep(self, key: int, block: Block) -> None:
        """Maps a tensor that several pieces of work need."""
        with contextlib.closing(block):
            (self.kept[key],) = mapped(block)

    def do(self, message: Mapping[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
        """One piece of work: JSON-able results, and tensors."""
        from ddfw.remote import tasks

        given, settings, job = self._given(message), message["settings"], message["job"]
        if message["work"] == "expert":
            found = tasks.remote_expert(job, settings, given, message["seed"], self._told)
            return found, [found.pop("snapshots")]
        found = tasks.remote_evaluation(job, settings, given, message["seed"], message["number"], message["purpose"])
        predicted = found.pop("predicted")
        return found, [] if predicted is None else [predicted]

    def _told(self, epoch: int) -> None:
        self._channel.send({"epoch": epoch})

    def _given(self, message: Mapping[str, Any]) -> TaskData:
        from ddfw.contracts.dataset import ImageSpec
        from ddfw.contracts.executor import LabelledImages
        from ddfw.remote.tasks import TaskData

        images, targets, test_images, test_targets = (self.kept[key] for key in message["data"])
        channels, height, width, classes = message["spec"]
        return TaskData(
            train=LabelledImages(images=images, targets=targets),
            test=LabelledImages(images=test_images, targets=test_targets),
            spec=ImageSpec(channels=channels, height=height, width=width, num_classes=classes),
        )


if __name__ == "__main__":
    work_for(int(sys.argv[1]))
