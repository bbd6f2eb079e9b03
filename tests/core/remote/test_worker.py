"""A worker ends when nobody can tell it anything any more."""

from __future__ import annotations

import errno
import os
import queue

from ddfw.remote import worker


class Deaf:
    """A connection that fails."""

    def __init__(self, error):
        self.error = error

    def receive(self):
        if self.error is None:
            return None
        raise self.error


def test_a_worker_that_can_hear_nothing_more_ends_and_says_why(monkeypatch, capsys):
    """Broken: it would hold its piece of work for ever, the run would wait for it, and it would outlive the run."""
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    worker._listen(Deaf(OSError(errno.EMFILE, "too many open files to take over shared memory")), queue.SimpleQueue())
    assert ended[0] == 1
    assert "too many open files to take over" in capsys.readouterr().err


def test_a_worker_whose_work_is_not_wanted_any_more_ends_in_order(monkeypatch, capsys):
    """Broken: every run would end with complaints of its workers."""
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    worker._listen(Deaf(None), queue.SimpleQueue())
    assert ended == [0]
    assert capsys.readouterr().err == ""
