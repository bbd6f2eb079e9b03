"""What `ddfw bench --preset gpu` prints and writes. Importing this module loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ddfw import OptionError, configure, flag_tables, option_errors_at, say, say_json, show_table, text_table
from ddfw_plugins.commands.bench.gpu.preset import GpuPreset, Row
from ddfw_plugins.commands.bench.gpu.sections import figures_text

if TYPE_CHECKING:
    from rich.console import RenderableType


def show_gpu_preset(preset: GpuPreset, out: Path | None, *, quiet: bool, as_json: bool) -> None:
    """Runs the preset; writes each row to a file as it comes and shows it, and at the end all rows as a table.

    Args:
        preset: what to run.
        out: a new file for the rows, one JSON object in a line; None for none.
        quiet: whether people see only the table.
        as_json: whether standard output gets the rows as JSON Lines, and no table.

    Raises:
        ConfigError: there is no GPU.
        UsageError: the file is there already.
    """
    if not preset.pretend:
        _require_gpu(preset.assignments)
    rows: list[Row] = []
    with _new_file(out) as file, closing(preset.rows()) as coming:
        try:
            for row in coming:
                rows.append(row)
                if file is not None:
                    file.write(json.dumps(row, allow_nan=False) + "\n")
                    file.flush()
                if as_json:
                    say_json(row)
                elif not quiet:
                    say(_line(row), err=True)
        finally:
            if rows and not as_json:
                show_table(gpu_table(rows))


def _require_gpu(assignments: Sequence[str]) -> None:
    """Refuses a machine without the GPU that the options name, in the executor's words."""
    from ddfw_plugins.executors._gpu import require_gpu
    from ddfw_plugins.executors.cuda import Cuda

    executor = configure(None, flag_tables({"executor": "cuda"}), assignments).config.executor
    assert isinstance(executor, Cuda)
    with option_errors_at("executor"):
        try:
            require_gpu(executor.device)
        except OptionError as error:
            raise OptionError(f"{error}; --pretend runs the preset on a CPU", "device") from error


@contextmanager
def _new_file(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise click.UsageError(f"{path} is there already; name another file (--out)") from error
    with file:
        yield file


def _line(row: Row) -> str:
    where = " ".join(filter(None, (row["section"], f"[{row['case']}]" if row.get("case") else "")))
    return f"{row['t']:6.1f} s  {where or 'end'}: {figures_text(row)}"


def gpu_table(rows: Sequence[Row]) -> RenderableType:
    """The rows as a table for a terminal, errors in red."""
    from rich.text import Text

    shown = [row for row in rows if row["kind"] in ("measured", "error")]
    lines = [
        [
            Text(cell, "red" if row["kind"] == "error" else "")
            for cell in (row["section"], row["case"], figures_text(row))
        ]
        for row in shown
    ]
    notes = [figures_text(row) for row in rows if row["kind"] == "end"]
    notes += ["pretended on a CPU with tiny work: no figure means anything"] if rows[0]["pretend"] else []
    left = ("section", "case", "figures")
    return text_table(left, lines, notes, left)
