"""`--json`: every report as one JSON line on a stream, the last one carrying the summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, final

from attrs import frozen

from ddfw.contracts.observer import AbstractObserver, EventLines, ObserverSession, RunFinished


@final
@frozen(kw_only=True)
class JsonStream(AbstractObserver):
    """Reports as JSON Lines on an open stream."""

    name: ClassVar[str] = "json"

    stream: IO[str]

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        """A session; the stream stays open."""
        yield EventLines(self.stream)

    def repeat(self, directory: Path, summary: Mapping[str, Any]) -> None:
        """The last line of a run that had been finished before."""
        EventLines(self.stream).run_finished(RunFinished(status="finished", directory=directory, summary=summary))
