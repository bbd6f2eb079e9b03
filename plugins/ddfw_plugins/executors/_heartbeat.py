"""Signs of life between the ranks of a crew: one that hangs or is gone ends all of them within seconds.

Two things of PyTorch come close and do not suffice. torchrun notices a process that has ended and stops the others of
its machine, but notices neither one that hangs nor a machine that is lost. A timeout of the process group notices
both, but takes a rank that trains an expert for an hour, while the others wait for it, for a lost one. So each rank has
a thread that counts in the launcher's store, whatever the main thread works on, and reads the other ranks' counts.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time

from torch.distributed.distributed_c10d import PrefixStore

from ddfw.process.ranks import Launch, real_stderr

#: Seconds between two signs of life.
BEAT_S = 2.0
#: The same until all ranks have met, and while this one leaves.
FAST_BEAT_S = 0.2
#: A rank is gone after so many seconds without a sign of life.
SILENCE_S = 20.0
#: The same once this rank leaves because a connection broke or a signal came: another rank may well be the cause.
SUSPICIOUS_SILENCE_S = 6.0
#: Seconds that a rank may take to start.
START_S = 600.0
#: Seconds for this rank to end by itself after another one has printed an error.
PATIENCE_S = 10.0
#: Seconds for the main thread to leave its work after a signal.
LEAVE_S = 5.0
#: Seconds that one question to the store may take.
_STORE_S = 10.0

_LEFT = "left"
_KEPT = "all ranks stop. Finished experts and the last checkpoint are kept: the same command goes on."


class Heartbeat:
    """This rank's signs of life, and the watch over those of the others."""

    def __init__(self, launch: Launch, number: int) -> None:
        """Starts the thread; `close` ends it.

        Args:
            launch: which rank this is, and where the store is.
            number: of the crew, counted from 0 in this process; the same on every rank.
        """
        self._launch = launch
        self._prefix = f"ddfw/{launch.name}/{number}"
        self._others = [rank for rank in range(launch.size) if rank != launch.rank]
        self._beats = 0
        self._heard = dict[int, str]()
        self._silent_s = dict.fromkeys(self._others, 0.0)
        self._spoken_s = 0.0
        self._met, self._leaving, self._others_left = threading.Event(), threading.Event(), threading.Event()
        self._wake, self._closing, self._ending = threading.Event(), threading.Event(), threading.Event()
        self._connect()
        # Not a daemon: Python would abort the process if such a thread were in a call of the store at its exit.
        self._thread = threading.Thread(target=self._watch, name="ddfw-heartbeat")
        self._thread.start()

    def meet(self) -> None:
        """Waits until every rank has shown a sign of life; the thread ends the process if one does not."""
        while not self._met.wait(0.1):
            pass

    def leave(self, *, with_the_others: bool) -> None:
        """Tells the others that this rank leaves, and waits to learn whether one of them is the cause.

        If one is, the process ends here: with a line that names a rank that is gone, or without a word where another
        rank has printed an error. Returns after 25 seconds at most.

        Args:
            with_the_others: return as soon as all others leave too, as they do after a signal to all of them.
        """
        self._leaving.set()
        self._wake.set()
        until = time.monotonic() + SILENCE_S + LEAVE_S
        while self._ending.is_set() or time.monotonic() < until:
            if with_the_others and self._others_left.is_set() and not self._ending.is_set():
                return
            # A second signal must not interrupt the thread while it prints why the process ends.
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.1)

    def close(self) -> None:
        """Tells the others that this rank has left, and ends the thread."""
        self._leaving.set()
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _connect(self) -> None:
        self._raw = self._launch.client(_STORE_S)
        self._store = PrefixStore(self._prefix, self._raw)

    def _watch(self) -> None:
        """What the thread does."""
        last, failures = time.monotonic(), 0
        while not self._closing.is_set() and threading.main_thread().is_alive():
            now = time.monotonic()
            # After this process itself was suspended, the others were not silent for all that time.
            passed, last = min(now - last, 2 * BEAT_S), now
            try:
                self._beat()
                self._listen(passed)
                failures = 0
            except Exception:
                failures += 1
                if failures > 1:
                    self._end_without_store()
                with contextlib.suppress(Exception):
                    self._connect()
            self._wake.wait(BEAT_S if self._met.is_set() and not self._leaving.is_set() else FAST_BEAT_S)
            self._wake.clear()
        with contextlib.suppress(Exception):
            self._store.set(str(self._launch.rank), _LEFT)

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(str(self._launch.rank), _LEFT if self._leaving.is_set() else str(self._beats))

    def _listen(self, passed: float) -> None:
        """Reads what the other ranks have written, `passed` seconds after the last time, and ends what has to end."""
        ranks = [rank for rank in self._others if rank in self._heard or self._store.check([str(rank)])]
        states = self._store.multi_get([str(rank) for rank in ranks]) if ranks else []
        found = {rank: state.decode() for rank, state in zip(ranks, states, strict=True)}
        for rank in self._others:
            state = found.get(rank)
            silent = state == self._heard.get(rank) and state != _LEFT
            self._silent_s[rank] = self._silent_s[rank] + passed if silent else 0.0
        self._heard = found
        if len(found) == len(self._others):
            self._met.set()
        if all(found.get(rank) == _LEFT for rank in self._others):
            self._others_left.set()
        if self._closing.is_set():  # this rank has an error of its own to print, or none
            return
        if (code := self._code_of_another()) is not None:
            self._spoken_s += passed
            if self._leaving.is_set() or self._spoken_s >= PATIENCE_S:
                self._end(code, None)
            return
        for rank, seconds in self._silent_s.items():
            usual = SILENCE_S if rank in found else START_S
            if seconds >= (SUSPICIOUS_SILENCE_S if self._leaving.is_set() else usual):
                self._end_without(rank, seconds)
                return

    def _code_of_another(self) -> int | None:
        """The exit code of the rank that has printed an error, None if there is none or it is this one."""
        key = self._launch.spoken_key
        if not self._raw.check([key]):
            return None
        code, rank = self._raw.get(key).decode().split()
        return int(code) if rank != str(self._launch.rank) else None

    def _end_without(self, rank: int, seconds: float) -> None:
        """Ends the process because a rank is gone; the first rank to find out prints it."""
        mine = f"1 {self._launch.rank}"
        first = self._raw.compare_set(self._launch.spoken_key, "", mine).decode() == mine
        text = f"rank {rank} of {self._launch.size} is gone (no sign of life for {seconds:.0f} s); {_KEPT}"
        self._end(1, text if first else None)

    def _end_without_store(self) -> None:
        """Ends the process because the store is gone, and with it torchrun, or rank 0 where no agent serves it."""
        who = "torchrun itself" if self._launch.agent else f"rank 0 of {self._launch.size}"
        speaker = 0 if self._launch.agent else 1
        text = f"{who} is gone (its store does not answer); {_KEPT}"
        self._end(1, text if self._launch.rank == speaker else None)

    def _end(self, code: int, text: str | None) -> None:
        """Ends the process, after the main thread has left its work if it can.

        Args:
            code: the exit code.
            text: the error to print; None where another rank prints one.
        """
        self._ending.set()
        # Python handles no signal while the main thread waits in a collective. Elsewhere the first signal may only be
        # noted, to stop after the step, and the second stops at once.
        for _ in range(2):
            if not self._leaving.is_set():
                _thread.interrupt_main(signal.SIGTERM)
                self._leaving.wait(LEAVE_S / 2)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            stream = real_stderr()
            if text is None:
                time.sleep(0.5)  # the other rank claims the right to print, then prints
            else:
                stream.write(("\x1b[?25h" if stream.isatty() else "") + f"error: {text}\n")
            stream.flush()
        os._exit(code)
