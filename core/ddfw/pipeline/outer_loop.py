"""The outer loop of a run: steps, selections on the validation split, checkpoints, and stops in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from ddfw.engine.distill import Distillation, OuterState, run_steps
from ddfw.engine.resume import moving_tensors
from ddfw.errors import DivergedError
from ddfw.pipeline.evaluation.baselines import distilled

if TYPE_CHECKING:
    from ddfw.contracts.executor import Crew, LabelledImages
    from ddfw.contracts.observer import StepReport
    from ddfw.pipeline.evaluation.evaluator import Evaluator
    from ddfw.pipeline.prepare import Plan
    from ddfw.pipeline.resume import Best, Checkpoints
    from ddfw.pipeline.stopping import Stopping


@frozen(kw_only=True)
class OuterLoop:
    """All outer steps of a run, with a selection now and then.

    After each selection there is a checkpoint, the last one before the final evaluation. A run stops after a step, so
    that each part of it does at least one.

    Args:
        plan: the run.
        distillation: makes the steps.
        best: is kept up to date with the best step so far.
        validation: the validation split in training space.
        evaluator: trains networks for the selections.
        checkpoints: where the state is kept.
        crew: the processes that work on the run.
        stopping: says when to stop.
    """

    plan: Plan
    distillation: Distillation[Any]
    best: Best
    validation: LabelledImages
    evaluator: Evaluator
    checkpoints: Checkpoints
    crew: Crew
    stopping: Stopping

    def run(self, state: OuterState, *, resumed: bool) -> int:
        """Makes all steps that are left.

        Args:
            state: where to begin; its tensors are updated in place.
            resumed: whether the state comes from a checkpoint, so that the initial set was looked at before.

        Returns:
            How many steps changed nothing (`outer.skip_above`).

        Raises:
            DivergedError: something is not finite any more.
            StoppedError: time is over; a checkpoint is written.
        """
        if not resumed:
            self._select(state)
        with self.stopping.listening():
            return run_steps(self.distillation, state, self._after_step).skipped

    def _select(self, state: OuterState) -> None:
        """Keeps the step if it is better on the validation split than every one before."""
        self.crew.align(moving_tensors(state).values())
        learned = state.result
        images, targets = self.distillation.decoded(learned)
        subject = distilled(self.plan, images, targets, float(learned.step_size), state.step)
        try:
            report = self.evaluator.select(subject, self.validation)
        except DivergedError as error:
            raise DivergedError(f"after outer step {state.step}: {error}", step=state.step) from error
        if report.mean > self.best.accuracy:
            self.best.accuracy, self.best.step, self.best.learned = report.mean, state.step, learned.snapshot()

    def _after_step(self, state: OuterState, report: StepReport) -> None:
        steps = self.distillation.outer.steps
        self.evaluator.announce(report)
        if state.step % self.plan.config.eval.every == 0 or state.step == steps:
            self._select(state)
            self.checkpoints.save(state, self.best)
        if (reason := self.stopping.wanted()) is not None:
            self.checkpoints.save(state, self.best)
            self.crew.gather(None)  # nobody leaves before the checkpoint is written
            ended = ", before the evaluation" if state.step == steps else ""
            message = f"time is over: stopped after outer step {state.step} of {steps}{ended}"
            self.stopping.stop(reason, f"{message}; the same command goes on from there")
