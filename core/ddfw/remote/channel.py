"""Messages with tensors between two processes of one machine, over a socket.

A message is a JSON object. Tensors travel beside it in one block of shared memory, whose descriptor is sent along; the
receiver maps it and copies nothing. The block has no name on any disk and is gone with the last process that holds it.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, frozen

if TYPE_CHECKING:
    from torch import Tensor

#: Length of the JSON text that follows, in bytes, and number of descriptors that come with it (0 or 1).
_HEADER = struct.Struct("<QB")
#: Tensors begin at multiples of so many bytes, as those that PyTorch allocates do: libraries may sum in another order
#: where memory is aligned otherwise.
_ALIGNMENT = 64


@frozen(kw_only=True)
class Block:
    """Tensors in shared memory.

    Args:
        descriptor: of the memory, which whoever holds the block closes; -1 if there is nothing to hold.
        layout: type, shape and offset of each tensor, JSON-able.
    """

    descriptor: int
    layout: Sequence[Mapping[str, Any]]

    def close(self) -> None:
        """Closes the descriptor; tensors that were mapped stay readable."""
        if self.descriptor >= 0:
            os.close(self.descriptor)


def in_shared_memory(tensors: Sequence[Tensor]) -> Block:
    """Copies tensors, of any device and strides, into a block of shared memory."""
    layout, size = list[dict[str, Any]](), 0
    for tensor in tensors:
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        layout.append({"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "at": size})
        size += tensor.numel() * tensor.element_size()
    if not size:
        return Block(descriptor=-1, layout=layout)
    descriptor = _memory(size)
    with mmap.mmap(descriptor, size) as memory:
        views = _views(memory, layout)
        for view, tensor in zip(views, tensors, strict=True):
            view.copy_(tensor.detach())
        del view, views  # the memory cannot be unmapped while they are there
    return Block(descriptor=descriptor, layout=layout)


def mapped(block: Block) -> list[Tensor]:
    """The tensors of a block, mapped; what is written to them stays in this process."""
    if block.descriptor < 0:
        return _views(None, block.layout)
    memory = mmap.mmap(block.descriptor, os.fstat(block.descriptor).st_size, access=mmap.ACCESS_COPY)
    return _views(memory, block.layout)


def _memory(size: int) -> int:
    """A descriptor of so many bytes that no other process can open by a name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ddfw")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _views(memory: mmap.mmap | None, layout: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    import torch

    found = []
    for one in layout:
        dtype, shape, count = getattr(torch, one["dtype"]), one["shape"], math.prod(one["shape"])
        if memory is None or not count:
            found.append(torch.empty(shape, dtype=dtype))
        else:
            found.append(torch.frombuffer(memory, dtype=dtype, count=count, offset=one["at"]).view(shape))
    return found


@define(eq=False)
class Channel:
    """One end of a connection.

    Args:
        connection: a stream socket between two processes of this machine.
    """

    connection: socket.socket

    def send(self, message: Mapping[str, Any], block: Block | None = None) -> None:
        """Sends a message, and a block of tensors with it; the block stays the sender's.

        Raises:
            OSError: the other process is gone.
        """
        text = json.dumps({**message, "layout": [] if block is None else list(block.layout)}).encode()
        descriptors = [] if block is None or block.descriptor < 0 else [block.descriptor]
        header = _HEADER.pack(len(text), len(descriptors))
        if descriptors:
            sent = socket.send_fds(self.connection, [header], descriptors)
            self.connection.sendall(header[sent:] + text)
        else:
            self.connection.sendall(header + text)

    def receive(self) -> tuple[dict[str, Any], Block] | None:
        """Waits for the next message and the block that came with it; None if the other process is gone.

        Raises:
            OSError: this process may open no more files.
        """
        header, descriptors = b"", list[int]()
        try:
            while len(header) < _HEADER.size:
                more, came, *_ = socket.recv_fds(self.connection, _HEADER.size - len(header), 1)
                descriptors.extend(came)
                if not more:
                    raise ConnectionResetError
                header += more
            length, wanted = _HEADER.unpack(header)
            if len(descriptors) < wanted:  # the system drops what does not fit without an error
                raise OSError(errno.EMFILE, "too many open files to take over shared memory")
            pieces = bytearray()
            while len(pieces) < length:
                more = self.connection.recv(min(length - len(pieces), 2**20))
                if not more:
                    raise ConnectionResetError
                pieces += more
        except ConnectionError:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        message = json.loads(pieces)
        return message, Block(descriptor=descriptors[0] if descriptors else -1, layout=message.pop("layout"))
