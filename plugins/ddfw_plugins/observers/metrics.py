"""`metrics`: every report as one line of metrics.jsonl in the run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, final

from attrs import frozen

from ddfw import AbstractObserver, ObserverSession
from ddfw.contracts.observer import EventLines


@final
@frozen(kw_only=True)
class Metrics(AbstractObserver):
    """JSON Lines in the run directory: metrics.jsonl."""

    name: ClassVar[str] = "metrics"

    @contextmanager
    def open(self, run: Path) -> Iterator[ObserverSession]:
        """Starts the file anew; each line is flushed when it is written."""
        with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
            yield EventLines(file)
