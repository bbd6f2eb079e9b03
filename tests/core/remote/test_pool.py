"""The distribution of work among workers, which are played by this process."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from ddfw.engine.interruption import interruptible
from ddfw.remote import pool as pools
from ddfw.remote.channel import Channel, in_shared_memory
from ddfw.remote.pool import Piece, Pool, can_start_workers

PIECES = [Piece(title=f"piece {number}", message={"number": number}, tensors=[]) for number in range(2)]


@pytest.fixture
def played(monkeypatch):
    """The other ends of the workers that are started; each has sent its result before it was asked for it."""
    ends = []

    def start(pool):
        here, there = socket.socketpair()
        process = SimpleNamespace(wait=lambda seconds=None: 0, kill=lambda: None, returncode=0)
        pool._workers.append(pools._Worker(process=process, channel=Channel(here)))
        with contextlib.closing(in_shared_memory([torch.ones(3)])) as block:
            Channel(there).send({"done": {}}, block)
        ends.append(there)
        return pool._workers[-1]

    monkeypatch.setattr(Pool, "_start", start)
    yield ends
    for end in ends:
        end.close()


def test_whoever_stops_to_iterate_leaves_no_descriptor_open(played):
    """Broken: after an expert that diverged, those that were finished at the same time keep their memory for ever."""
    before = len(os.listdir("/proc/self/fd"))
    pool = Pool(2)
    outcomes = pool.run(PIECES)
    next(outcomes)
    assert len(played) == 2
    outcomes.close()
    pool.close()
    while played:
        played.pop().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_work_that_cannot_be_sent_is_an_error_and_not_waited_for(played, monkeypatch):
    """Broken: where the system lets no more descriptors travel, the run waits for a worker that was told nothing."""

    def send(channel, message, block=None):
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    real, end = Channel.send, time.monotonic() + 1
    pool = Pool(2)
    monkeypatch.setattr(Channel, "send", lambda *given: send(*given) if "data" in given[1] else real(*given))
    monkeypatch.setattr(Pool, "_received", lambda pool: [])  # nobody answers
    with pytest.raises(OSError, match="Too many references"), interruptible(lambda: time.monotonic() > end):
        list(pool.run(PIECES))


def test_a_program_that_carries_its_own_python_starts_no_workers(monkeypatch):
    """Broken: such a program would start itself, again and again, instead of a worker."""
    assert can_start_workers()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not can_start_workers()
