"""The outer loop of a run: steps, selections on the validation split, checkpoints, and stops between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from ddfw.engine.distill import Distillation, OuterState, run_steps
from ddfw.engine.saved_state import moving_tensors
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
    """All outer steps of a run, with a selection at the start, after every `eval.every` steps and after the last one.

    A selection evaluates the synthetic set on the validation split; a checkpoint follows it. A run stops only after a
    step, so that a run that is resumed again and again makes at least one step each time.

    Args:
        plan: the run: configuration, data, network and layout.
        distillation: makes the steps.
        best: the best step so far; updated in place.
        validation: the validation split in training space.
        evaluator: trains networks for the selections.
        checkpoints: writes the state to files.
        crew: the processes that work on the run.
        stopping: says whether to stop; asked after each step.
        keep_look: called with the state at the start, in the middle and at the end, to keep what the set looks like.
    """

    plan: Plan
    distillation: Distillation[Any]
    best: Best
    validation: LabelledImages
    evaluator: Evaluator
    checkpoints: Checkpoints
    crew: Crew
    stopping: Stopping
    keep_look: Callable[[OuterState], None]

    def run(self, state: OuterState, *, resumed: bool) -> int:
        """Makes all outer steps that are left.

        Args:
            state: the state to begin with; its tensors are updated in place.
            resumed: whether the state comes from a checkpoint, so that the initial set was evaluated before.

        Returns:
            Number of steps that changed nothing because of `outer.skip_above`.

        Raises:
            DivergedError: a loss, parameter or image is not finite.
            StoppedError: the time limit is reached; a checkpoint was written.
        """
        if not resumed:
            self.keep_look(state)
            self._select(state)
        with self.stopping.listening():
            state = run_steps(self.distillation, state, self._after_step)
        self.checkpoints.save(state, self.best)  # of a run without steps, which can be extended too
        return state.skipped

    def _select(self, state: OuterState) -> None:
        """Evaluates the synthetic set on the validation split, and keeps it if it is better than all before."""
        self.crew.align(moving_tensors(state).values())
        learned = state.result
        images, targets = self.distillation.decoded(learned, state.step)
        subject = distilled(self.plan, images, targets, float(learned.step_size), state.step)
        try:
            report = self.evaluator.select(subject, self.validation)
        except DivergedError as error:
            words = f"after outer step {state.step}: {error}: {self.distillation.what_to_lower(learned)}"
            raise DivergedError(words, step=state.step) from error
        if report.mean > self.best.accuracy:
            if not self._is_regular(state.step):
                self.best.regular = evolve(self.best)
            self.best.accuracy, self.best.step, self.best.learned = report.mean, state.step, learned.snapshot()

    def _is_regular(self, step: int) -> bool:
        """Whether a longer run would make a selection after this step, too."""
        return step % self.plan.config.eval.every == 0

    def _after_step(self, state: OuterState, report: StepReport) -> None:
        steps = self.distillation.outer.steps
        self.evaluator.announce(report)
        if state.step in (steps // 2, steps):
            self.keep_look(state)
        if self._is_regular(state.step) or state.step == steps:
            self._select(state)
            self.checkpoints.save(state, self.best)
        if (reason := self.stopping.wanted()) is not None:
            self.checkpoints.save(state, self.best)
            self.crew.gather(None)  # every rank waits here until the checkpoint is written
            ended = ", before the evaluation" if state.step == steps else ""
            message = f"time is over: stopped after outer step {state.step} of {steps}{ended}"
            self.stopping.stop(reason, f"{message}; the same command goes on from there")
