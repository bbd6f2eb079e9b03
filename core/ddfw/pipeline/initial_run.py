"""A run up to its first outer step, for commands and notebooks that inspect it without distilling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from attrs import evolve, frozen

from ddfw.engine.distill import Distillation, OuterState
from ddfw.engine.experts import ExpertTeachers
from ddfw.errors import option_errors_at
from ddfw.pipeline.experts import ensure_experts, observers_for_people
from ddfw.pipeline.initial import initial_state
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Plan


@frozen(kw_only=True)
class InitialRun:
    """What a run has before its first outer step.

    Args:
        distillation: everything that outer steps need and do not change: components, trajectories, the open session.
        state: the initial synthetic set, labels and step size.
        tick: shows progress; takes the name of a stage, how much of it is done, and how much there is.
    """

    distillation: Distillation[Any]
    state: OuterState
    tick: Callable[[str, int, int], None]


@contextmanager
def initial_run(
    plan: Plan, *, precision: Literal["float32", "float64"] | None = None, quiet: bool = False
) -> Iterator[InitialRun]:
    """Trains the experts that are missing and draws the initial synthetic set, as a run does; writes no run directory.

    Args:
        plan: what `ddfw.plan` made of a configuration.
        precision: dtype of the synthetic set and of what is computed with it; None for the configuration's
            `run.precision`. Experts are trained in `run.precision` in any case.
        quiet: show no progress.

    Raises:
        ConfigError: options do not fit the experts, or the executor cannot be used on this machine.
        DivergedError: a loss or parameter of an expert is not finite.
    """
    config, expert_set = plan.config, plan.expert_set
    with ExitStack() as stack:
        observers = observers_for_people(config, quiet)
        announcer = stack.enter_context(Announcer().opened(observers, expert_set.store.folder))
        with option_errors_at("executor"):
            session = stack.enter_context(config.executor.open(plan.context()))
        train, validation = (plan.encode(s, session.device) for s in (plan.splits.train, plan.splits.validation))
        ensure_experts(plan, expert_set, session, announcer, train, validation)
        run = evolve(config.run, precision=precision or config.run.precision)
        precise = plan.with_config(evolve(config, run=run))
        experts = expert_set.store.source(expert_set.seeds, plan.network, session.device, precise.dtype)
        start = initial_state(precise, session, experts, ExpertTeachers(plan.network, experts), train)
        yield InitialRun(distillation=start.distillation, state=start.state, tick=announcer.tick)
