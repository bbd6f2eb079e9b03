"""The outer loop of a run: steps, selections on the validation split, checkpoints, and stops between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from ddfw.engine.distill import Distillation, OuterState, run_steps
from ddfw.engine.saved_state import moving_tensors
from ddfw.errors import DivergedError, Interrupted
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

    A selection evaluates the synthetic set on the validation split; a checkpoint follows it. A run that is stopped
    within a step or a selection goes on from the last finished step, whose checkpoint says whether a selection is left.

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
        unselected: whether the run was stopped before the selection of the step that it is resumed from.
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
    unselected: bool = False

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
        done = state

        def after_step(state: OuterState, report: StepReport) -> None:
            nonlocal done
            done = state
            self._after_step(state, report)

        with self.stopping.listening(), self.stopping.interrupting():
            try:
                if not resumed:
                    self.keep_look(state)
                    self._select(state)
                elif self.unselected:
                    self._select(state)
                    self.checkpoints.save(state, self.best, again=True)
                state = run_steps(self.distillation, state, after_step)
            except Interrupted:
                self._stop(done)
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

    def _has_selection(self, step: int) -> bool:
        """Whether this run makes a selection after this step."""
        return self._is_regular(step) or step == self.distillation.outer.steps

    def _after_step(self, state: OuterState, report: StepReport) -> None:
        steps = self.distillation.outer.steps
        self.evaluator.announce(report)
        if state.step in (steps // 2, steps):
            self.keep_look(state)
        self.stopping.progressed()
        if self._has_selection(state.step):
            self._select(state)
            self.checkpoints.save(state, self.best)
        if self.stopping.wanted() is not None:
            self._stop(state)

    def _stop(self, state: OuterState) -> None:
        """Writes a checkpoint of the last finished step, and stops the run."""
        steps, reason = self.distillation.outer.steps, self.stopping.wanted()
        if state.step:  # what comes before the first step is done anew
            left = self._has_selection(state.step)  # unless this step's checkpoint, which follows it, is there already
            self.checkpoints.save(state, self.best, unselected=left)
        self.crew.gather(None)  # every rank waits here until the checkpoint is written
        ended = ", before the evaluation" if state.step == steps else ""
        message = f"time is over: stopped after outer step {state.step} of {steps}{ended}"
        self.stopping.stop(reason or "time", f"{message}; the same command goes on from there")
