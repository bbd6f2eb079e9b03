"""How far TESLA's approximate meta-gradient is from the exact one, on real experts, in float64."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.config.load import resolve
from ddfw.contracts.executor import MetaGradient, Problem
from ddfw.engine.distill import Distillation
from ddfw.engine.experts import ExpertTeachers
from ddfw.engine.metagradient import meta_gradient
from ddfw.errors import OptionError, option_errors_at
from ddfw.pipeline.experts import ensure_experts, observers_for_people
from ddfw.pipeline.initial import initial_state
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Plan, make_plan
from ddfw.randomness import Stream, generator

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.contracts.trajectory import Segment

GRADIENT_SCHEMA = 1


@frozen(kw_only=True)
class Setting:
    """One row: where the student starts, how many steps it takes, how large they are."""

    start: str
    steps: int
    step_size: float


def compare(
    config: RunConfig,
    experts_dir: Path,
    data_root: Path | None,
    steps: Sequence[int],
    step_sizes: Sequence[float],
    draws: int,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """TESLA's gradient against the exact one for every number of steps and step size, early and late.

    The synthetic set is the configuration's initial one; experts come from the store or are trained. Early students
    start in the first epoch of the window that the trajectory source allows, late ones in its last.

    Args:
        config: data, network, experts, parameterisation, labels, trajectory source, loss.
        experts_dir: the folder of expert stores.
        data_root: where data sets look for their files.
        steps: N, the student's steps.
        step_sizes: a.
        draws: segments of each row, each with its own draw of an expert, of batches and of augmentation.
        quiet: no progress.

    Returns:
        JSON-able: `rows` with means over the draws of the images' cosine, norm ratio and relative error, the step
        size's ratio and how often its sign is wrong, and the configuration in words.
    """
    plan = make_plan(resolve(config), data_root, experts_dir)
    with option_errors_at("traj"):
        if config.traj.latest_high(plan.expert_set.epochs) < 2:
            raise OptionError(f"experts of {plan.expert_set.epochs} epochs have no late start; raise experts.epochs")
    settings = [Setting(start=s, steps=n, step_size=a) for s in ("early", "late") for n in steps for a in step_sizes]
    announcer = Announcer()
    rows = []
    with (
        announcer.opened(observers_for_people(config, quiet), experts_dir),
        config.executor.open(plan.context()) as session,
    ):
        distillation, images, targets = _start(plan, session, announcer)
        for position, setting in enumerate(settings):
            pairs = []
            for draw in range(draws):
                pairs.append(_both(plan, distillation, images, targets, setting, draw))
                announcer.tick("gradients", position * draws + draw + 1, len(settings) * draws)
            rows.append({"start": setting.start, "N": setting.steps, "a": setting.step_size, **_errors(pairs)})
    return {
        "schema": GRADIENT_SCHEMA,
        "run": config.title(),
        "parameters": plan.network.num_parameters,
        "experts": len(plan.expert_set.seeds),
        "epochs": plan.expert_set.epochs,
        "images": len(images),
        "draws": draws,
        "precision": "float64",
        "rows": rows,
    }


def _start(plan: Plan, session: ExecutorSession, announcer: Announcer) -> tuple[Distillation[Any], Tensor, Tensor]:
    """The outer loop's constants and the initial images and targets, in float64."""
    train = plan.encode(plan.splits.train, session.device)
    ensure_experts(
        plan, plan.expert_set, session, announcer, train, plan.encode(plan.splits.validation, session.device)
    )
    # The experts stay those of the run's own precision; only what is computed with them is more precise.
    config = evolve(plan.config, run=evolve(plan.config.run, precision="float64"))
    precise = plan.with_config(config)
    experts = plan.expert_set.store.source(plan.expert_set.seeds, plan.network, session.device, precise.dtype)
    start = initial_state(precise, session, experts, ExpertTeachers(plan.network, experts), train)
    images, targets = start.distillation.decoded(start.state.learned)
    return start.distillation, images, targets


def _both(
    plan: Plan, distillation: Distillation[Any], images: Tensor, targets: Tensor, setting: Setting, draw: int
) -> tuple[MetaGradient, MetaGradient]:
    """The exact gradient and TESLA's (with the factor that its first release lost) on the same data."""
    config = plan.config
    schedule = evolve(distillation, outer=evolve(config.outer, syn_steps=setting.steps)).schedule(draw)
    problem = Problem(
        images=images,
        targets=targets,
        step_size=torch.tensor(setting.step_size, dtype=images.dtype, device=images.device),
        schedules=(schedule,),
    )
    segments = [_segment(plan, distillation, setting.start, draw)]
    ask: Callable[[str], MetaGradient] = lambda method: meta_gradient(  # noqa: E731
        plan.network, config.augment, config.loss, problem, segments, method=method, tesla_form="datm"
    )
    return ask("exact"), ask("tesla")


def _segment(plan: Plan, distillation: Distillation[Any], start: str, draw: int) -> Segment:
    high = int(plan.config.traj.latest_high(plan.expert_set.epochs))
    low = 0 if start == "early" else high - 1
    rng = generator(plan.config.run.seed, Stream.SEGMENT, draw)
    return plan.config.traj.segment(distillation.trajectories, low, low + 1, rng)


def _errors(pairs: Sequence[tuple[MetaGradient, MetaGradient]]) -> dict[str, float | None]:
    """Means over the draws, None where a gradient is not finite."""

    def over(figure: Callable[[MetaGradient, MetaGradient], float]) -> float | None:
        figures = [figure(exact, tesla) for exact, tesla in pairs]
        return statistics.fmean(figures) if all(math.isfinite(f) for f in figures) else None

    return {
        "cosine": over(lambda e, t: float((e.images * t.images).sum() / (e.images.norm() * t.images.norm()))),
        "norm_ratio": over(lambda e, t: float(t.images.norm() / e.images.norm())),
        "relative_error": over(lambda e, t: float((t.images - e.images).norm() / e.images.norm())),
        "step_size_ratio": over(lambda e, t: float(t.step_size / e.step_size)),
        "step_size_wrong_sign": _wrong_signs(pairs),
        "loss": over(lambda e, t: float(e.loss)),
    }


def _wrong_signs(pairs: Sequence[tuple[MetaGradient, MetaGradient]]) -> int | None:
    products = [float(e.step_size.sign() * t.step_size.sign()) for e, t in pairs]
    return None if any(math.isnan(p) for p in products) else sum(p < 0 for p in products)


COLUMNS = ("start", "N", "a", "loss", "cosine", "norm ratio", "relative error", "∂a ratio", "∂a sign wrong")


def lines(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table's rows as text."""
    for row in record["rows"]:
        yield (
            row["start"],
            str(row["N"]),
            f"{row['a']:g}",
            *(
                "–" if row[key] is None else f"{row[key]:.{digits}f}"
                for key, digits in (
                    *(("loss", 3), ("cosine", 3), ("norm_ratio", 2)),
                    *(("relative_error", 2), ("step_size_ratio", 2)),
                )
            ),
            "–" if row["step_size_wrong_sign"] is None else f"{row['step_size_wrong_sign']}/{record['draws']}",
        )
