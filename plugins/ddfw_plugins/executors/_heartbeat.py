"""Signs of life between the ranks of a crew, so that one that is gone ends all of them within seconds.

A collective waits for as long as it takes, since an expert may take hours on another rank. So each rank has a thread
that writes a counter into the launcher's store and reads the others'. It ends this process, with the one message that
the first rank to speak prints, when another rank has been silent for too long, has failed, or when the store is gone.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Literal, NoReturn

from attrs import define, frozen
from torch.distributed.distributed_c10d import PrefixStore

from ddfw.process.ranks import Launch, real_stderr

#: Seconds between two signs of life.
BEAT_S = 2.0
#: The same until all have met.
MEET_S = 0.2
#: After how many seconds of silence a rank is gone.
SILENCE_S = 20.0
#: The same where something else speaks for it: a connection broke, or the launcher ends this process.
SUSPICIOUS_SILENCE_S = 6.0
#: How long a rank may take to start.
START_S = 600.0
#: How long the rank that failed may take to say so, and how long the main thread may take to leave when interrupted.
SPEECH_S, LEAVE_S = 10.0, 5.0
#: How long one question to the store may take.
_STORE_S = 10.0

#: How a rank ended: well; by an error; by an error that all ranks meet alike; by a signal.
End = Literal["done", "failed", "agreed", "stopped"]

#: How long after another rank's end this one may take to come to an end by itself, in seconds.
PATIENCE_S: dict[End, float] = {"failed": 3.0, "stopped": 3.0, "agreed": 300.0}


@frozen(kw_only=True)
class Verdict:
    """Why all ranks end.

    Args:
        message: what the first rank to speak says; None where another rank has failed and says why.
        code: the exit code, unless the rank that spoke has another one.
    """

    message: str | None
    code: int = 1


@define(kw_only=True)
class _Peer:
    """What is known of another rank."""

    state: dict[str, Any] | None = None
    silent_s: float = 0.0
    ended_s: float = 0.0

    @property
    def end(self) -> End | None:
        return None if self.state is None else self.state["end"]


class Heartbeat:
    """This rank's sign of life, and the watch over the others'."""

    def __init__(self, launch: Launch, number: int) -> None:
        """Starts both.

        Args:
            launch: which rank this is, and where the store is.
            number: of the crew, counted from 0 in this process; the same on every rank.
        """
        self._launch = launch
        self._prefix = f"ddfw/{launch.name}/{number}"
        self._peers = {rank: _Peer() for rank in range(launch.size) if rank != launch.rank}
        self._end: End | None = None
        self._beats = 0
        self._suspicious = self._all_ended = False
        self._verdict: Verdict | None = None
        self._wake, self._closing, self._main_waits = threading.Event(), threading.Event(), threading.Event()
        self._told, self._met = threading.Event(), threading.Event()
        self._store = self._connect()
        self._thread = threading.Thread(target=self._watch, name="ddfw-heartbeat", daemon=True)
        self._thread.start()

    def meet(self) -> None:
        """Waits until every rank has shown a sign of life; the watch ends the process if one does not."""
        while not self._met.wait(0.1):
            pass

    def register(self, end: End) -> None:
        """Leaves word of how this rank ends, before it does."""
        self._told.clear()
        self._end = end
        self._wake.set()
        self._told.wait(_STORE_S)

    def wait_for_reason(self, seconds: float) -> None:
        """Called by the main thread where another rank may be why this one ends; the process ends here if one is.

        Returns once every other rank has ended, or when `seconds` have passed.
        """
        self._suspicious = True
        self.wait_for_others(seconds)

    def wait_for_others(self, seconds: float) -> None:
        """Until every other rank has ended or is gone, or `seconds` have passed."""
        self._main_waits.set()
        self._wake.set()
        until = time.monotonic() + seconds
        while self._verdict is not None or (time.monotonic() < until and not self._all_ended):
            # A second signal must not lead out of here while the verdict is being told.
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(0.1)

    def close(self) -> None:
        """Ends the watch; the others do not miss this rank any more once it has registered an end."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_STORE_S)

    def _connect(self) -> PrefixStore:
        self._raw = self._launch.client(_STORE_S)
        return PrefixStore(self._prefix, self._raw)

    def _watch(self) -> None:
        """The thread."""
        last, failures = time.monotonic(), 0
        while not self._closing.is_set():
            now = time.monotonic()
            # A process that was itself suspended has not been listening.
            passed, last = min(now - last, 2 * BEAT_S), now
            try:
                self._beat()
                self._listen(passed)
                failures = 0
            except Exception:
                failures += 1
                if failures > 1:
                    self._decide(self._without_store())
                with contextlib.suppress(Exception):
                    self._store = self._connect()
            if self._verdict is not None:
                self._leave(self._verdict)
            self._wake.wait(BEAT_S if self._met.is_set() else MEET_S)
            self._wake.clear()

    def _beat(self) -> None:
        self._beats += 1
        end = self._end
        state = {
            "beat": self._beats,
            "end": end,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "ppid": os.getppid(),
        }
        self._store.set(str(self._launch.rank), json.dumps(state))
        if end is not None and end == self._end:
            self._told.set()

    def _listen(self, passed: float) -> None:
        """Reads the others' states and judges them."""
        ranks = list(self._peers)
        if not self._met.is_set():
            ranks = [rank for rank in ranks if self._store.check([str(rank)])]
            if self._raw.check([self._launch.spoken_key]):  # a rank that never came this far
                self._decide(Verdict(message=None))
        found = dict(zip(ranks, self._store.multi_get([str(r) for r in ranks]), strict=True)) if ranks else {}
        for rank, peer in self._peers.items():
            state = json.loads(found[rank]) if rank in found else None
            peer.silent_s = 0.0 if state != peer.state else peer.silent_s + passed
            peer.state = state
            peer.ended_s += passed if peer.end is not None else 0.0
        if len(found) == len(self._peers):
            self._met.set()
        for rank, peer in self._peers.items():
            self._judge(rank, peer)
        over = [p.end is not None or p.silent_s >= SUSPICIOUS_SILENCE_S for p in self._peers.values()]
        self._all_ended = self._verdict is None and all(over)

    def _judge(self, rank: int, peer: _Peer) -> None:
        """Decides that all end, if this rank is the reason."""
        if self._end in ("failed", "agreed"):
            return  # this rank has its own reason to tell
        if peer.end is None:
            limit = SUSPICIOUS_SILENCE_S if self._suspicious else SILENCE_S if peer.state is not None else START_S
            if peer.silent_s >= limit:
                self._rouse(peer)
                self._decide(Verdict(message=self._gone(rank, peer.silent_s)))
            return
        alike = peer.end == "done" or peer.end == self._end == "stopped"
        if not alike and (self._suspicious or peer.ended_s >= PATIENCE_S[peer.end]):
            self._decide(Verdict(message=None))

    def _gone(self, rank: int, seconds: float) -> str:
        return (
            f"rank {rank} of {self._launch.size} is gone (no sign of life for {seconds:.0f} s); all ranks stop. "
            "Finished experts and the last checkpoint are kept: the same command goes on."
        )

    def _without_store(self) -> Verdict:
        who = "torchrun itself" if self._launch.agent else f"rank 0 of {self._launch.size}"
        return Verdict(
            message=f"{who} is gone (its store does not answer); all ranks stop. Finished experts and the last "
            "checkpoint are kept: the same command goes on."
        )

    def _rouse(self, peer: _Peer) -> None:
        """A process of this launch that was only suspended goes on, so that it sees the verdict and ends too."""
        state = peer.state
        if state is not None and (state["host"], state["ppid"]) == (socket.gethostname(), os.getppid()):
            with contextlib.suppress(OSError):
                os.kill(state["pid"], signal.SIGCONT)

    def _decide(self, verdict: Verdict) -> None:
        if self._verdict is None:
            self._verdict = verdict

    def _leave(self, verdict: Verdict) -> NoReturn:
        """Ends the process: the main thread may leave what it has open, then the first rank speaks."""
        if not self._main_waits.is_set():
            # Where Python handles the signal, the main thread leaves its contexts; in a collective it cannot.
            # One signal may only be noted, to stop in order; a second one stops at once.
            for _ in range(2):
                if not self._main_waits.is_set():
                    _thread.interrupt_main(signal.SIGTERM)
                    self._main_waits.wait(LEAVE_S / 2)
        if self._end is None:
            self._end = "stopped" if verdict.message is None else "failed"
        with contextlib.suppress(Exception):
            self._beat()
        code = verdict.code
        with contextlib.suppress(Exception):
            code = self._tell(verdict)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            real_stderr().flush()
        os._exit(code)

    def _tell(self, verdict: Verdict) -> int:
        """Prints the message if no rank has spoken before; the exit code of the one that has."""
        key, mine = self._launch.spoken_key, f"{verdict.code} {self._launch.rank}"
        try:
            if verdict.message is None:
                until = time.monotonic() + SPEECH_S
                while not self._raw.check([key]) and time.monotonic() < until:
                    time.sleep(0.1)
                if not self._raw.check([key]):
                    return verdict.code
                time.sleep(0.5)  # the words follow the key
                return int(self._raw.get(key).decode().split()[0])
            first = self._raw.compare_set(key, "", mine).decode()
        except Exception:
            speaker = 0 if self._launch.agent else 1  # no store: it went with rank 0
            first = mine if self._launch.rank == speaker else "1 -"
        if first == mine and verdict.message is not None:
            stream = real_stderr()
            stream.write(("\x1b[?25h" if stream.isatty() else "") + f"error: {verdict.message}\n")
        return int(first.split()[0])
