"""The signs of life between ranks: two of them in one process, with short times."""

from __future__ import annotations

import signal
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from ddfw.process.ranks import Launch
from ddfw_plugins.executors import _heartbeat
from ddfw_plugins.executors._heartbeat import Heartbeat, Verdict


class Watched(Heartbeat):
    """Notes the verdict where the real one would end the process."""

    left: Verdict | None = None

    def _leave(self, verdict: Verdict) -> None:
        self.left = verdict
        self._verdict = None
        self._closing.set()


@pytest.fixture
def pair(monkeypatch):
    """Two ranks that have met."""
    monkeypatch.setattr(_heartbeat, "BEAT_S", 0.05)
    monkeypatch.setattr(_heartbeat, "SILENCE_S", 0.6)
    monkeypatch.setattr(_heartbeat, "SUSPICIOUS_SILENCE_S", 0.2)
    monkeypatch.setattr(_heartbeat, "PATIENCE_S", {"failed": 0.2, "stopped": 0.2, "agreed": 0.6})
    server = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    place = {"size": 2, "local_size": 2, "host": "127.0.0.1", "port": server.port, "name": "test/0", "agent": True}
    two = [Watched(Launch(rank=rank, local_rank=rank, **place), 0) for rank in range(2)]
    for one in two:
        one.meet()
    yield (*two, server)
    for one in two:
        one.close()


def verdict_of(one: Watched, seconds: float) -> Verdict | None:
    until = time.monotonic() + seconds
    while one.left is None and time.monotonic() < until:
        time.sleep(0.02)
    return one.left


def test_a_silent_rank_is_gone_and_a_living_one_is_not(pair):
    """Broken: a dead rank would not be noticed, or a slow one would be taken for dead."""
    zero, one, _ = pair
    assert verdict_of(zero, 1.0) is None
    one.close()
    found = verdict_of(zero, 5)
    assert found is not None
    assert found.message.startswith("rank 1 of 2 is gone (no sign of life for ")
    assert found.code == 1


def test_a_rank_that_said_goodbye_is_not_missed(pair):
    """Broken: rank 0, which is done first, would be reported as dead by the others."""
    zero, one, _ = pair
    zero.register("done")
    zero.close()
    assert verdict_of(one, 1.2) is None


def test_a_failure_elsewhere_ends_this_rank_without_a_word(pair):
    """Broken: the other ranks would go on, or print an error beside the real one."""
    zero, one, _ = pair
    one.register("failed")
    assert verdict_of(zero, 5) == Verdict(message=None)
    assert verdict_of(one, 0.3) is None


def test_an_error_that_all_meet_leaves_time_to_write(pair):
    """Broken: rank 0 would be ended while it writes what was learned before a divergence."""
    zero, one, _ = pair
    one.register("agreed")
    assert verdict_of(zero, 0.35) is None
    zero.register("agreed")
    assert verdict_of(zero, 1.0) is None
    zero.wait_for_others(5)
    assert zero._all_ended


def test_a_signal_to_all_is_no_failure(pair):
    """Broken: an interrupted crew would call its own ranks dead, or never leave."""
    zero, one, _ = pair
    zero.register("stopped")
    one.register("stopped")
    began = time.monotonic()
    zero.wait_for_reason(5)
    one.wait_for_reason(5)
    assert time.monotonic() - began < 3
    assert (zero.left, one.left) == (None, None)


def test_a_store_that_is_gone_ends_the_rank(pair, monkeypatch):
    """Broken: ranks whose torchrun was killed would live on, each in a message that never comes."""
    zero = pair[0]

    def refused(self, seconds):
        raise ConnectionRefusedError

    def broken(self):
        raise RuntimeError("Broken pipe")

    monkeypatch.setattr(Launch, "client", refused)
    monkeypatch.setattr(Watched, "_beat", broken)
    found = verdict_of(zero, 5)
    assert found is not None
    assert found.message.startswith("torchrun itself is gone")


def test_only_the_first_rank_speaks(pair, capfd):
    """Broken: every survivor would print the error, or leave with another exit code."""
    zero, one, server = pair
    assert zero._tell(Verdict(message="rank 7 is gone", code=1)) == 1
    assert one._tell(Verdict(message="rank 7 is gone", code=1)) == 1
    assert capfd.readouterr().err == "error: rank 7 is gone\n"
    server.set(zero._launch.spoken_key, "5 1")
    assert zero._tell(Verdict(message=None)) == 5
    assert capfd.readouterr().err == ""


def test_a_stopped_neighbour_is_woken_and_no_stranger_is(pair, monkeypatch):
    """Broken: a suspended rank would keep its memory until torchrun kills it, or a foreign process be signalled."""
    zero, _, _ = pair
    sent = []
    monkeypatch.setattr(_heartbeat.os, "kill", lambda *call: sent.append(call))
    peer = zero._peers[1]
    zero._rouse(peer)
    assert sent == [(peer.state["pid"], signal.SIGCONT)]
    peer.state = {**peer.state, "host": "elsewhere"}
    zero._rouse(peer)
    assert len(sent) == 1
