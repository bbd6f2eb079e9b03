"""Messages and tensors between two processes of one machine."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest
import torch

from ddfw.remote.channel import Channel, in_shared_memory, mapped

TENSORS = [
    torch.arange(10, dtype=torch.int64),
    torch.tensor([True, False, True]),
    torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).transpose(0, 2),
    torch.full((7,), 1.5, dtype=torch.bfloat16),
    torch.tensor(2.5),
    torch.empty(0, 3),
    torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last),
]


@pytest.fixture
def ends():
    """Both ends of a connection."""
    here, there = socket.socketpair()
    with here, there:
        yield Channel(here), Channel(there)


def test_a_message_and_its_tensors_arrive_as_they_were(ends):
    """Broken: a worker would train on other images than the run has."""
    here, there = ends
    with contextlib.closing(in_shared_memory(TENSORS)) as block:
        here.send({"work": "ä", "number": 0.1}, block)
    message, received = there.receive()
    with contextlib.closing(received):
        found = mapped(received)
    assert message == {"work": "ä", "number": 0.1}
    assert [t.dtype for t in found] == [t.dtype for t in TENSORS]
    assert all(torch.equal(a, b) for a, b in zip(found, TENSORS, strict=True))
    # Where PyTorch's own memory begins at multiples of 64, too, no library sums in another order.
    assert all(tensor.data_ptr() % 64 == 0 and tensor.is_contiguous() for tensor in found if tensor.numel())


def test_what_a_receiver_writes_stays_with_the_receiver(ends):
    """Broken: two workers that share a tensor, or one and the run, could spoil each other's data."""
    with contextlib.closing(in_shared_memory([torch.zeros(5000)])) as block:
        first, second = mapped(block)[0], mapped(block)[0]
        first.fill_(7.0)
        assert torch.equal(second, torch.zeros(5000))
        assert torch.equal(mapped(block)[0], torch.zeros(5000))


def test_no_descriptor_is_left_open(ends):
    """Broken: a long run would end with "too many open files"."""
    here, there = ends
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with contextlib.closing(in_shared_memory([torch.ones(3)])) as block:
            here.send({}, block)
        _, received = there.receive()
        with contextlib.closing(received):
            assert mapped(received)[0].sum() == 3
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_large_message_arrives_whole(ends):
    """Broken: the settings of a run with many options would be cut at the size of the socket's buffer."""
    here, there = ends
    text = "x" * 3_000_000
    sender = threading.Thread(target=here.send, args=({"text": text},))
    sender.start()
    message, _ = there.receive()
    sender.join()
    assert message == {"text": text}


@pytest.mark.parametrize("cut", [0, 3, 9, 12])
def test_an_end_in_the_midst_of_a_message_is_an_end(ends, cut):
    """Broken: a process whose partner was killed would wait for ever, or take half a message for a whole one."""
    here, there = ends
    one, other = socket.socketpair()
    Channel(one).send({"a": 1})
    whole = other.recv(1000)
    one.close(), other.close()
    here.connection.sendall(whole[:cut])
    here.connection.close()
    assert there.receive() is None
