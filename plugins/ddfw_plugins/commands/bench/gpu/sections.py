"""The sections of the preset, in their order, and the form of its rows. Importing this module loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

GPU_SCHEMA = 1
#: Of a figure that is a table, so many entries are shown to people.
SHOWN = 5
#: Exit code of a worker whose device does not answer any more; another worker takes the sections that are left.
LOST = 77


@frozen(kw_only=True)
class GpuSection:
    """One question that the preset answers with one or several cases.

    Args:
        name: the word that users type.
        work: `module:function` below this package; the function gets the `Cases` of its section.
        needs: seconds that it is expected to take on a GPU; it does not start if fewer are left.
        pretended: the same on a CPU with `--pretend`.
        at_most: seconds after which none of its cases starts, so that it takes no time from the sections after it.
    """

    name: str
    work: str
    needs: float
    pretended: float
    at_most: float


def _section(name: str, work: str, needs: float, at_most: float, pretended: float) -> GpuSection:
    return GpuSection(name=name, work=work, needs=needs, at_most=at_most, pretended=pretended)


#: A run that is cut off has answered the more valuable questions. The times are estimates; none was measured on a GPU.
GPU_SECTIONS = {
    section.name: section
    for section in (
        _section("machine", "numbers:machine", 5, 10, 2),
        _section("contract", "numbers:contract", 20, 50, 5),
        _section("augmentation", "numbers:augmentation", 10, 20, 5),
        _section("arithmetic", "numbers:arithmetic", 15, 60, 3),
        _section("capture", "numbers:capture", 5, 20, 1),
        _section("outer-ipc1", "speed:outer_ipc1", 20, 120, 5),
        _section("outer-ipc10", "speed:outer_ipc10", 20, 90, 5),
        _section("outer-ipc50", "speed:outer_ipc50", 15, 60, 5),
        _section("experts", "speed:experts", 15, 40, 4),
        _section("evaluations", "speed:evaluations", 15, 30, 4),
        _section("waits", "runs:waits", 20, 40, 4),
        _section("twice", "runs:twice", 30, 80, 10),
        _section("memory", "speed:memory", 20, 40, 3),
        _section("contract-compiled", "numbers:contract_compiled", 60, 60, 2),
    )
}


def plain_value(value: Any) -> Any:
    """A value as JSON can hold it: numbers with five digits, infinities and nan as text, other things as text."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return float(f"{value:.5g}") if math.isfinite(value) else str(value)
        case Mapping():
            return {str(key): plain_value(item) for key, item in value.items()}
        case Sequence():
            return [plain_value(item) for item in value]
    return str(value)


def figures_text(row: Mapping[str, Any]) -> str:
    """What a row says beside its section and case, in one line for people."""
    match row["kind"]:
        case "measured":
            said = [f"said: {text}" for text in row["said"]]
            return "; ".join([", ".join(f"{key} {_short(value)}" for key, value in row["found"].items()), *said])
        case "error":
            return f"error: {row['error']['class']}: {row['error']['message']}"
        case "finished":
            return f"finished after {row['seconds']:.1f} s"
    left = ", ".join(" ".join(filter(None, (out["section"], out["case"]))) for out in row["left_out"])
    return f"{row['errors']} errors, {row['seconds']:.0f} s; left out: {left or 'nothing'}"


def _short(value: Any) -> str:
    match value:
        case float():
            return f"{value:.4g}"
        case Mapping():
            some = [f"{key} {_short(item)}" for key, item in list(value.items())[:SHOWN]]
            return f"({', '.join(some)}{', …' if len(value) > SHOWN else ''})"
    return str(value)
