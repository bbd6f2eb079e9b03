"""What a run would do and what it would cost, without doing it: `ddfw run --dry-run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ddfw.artifacts import atomic
from ddfw.contracts.records import Forecast
from ddfw.errors import ConfigError, option_errors_at
from ddfw.forecast.memory import predicted_peak, process_bytes, require_measurable
from ddfw.forecast.time import CostClock, predicted_times
from ddfw.pipeline.evaluation.final import cross_contexts
from ddfw.pipeline.limits import require_room_for_run
from ddfw.pipeline.notes import notes
from ddfw.pipeline.runner import Places, directory_for, finished, plan
from ddfw.pipeline.warm_start import warm_start
from ddfw.process.isolation import isolated

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig
    from ddfw.pipeline.prepare import Plan

#: The stages of a run as JSON and people know them.
STAGE_WORDS = {"experts": "experts", "distill": "distillation", "evaluate": "evaluation"}
HOW_FOUND = "extrapolated from short measurements on this machine as busy as it is now"


@isolated
def predict(config: RunConfig, places: Places | None = None) -> Forecast:
    """Predicts what a run will cost from a few seconds of measurements on its executor.

    Nothing is written, no expert is trained, and no global state is touched.

    Args:
        config: what would be run.
        places: where things are.

    Returns:
        The forecast; where measuring fails, it says why in place of figures.

    Raises:
        ConfigError, DataError: what would refuse the run.
    """
    return outlined(config, places or Places())[1]


def outlined(
    config: RunConfig, places: Places, on_measure: Callable[[Sequence[str]], None] | None = None
) -> tuple[dict[str, Any], Forecast]:
    """What a run would do, JSON-able, and its forecast. Everything is checked, nothing written, no expert trained.

    Args:
        config: what would be run.
        places: where things are.
        on_measure: called with the notes before the measurements start, once everything has been checked.

    Raises:
        ConfigError, DataError: what would refuse the run.
    """
    made = plan(config, places)
    finished(config, places)
    directory = directory_for(made.run, places)
    atomic.require_room(directory)
    cross_contexts(made)
    warm_start(made)
    layout, experts = made.layout, made.expert_set
    if config.experts.store:  # its experts are there, so what the run will ask of them can be asked now
        source = experts.store.source(experts.seeds, made.network, torch.device("cpu"), made.dtype)
        with option_errors_at("traj"):
            config.traj.prepare(source)
    facts: dict[str, Any] = {
        "schema": 1,
        "recipe": config.run.recipe,
        "run": config.title(),
        "directory": str(directory),
        "data": made.splits.counts(),
        "train_images": len(made.splits.train.labels),
        "validation_images": len(made.splits.validation.labels),
        "test_images": len(made.splits.test),
        "image_shape": list(layout.spec.shape),
        "classes": layout.spec.num_classes,
        "parameters": made.network.num_parameters,
        "experts": len(experts.seeds),
        "experts_cached": len(experts.seeds) - _missing_experts(made),
        "expert_folder": str(experts.store.folder),
        "outer_steps": config.outer.steps,
        "inner_steps": config.outer.syn_steps,
        "images_per_class": layout.images_per_class,
        "samples_per_class": layout.samples_per_class,
        "budget_floats": config.budget.floats(layout.spec),
        "strict_floats": layout.strict_floats,
        "pixel_floats": layout.parameter_floats,
        "over_budget": layout.over_budget,
        "notes": notes(made),
    }
    if on_measure is not None:
        on_measure(facts["notes"])
    return facts, measured(made)


def measured(made: Plan) -> Forecast:
    """The forecast of a plan; whatever goes wrong in measuring is a reason in it, and no error.

    Args:
        made: what was configured; its data are loaded.

    Raises:
        ConfigError: the executor refuses its options here, as it would refuse the run, or the run asks for more memory
            than there is.
    """
    executor, missing, loading_peak = made.config.executor, _missing_experts(made), process_bytes("VmHWM")
    found, reasons = dict[str, Any](), dict[str, str]()
    try:
        with option_errors_at("executor"), executor.assemble() as crew:
            if crew.size > 1:
                raise RuntimeError(f"a crew of {crew.size} processes is not measured")
            with executor.open(made.context()) as session:
                require_room_for_run(made, session.device)
                require_measurable(made, session.device)
                found |= _or_why(reasons, "seconds", lambda: predicted_times(made, session, missing, CostClock()))
                workers = found.get("workers", 0)
                peak = partial(predicted_peak, made, session, missing, loading_peak, workers)
                found |= _or_why(reasons, "peak_bytes", peak)
    except ConfigError:
        raise
    except Exception as error:
        reasons = dict.fromkeys(("seconds", "peak_bytes"), _one_line(error))
    return Forecast(**found, reasons=reasons)


def _or_why(reasons: dict[str, str], name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured; nothing where that failed, with the reason under this name."""
    try:
        return measure()
    except Exception as error:
        reasons[name] = _one_line(error)
        return {}


def _one_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _missing_experts(made: Plan) -> int:
    """How many experts the run would train."""
    seeds = made.expert_set.seeds
    return len(seeds) - sum(seed in seeds for seed in made.expert_set.store.index())


def forecast_record(forecast: Forecast) -> dict[str, Any]:
    """A forecast, JSON-able; keys start with `predicted`, and what could not be predicted is null."""
    parts = forecast.peak_bytes
    return {
        "predicted_seconds": forecast.seconds,
        "predicted_cpu_seconds": forecast.cpu_seconds,
        "predicted_seconds_note": forecast.reasons.get("seconds", HOW_FOUND),
        "predicted_workers": forecast.workers,
        "predicted_held_steps": forecast.held_steps,
        "predicted_bytes": None if parts is None else {**parts, "total": sum(parts.values())},
        "predicted_bytes_note": forecast.reasons.get("peak_bytes", ""),
        "predicted_bytes_device": forecast.device,
        "predicted_bytes_stage": forecast.peak_stage,
        "predicted_bytes_available": forecast.available_bytes,
    }


def forecast_lines(forecast: Forecast) -> dict[str, str]:
    """A forecast for people: one line about memory and one about time, by their titles."""
    time, memory = (f"not predicted: {forecast.reasons.get(name, '')}" for name in ("seconds", "peak_bytes"))
    if forecast.seconds is not None and forecast.cpu_seconds is not None:
        parts = ", ".join(f"{word} {seconds_text(forecast.seconds[stage])}" for stage, word in STAGE_WORDS.items())
        cpu = seconds_text(forecast.cpu_seconds["total"])
        side = f", {forecast.workers} workers" if forecast.workers else ""
        time = f"about {seconds_text(forecast.seconds['total'])} ({parts}; {cpu} of CPU{side}), {HOW_FOUND}"
    if forecast.peak_bytes is not None:
        total, available = sum(forecast.peak_bytes.values()), forecast.available_bytes
        unit, size = ("GB", 1e9) if total >= 1e9 else ("MB", 1e6)
        shown = sorted(forecast.peak_bytes.items(), key=lambda part: -part[1])
        parts = ", ".join(f"{name.replace('_', ' ')} {_digits(b / size)}" for name, b in shown if b >= 0.01 * total)
        when = STAGE_WORDS.get(forecast.peak_stage, forecast.peak_stage)
        memory = f"about {_digits(total / size)} {unit} in {when} ({parts})"
        memory += "" if available is None else f", {_digits(available / 1e9)} GB available"
    return {"peak memory" if forecast.device in ("", "cpu") else f"{forecast.device} memory": memory, "time": time}


def seconds_text(seconds: float) -> str:
    """A duration in seconds as text, with two digits and a unit: `47 s`, `12 min`, `3.1 h`, `4.2 d`."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds / 86400)} d"


def _digits(value: float) -> str:
    """Two significant digits, and no exponent."""
    if value < 0.05:
        return "0"
    return f"{value:.1f}" if value < 9.95 else f"{float(f'{value:.2g}') if value < 100 else round(value):.0f}"
