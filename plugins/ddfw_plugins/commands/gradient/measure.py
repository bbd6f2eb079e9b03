"""How far TESLA's approximate meta-gradient is from the exact one, on real experts, in float64."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve
from torch import Tensor

from ddfw import MetaGradient, OptionError, Problem, Stream, generator, initial_run, option_errors_at
from ddfw.engine.metagradient import meta_gradient

if TYPE_CHECKING:
    from ddfw import Plan
    from ddfw.engine.distill import Distillation

GRADIENT_SCHEMA = 1


def compare_gradients(
    plan: Plan, steps: Sequence[int], step_sizes: Sequence[float], draws: int, *, quiet: bool = False
) -> dict[str, Any]:
    """Compares TESLA's meta-gradient with the exact one, for every number of steps and step size, early and late.

    The synthetic set is the configuration's initial one; experts come from the store or are trained. Early students
    start in the first epoch of the window that the trajectory source allows, late ones in its last.

    Args:
        plan: the run: data, network, experts, parameterisation, labels, trajectory source and loss.
        steps: the numbers N of student steps to try.
        step_sizes: the student step sizes a to try.
        draws: number of segments in each row, each with its own draw of an expert, of batches and of augmentation.
        quiet: show no progress.

    Returns:
        JSON-able: `rows` with means over the draws of the images' cosine, norm ratio and relative error, the step
        size's ratio and how often its sign is wrong, and the configuration in words.
    """
    config, expert_set = plan.config, plan.expert_set
    with option_errors_at("traj"):
        if config.traj.latest_high(expert_set.epochs) < 2:
            raise OptionError(f"experts of {expert_set.epochs} epochs have no late start; raise experts.epochs")
    settings = list(itertools.product(("early", "late"), steps, step_sizes))
    rows = []
    with initial_run(plan, precision="float64", quiet=quiet) as run:
        images, targets = run.distillation.decoded(run.state.learned)
        for position, (start, count, step_size) in enumerate(settings):
            problem = Problem(
                images=images,
                targets=targets,
                step_size=torch.tensor(step_size, dtype=images.dtype, device=images.device),
                schedules=(),
            )
            pairs = []
            for draw in range(draws):
                pairs.append(_both(plan, run.distillation, problem, start, count, draw))
                run.tick("gradients", position * draws + draw + 1, len(settings) * draws)
            rows.append({"start": start, "N": count, "a": step_size, **_errors(pairs)})
    return {
        "schema": GRADIENT_SCHEMA,
        "run": config.title(),
        "parameters": plan.network.num_parameters,
        "experts": len(expert_set.seeds),
        "epochs": expert_set.epochs,
        "images": len(images),
        "draws": draws,
        "precision": "float64",
        "rows": rows,
    }


def _both(
    plan: Plan, distillation: Distillation[Any], problem: Problem, start: str, steps: int, draw: int
) -> list[MetaGradient]:
    """The exact meta-gradient and TESLA's (`tesla_form = "datm"`), for the same segment and batches."""
    config = plan.config
    high = int(config.traj.latest_high(plan.expert_set.epochs))
    low = 0 if start == "early" else high - 1
    rng = generator(config.run.seed, Stream.SEGMENT, draw)
    segment = config.traj.segment(distillation.trajectories, low, low + 1, rng)
    schedule = evolve(distillation, outer=evolve(config.outer, syn_steps=steps)).schedule(draw)
    problem = evolve(problem, schedules=(schedule,))
    return [
        meta_gradient(plan.network, config.augment, config.loss, problem, [segment], method=method, tesla_form="datm")
        for method in ("exact", "tesla")
    ]


def _errors(pairs: Sequence[Sequence[MetaGradient]]) -> dict[str, float | None]:
    """A row's figures, means (or counts) over its segments; None where a gradient is not finite."""

    def over(
        figure: Callable[[MetaGradient, MetaGradient], Tensor],
        fold: Callable[[list[float]], float] = statistics.fmean,
    ) -> float | None:
        figures = [float(figure(exact, tesla)) for exact, tesla in pairs]
        return fold(figures) if all(map(math.isfinite, figures)) else None

    return {
        "cosine": over(lambda e, t: (e.images * t.images).sum() / (e.images.norm() * t.images.norm())),
        "norm_ratio": over(lambda e, t: t.images.norm() / e.images.norm()),
        "relative_error": over(lambda e, t: (t.images - e.images).norm() / e.images.norm()),
        "step_size_ratio": over(lambda e, t: t.step_size / e.step_size),
        "step_size_wrong_sign": over(
            lambda e, t: e.step_size.sign() * t.step_size.sign(), lambda signs: sum(sign < 0 for sign in signs)
        ),
        "loss": over(lambda e, t: e.loss),
    }
