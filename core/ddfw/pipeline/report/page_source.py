"""What the page of a run is made of: its record, with what is missing or damaged left empty.

So a run that ended badly has a page, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from ddfw.errors import DataError
from ddfw.pipeline.report.markup import finite
from ddfw.pipeline.report.record import Curves, RunRecord, read_run


def part(value: object, *keys: str) -> Mapping[str, Any]:
    """A table within tables, {} where something on the way is missing or no table."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def entries(value: object) -> Sequence[Any]:
    """A list from a file, () where there is none."""
    return value if isinstance(value, list | tuple) else ()


def tables_of(value: object) -> list[Mapping[str, Any]]:
    """The tables of a list from a file; what is no table is passed over."""
    return [entry for entry in entries(value) if isinstance(entry, Mapping)]


@frozen(kw_only=True)
class PageSource:
    """The content of a run directory.

    Args:
        record: the directory's record.
        config: tables of config.toml.
        manifest: content of manifest.json.
        summary: content of summary.json.
        card: content of synthetic/card.json.
        confusion: [m][m] counts, rows are true classes; None where nobody counted.
        curves: what metrics.jsonl says.
        state: `finished`, `running`, `diverged`, `failed`, `unfinished` or `damaged`.
        problems: a sentence for each file that could not be read.
    """

    record: RunRecord
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    card: Mapping[str, Any]
    confusion: Sequence[Sequence[int]] | None
    curves: Curves
    state: str
    problems: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The directory."""
        return self.record.path

    @property
    def title(self) -> str:
        """What was run: data, parameterisation, trajectory source, labels."""
        names = [str(part(self.config, table).get("name", "")) for table in ("data", "param", "traj", "labels")]
        return " · ".join(filter(None, names)) or self.record.name

    @property
    def class_names(self) -> list[str]:
        """Names of the classes as the card has them, [] if nobody says."""
        return [str(name) for name in entries(part(self.card, "source_data").get("class_names"))]

    @property
    def own_row(self) -> Mapping[str, Any]:
        """The row of the learned set, {} before it was evaluated."""
        rows = tables_of(self.summary.get("rows"))
        return next((row for row in rows if row.get("subject") == "distilled"), {})

    @property
    def kept_step(self) -> float | None:
        """The outer step whose set was kept."""
        return finite(self.summary.get("selected_step", part(self.card, "selected").get("step")))


def read_source(run: Path) -> PageSource:
    """Reads a run directory.

    Raises:
        DataError: it is none.
    """
    record = read_run(run.resolve())
    problems = dict.fromkeys([record.problem] if record.problem else [])

    def read(content: Callable[[], Any]) -> Any:
        try:
            return content()
        except (DataError, OSError) as error:
            problems[str(error)] = None
            return None

    summary = read(lambda: record.summary)
    manifest = part(read(lambda: record.manifest))
    ended = manifest.get("status") in ("diverged", "failed")  # as the run itself says, which holds the lock till then
    return PageSource(
        record=record,
        config=part(read(lambda: record.tables)),
        manifest=manifest,
        summary=summary.to_json() if summary is not None else {},
        card=part(read(lambda: record.card)),
        confusion=read(lambda: record.confusion) or None,
        curves=read(lambda: record.curves) or Curves(),
        state=str(manifest["status"]) if ended and summary is None else record.state,
        problems=tuple(f"{problem.removeprefix(f'{record.path}/')}." for problem in problems),
    )
