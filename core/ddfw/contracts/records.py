"""Records that one wing of the program makes and others read."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

# --- what a run will cost ---------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Forecast:
    """What a run is expected to cost, measured in a few seconds before it is started.

    Args:
        seconds: by the clock, of each stage (`experts`, `distill`, `evaluate`) and in `total`; None where they could
            not be predicted.
        cpu_seconds: likewise what this process's threads spend on processors together. On a machine that other
            programs use, too, it is what a run needs, and `seconds` how long one waits for it.
        peak_bytes: memory at the worst moment, by what it is needed for; None where it could not be predicted.
        peak_stage: when that moment is: in `loading` or in one of the stages.
        device: whose memory it is: of the process for `cpu`, of the device alone elsewhere.
        available_bytes: what could be allocated there when it was measured; None where nobody can say.
        held_steps: how many step graphs the run will hold.
        reasons: why `seconds` or `peak_bytes` are None, by these names.
    """

    seconds: Mapping[str, float] | None = None
    cpu_seconds: Mapping[str, float] | None = None
    peak_bytes: Mapping[str, int] | None = None
    peak_stage: str = ""
    device: str = ""
    available_bytes: int | None = None
    held_steps: int | None = None
    reasons: Mapping[str, str] = field(factory=dict)
