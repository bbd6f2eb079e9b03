"""`--dry-run`: what a run would do and what it would cost, without doing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ddfw.config.run_config import RunConfig
from ddfw.errors import option_errors_at
from ddfw.pipeline.evaluation.evaluator import cross_contexts
from ddfw.pipeline.runner import Places, directory_for, plan
from ddfw.pipeline.warm_start import warm_start

if TYPE_CHECKING:
    from ddfw.forecast.time import Prediction


def outline(config: RunConfig, places: Places, on_measure: Callable[[], None] | None = None) -> dict[str, Any]:
    """What a run would do, without doing it: everything is checked, nothing written, no expert trained.

    Time and memory are predicted from a few seconds of measurements; where that fails, the values are null and a note
    beside them says why.

    Args:
        config: what would be run.
        places: where things are.
        on_measure: called before the measurements start, once everything has been checked.

    Raises:
        ConfigError, DataError: see there.
    """
    return outlined(config, places, on_measure)[0]


def outlined(
    config: RunConfig, places: Places, on_measure: Callable[[], None] | None = None
) -> tuple[dict[str, Any], Prediction]:
    """The same, with the prediction as it is."""
    import torch

    from ddfw.forecast.time import predict

    made = plan(config, places)
    cross_contexts(made)
    warm_start(made)
    layout, there = made.layout, made.expert_set.store.index()
    if config.experts.store:  # its experts are there, so what the run will ask of them can be asked now
        source = made.expert_set.store.source(made.expert_set.seeds, made.network, torch.device("cpu"), made.dtype)
        with option_errors_at("traj"):
            config.traj.prepare(source)
    cached = sum(seed in there for seed in made.expert_set.seeds)
    facts = {
        "schema": 1,
        "recipe": config.run.recipe,
        "run": config.title(),
        "directory": str(directory_for(made.run, places)),
        "data": made.splits.counts(),
        "train_images": len(made.splits.train.labels),
        "validation_images": len(made.splits.validation.labels),
        "test_images": len(made.splits.test),
        "image_shape": list(layout.spec.shape),
        "classes": layout.spec.num_classes,
        "parameters": made.network.num_parameters,
        "experts": len(made.expert_set.seeds),
        "experts_cached": cached,
        "expert_folder": str(made.expert_set.store.folder),
        "outer_steps": config.outer.steps,
        "inner_steps": config.outer.syn_steps,
        "images_per_class": layout.images_per_class,
        "samples_per_class": layout.samples_per_class,
        "budget_floats": config.budget.floats(layout.spec),
        "strict_floats": layout.strict_floats,
        "pixel_floats": layout.parameter_floats,
        "over_budget": layout.over_budget,
    }
    if on_measure is not None:
        on_measure()
    predicted = predict(made)
    return {**facts, **predicted.record()}, predicted
