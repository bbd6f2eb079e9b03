"""The signs of life between ranks: two of them in one process, with short times."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from ddfw.process.ranks import Launch
from ddfw_plugins.executors import _heartbeat
from ddfw_plugins.executors._heartbeat import Heartbeat


class Watched(Heartbeat):
    """Notes the exit code and the text where the real one would end the process."""

    end: tuple[int, str | None] | None = None
    killed = False

    def _watch(self) -> None:
        with contextlib.suppress(SystemExit):
            super()._watch()

    def _beat(self) -> None:
        if self.killed:
            raise SystemExit
        super()._beat()

    def _end(self, code: int, text: str | None) -> None:
        self.end = (code, text)
        self._closing.set()


@pytest.fixture
def pair(monkeypatch):
    """Two ranks that have met, and the store."""
    monkeypatch.setattr(_heartbeat, "BEAT_S", 0.05)
    monkeypatch.setattr(_heartbeat, "FAST_BEAT_S", 0.05)
    monkeypatch.setattr(_heartbeat, "SILENCE_S", 0.6)
    monkeypatch.setattr(_heartbeat, "SUSPICIOUS_SILENCE_S", 0.2)
    monkeypatch.setattr(_heartbeat, "PATIENCE_S", 0.6)
    monkeypatch.setattr(_heartbeat, "LEAVE_S", 1.0)
    server = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=5), wait_for_workers=False)
    place = {"size": 2, "local_size": 2, "host": "127.0.0.1", "port": server.port, "name": "test/0", "agent": True}
    two = [Watched(Launch(rank=rank, local_rank=rank, **place), 0) for rank in range(2)]
    for one in two:
        one.meet()
    yield (*two, server)
    for one in two:
        one.close()


def end_of(one: Watched, seconds: float) -> tuple[int, str | None] | None:
    until = time.monotonic() + seconds
    while one.end is None and time.monotonic() < until:
        time.sleep(0.02)
    return one.end


def kill(one: Watched) -> None:
    """Its thread stops as that of a killed process does: without leaving word."""
    one.killed = True
    one._thread.join()


def test_a_silent_rank_is_gone_and_a_living_one_is_not(pair):
    """Broken: a dead rank would not be noticed, or one whose main thread works for long would be taken for dead."""
    zero, one, _ = pair
    assert end_of(zero, 1.0) is None
    kill(one)
    code, text = end_of(zero, 5)
    assert code == 1
    assert text.startswith("rank 1 of 2 is gone (no sign of life for ")
    assert text.endswith("the same command goes on.")


def test_a_rank_that_has_left_is_not_missed(pair):
    """Broken: rank 0, which is done first, would be reported as dead by the others."""
    zero, one, _ = pair
    zero.close()
    assert end_of(one, 1.2) is None


def test_a_rank_that_leaves_finds_a_dead_one_sooner(pair):
    """Broken: after a kill, the ranks whose connection broke would wait as long as for one that only hangs."""
    zero, one, _ = pair
    kill(one)
    began = time.monotonic()
    zero.leave(with_the_others=True)
    assert time.monotonic() - began < 3
    assert zero.end is not None
    assert "rank 1 of 2 is gone" in zero.end[1]


def test_a_rank_whose_connection_broke_ends_when_another_has_printed_why(pair):
    """Broken: it would print a broken connection beside the real error, or end with another exit code."""
    zero, one, server = pair
    one.close()
    zero._leaving.set()
    assert end_of(zero, 0.4) is None
    server.set(zero._launch.spoken_key, "3 1")
    assert end_of(zero, 5) == (3, None)


def test_a_rank_that_hears_of_an_error_may_end_by_itself_first(pair):
    """Broken: rank 0 would be ended in the middle of a write, or a rank that hangs in a collective would never end."""
    zero, one, server = pair
    server.set(zero._launch.spoken_key, "3 1")
    assert end_of(zero, 0.35) is None
    assert end_of(zero, 5) == (3, None)
    assert end_of(one, 0.3) is None


def test_a_signal_to_all_is_no_failure(pair):
    """Broken: an interrupted crew would call its own ranks dead, or never leave."""
    zero, one, _ = pair
    one._leaving.set()
    began = time.monotonic()
    zero.leave(with_the_others=True)
    one.leave(with_the_others=True)
    assert time.monotonic() - began < 1.5
    assert (zero.end, one.end) == (None, None)


def test_a_rank_that_was_suspended_does_not_take_the_others_for_dead(pair, monkeypatch):
    """Broken: after a laptop or a cluster had suspended a run, it would end itself when it goes on."""
    zero, _, _ = pair
    clock = time.monotonic
    monkeypatch.setattr(_heartbeat.time, "monotonic", lambda: clock() + 3600)
    assert end_of(zero, 0.5) is None


def test_a_store_that_is_gone_ends_the_rank(pair, monkeypatch):
    """Broken: ranks whose torchrun was killed would live on, each in a message that never comes."""
    zero, one, _ = pair

    def refused(self, seconds):
        raise ConnectionRefusedError

    def broken(self):
        raise RuntimeError("Broken pipe")

    monkeypatch.setattr(Launch, "client", refused)
    monkeypatch.setattr(Watched, "_beat", broken)
    code, text = end_of(zero, 5)
    assert code == 1
    assert text.startswith("torchrun itself is gone")
    assert end_of(one, 5) == (1, None)


def test_only_the_first_rank_prints(pair):
    """Broken: every survivor would print the error."""
    zero, one, _ = pair
    zero._end_without(7, 20.0)
    one._end_without(7, 20.0)
    assert zero.end == (1, f"rank 7 of 2 is gone (no sign of life for 20 s); {_heartbeat._KEPT}")
    assert one.end == (1, None)


def test_the_process_ends_with_the_text_and_the_code(pair, monkeypatch, capfd):
    """Broken: the reason would not be printed, or the exit code be another one."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    pair[0]._leaving.set()
    Heartbeat._end(pair[0], 5, "rank 7 is gone")
    assert capfd.readouterr().err == "error: rank 7 is gone\n"
    Heartbeat._end(pair[0], 5, None)
    assert capfd.readouterr().err == ""
    assert codes == [5, 5]
