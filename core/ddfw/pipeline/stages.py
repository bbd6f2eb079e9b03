"""The stages of one run: experts, trajectories, the outer loop, evaluation, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, evolve, field, frozen

from ddfw.artifacts import checkpoint, pictures, synthetic
from ddfw.artifacts.run_dir import MANIFEST, SUMMARY, RunDirectory
from ddfw.config.fingerprints import sha256_of
from ddfw.config.recipes import recipes
from ddfw.contracts.executor import Crew, LabelledImages
from ddfw.contracts.observer import EvaluationReport, RunFinished, RunStarted, StepReport
from ddfw.engine.distill import Distillation, Learned, OuterState, run_steps
from ddfw.engine.experts import ExpertTeachers
from ddfw.engine.resume import moving_tensors
from ddfw.errors import DivergedError, OptionError, option_errors_at
from ddfw.pipeline import resume
from ddfw.pipeline.evaluation.baselines import REAL, distilled
from ddfw.pipeline.evaluation.evaluator import Evaluator, Verdict, cross_contexts, final
from ddfw.pipeline.experts import ensure_experts
from ddfw.pipeline.initial import initial_state
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Plan
from ddfw.pipeline.report.card import card
from ddfw.pipeline.report.manifest import manifest
from ddfw.pipeline.report.summary import SUMMARY_SCHEMA, eval_record, summary_row
from ddfw.pipeline.resume import Best, Facts, Resumption
from ddfw.pipeline.sets import load
from ddfw.pipeline.stopping import StageTimer, Stopping
from ddfw.pipeline.warm_start import warm_start

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorSession


@frozen(kw_only=True)
class RunResult:
    """A finished run: its directory, its summary (as in summary.json), and whether it had been finished before."""

    directory: Path
    summary: Mapping[str, Any]
    already_finished: bool = False

    def load(self) -> synthetic.SyntheticSet:
        """The learned set."""
        return load(self.directory)


@define(kw_only=True)
class Stages:
    """The stages of one run; in a crew every rank goes through them, and rank 0 alone writes.

    Args:
        plan: what was configured.
        directory: of the run.
        session: of the run's network.
        announce: hears every report.
        crew: the processes that work on the run.
        stopping: says when to stop.
        resumed: where an unfinished run goes on, None at a start.
        saved: the step of the newest checkpoint, None where there is none.
        watch: seconds of each stage.
        facts: what goes into checkpoints, as far as it is known.
    """

    plan: Plan
    directory: RunDirectory
    session: ExecutorSession
    announce: Announcer
    crew: Crew = field(factory=Crew)
    stopping: Stopping = field(default=Factory(lambda self: Stopping(self.crew), takes_self=True))
    resumed: Resumption | None = None
    saved: int | None = field(init=False)
    watch: StageTimer = field(init=False)
    facts: Facts = field(init=False)

    def __attrs_post_init__(self) -> None:
        here = resume.circumstances(self.plan, self.session, self.crew)
        self.facts = Facts(circumstances=here)
        self.saved = None
        if self.resumed is not None:
            if self.crew.rank == 0:
                self.resumed.require(self.resumed.facts.circumstances, here)
            before, self.saved = self.resumed.facts, self.resumed.step
            self.facts = evolve(before, resumed_from=(*before.resumed_from, self.saved))
        self.watch = StageTimer(self.facts.seconds)

    @property
    def judge(self) -> Evaluator:
        """Evaluates on this run's session."""
        return Evaluator(setup=self.plan, session=self.session, announce=self.announce, net=self.plan.config.model.name)

    def everything(self) -> RunResult:
        """Experts, outer loop, evaluation, files."""
        config, plan = self.plan.config, self.plan
        self.announce(
            RunStarted(
                recipe=config.run.recipe,
                seed=config.run.seed,
                directory=self.directory.path,
                steps=config.outer.steps,
                experts=len(plan.expert_set.seeds),
                first_step=0 if self.resumed is None else self.resumed.step,
                headline=self._headline(),
            )
        )
        cross_contexts(plan)  # refused now, and not after the last outer step; so is a set to start from
        warm = warm_start(plan)
        train = plan.encode(plan.splits.train, self.session.device)
        validation = plan.encode(plan.splits.validation, self.session.device)
        with self.watch.timed("experts"):
            experts = ensure_experts(
                plan, plan.expert_set, self.session, self.announce, train, validation, self.stopping, self.crew
            )
        self._require_materials(None if warm is None else warm.sha256)
        teachers = ExpertTeachers(plan.network, experts)
        with self.watch.timed("distill"):
            there = None if warm is None else warm.to(self.session.device)
            start = initial_state(plan, self.session, experts, teachers, train, there, ranks=self.crew.size)
            distillation, state = start.distillation, start.state
            if any(REAL[name][1] == "teacher" for name in config.eval.baselines if name in REAL):
                with option_errors_at("eval.baselines"):  # asked now, and not after the last outer step
                    _require_teachers(teachers, train)
            best = Best()
            if self.resumed is not None:
                state = self.resumed.applied(state, best)
                self.resumed = evolve(self.resumed, tensors={})  # they need not stay in memory twice
            try:
                skipped = self._outer_loop(distillation, state, best, validation)
            except DivergedError as error:
                self._keep_diverged(distillation, state, best, error)
                raise
        assert best.learned is not None
        try:
            with self.watch.timed("evaluate"):
                images, targets = distillation.decoded(best.learned)
                subject = distilled(plan, images, targets, float(best.learned.step_size), best.step)
                # A part of this run that was killed in its evaluation has read the test split, too.
                before = checkpoint.begin_evaluation(self.directory.checkpoints) if self._writes else 0
                verdict = final(self.judge, subject, teachers, train, validation)
        except DivergedError as error:
            self._keep_diverged(distillation, state, best, error)
            raise
        storage = {
            "source_bytes": config.traj.stored_bytes(distillation.trajectories),
            "experts": experts.num_experts,
            "checkpoint_bytes": experts.num_experts
            * (experts.num_epochs + 1)
            * plan.network.num_parameters
            * plan.dtype.itemsize,
        }
        facts: dict[str, Any] = {} if warm is None else {"init_from_sha256": warm.sha256}
        facts["test_reads"] = before + plan.splits.test.reads
        summary = self._write(distillation, best, verdict, storage, skipped, facts) if self._writes else None
        return RunResult(directory=self.directory.path, summary=self.crew.share(summary))

    @property
    def _writes(self) -> bool:
        return self.crew.rank == 0

    def _require_materials(self, init_from_sha256: str | None) -> None:
        """Refuses to go on from other experts, or another set to start from."""
        here = resume.materials(self.plan, init_from_sha256)
        if self.resumed is not None:
            self.resumed.require(self.resumed.facts.materials, here)
        self.facts = evolve(self.facts, materials=here)

    def _headline(self) -> tuple[str, ...]:
        config, layout = self.plan.config, self.plan.layout
        over = " – over the strict budget" if layout.over_budget else ""
        choice = f"{config.data.name}, ipc {config.budget.ipc}, {config.param.name}, {config.traj.name}"
        recipe = recipes().get(config.run.recipe)
        untuned = f" (untuned; no recipe for {choice})" if recipe is not None and not recipe.tuned else ""
        expert_set = self.plan.expert_set
        named = (f"experts   {len(expert_set.seeds)} of the {len(expert_set.store.index())} in {config.experts.store}",)
        return (
            f"recipe    {config.run.recipe}{untuned}{' – quick, scaled down' if config.run.quick else ''}",
            f"run       {config.title()}",
            f"data      {self.plan.splits.counts()}",
            f"set       {layout.images_per_class} images per class, {layout.strict_floats:,} floats strict, "
            f"{layout.parameter_floats:,} pixels, of {config.budget.floats(layout.spec):,}{over}",
            *(named if config.experts.store else ()),
            *(() if self.resumed is None else (f"resumes   from step {self.resumed.step}",)),
            f"writes    {self.directory.path}",
        )

    def _outer_loop(
        self, distillation: Distillation[Any], state: OuterState, best: Best, validation: LabelledImages
    ) -> int:
        """All outer steps, with a selection on the validation split now and then; how many were skipped.

        After each selection there is a checkpoint, the last one before the final evaluation. A run stops after a step,
        so that each part of it does at least one.
        """
        every, steps = self.plan.config.eval.every, distillation.outer.steps

        def select(state: OuterState) -> None:
            self.crew.align(moving_tensors(state).values())
            result = state.result
            images, targets = distillation.decoded(result)
            subject = distilled(self.plan, images, targets, float(result.step_size), state.step)
            try:
                report = self.judge.select(subject, validation)
            except DivergedError as error:
                raise DivergedError(f"after outer step {state.step}: {error}", step=state.step) from error
            if report.mean > best.accuracy:
                best.accuracy, best.step, best.learned = report.mean, state.step, result.snapshot()

        def after_step(state: OuterState, report: StepReport) -> None:
            self.announce(report)
            if state.step % every == 0 or state.step == steps:
                select(state)
                self._save(state, best)
            if (reason := self.stopping.wanted()) is not None:
                self._save(state, best)
                self.crew.gather(None)  # nobody leaves before the checkpoint is written
                what = f"outer step {state.step} of {steps}" + (
                    ", before the evaluation" if state.step == steps else ""
                )
                self.stopping.stop(reason, f"time is over: stopped after {what}; the same command goes on from there")

        if self.resumed is None:
            select(state)
        with self.stopping.listening():
            return run_steps(distillation, state, after_step).skipped

    def _save(self, state: OuterState, best: Best) -> None:
        """Writes a checkpoint, unless the newest one is of this step."""
        if self.saved == state.step:
            return
        if self._writes:
            held = resume.held_steps(self.session)
            facts = evolve(self.facts, seconds=self.watch.seconds, held_steps=held)
            resume.save(self.directory.checkpoints, state, best, facts)
        self.saved = state.step

    def _write(
        self,
        distillation: Distillation[Any],
        best: Best,
        verdict: Verdict,
        storage: Mapping[str, int],
        skipped: int,
        facts: Mapping[str, Any],
    ) -> dict[str, Any]:
        """All files of a finished run; the summary last, since it says that the run is finished; returns it."""
        assert best.learned is not None
        plan, layout = self.plan, self.plan.layout
        across = [report for reports in verdict.cross.values() for report in reports]
        outputs = self._write_set(distillation, best.learned, best.step, (*verdict.own, *across), storage, "finished")
        for report in verdict.own:
            self.directory.write_json(f"eval/{report.subject}.json", eval_record(report))
        for report in across:
            self.directory.write_json(f"eval/{report.subject}-{report.net}.json", eval_record(report))
        device = self.session.describe()
        self.directory.write_json(
            MANIFEST,
            manifest(
                plan,
                status="finished",
                data_sha256=plan.data_sha256,
                test_sha256=plan.splits.test.fingerprint(sha256_of),
                experts=str(plan.expert_set.store.folder),
                device=device,
                outputs=outputs,
                selected_step=best.step,
                **facts,
                **({"resumed_from": self.facts.resumed_from} if self.resumed is not None else {}),
                seconds=self.watch.seconds,
            ),
        )
        summary = {
            "schema": SUMMARY_SCHEMA,
            "recipe": plan.config.run.recipe,
            "seed": plan.config.run.seed,
            "rows": [summary_row(r) for r in verdict.own],
            **({"cross": [{"net": r.net, **summary_row(r)} for r in across]} if across else {}),
            **({"cross_diverged": [dict(d) for d in verdict.diverged]} if verdict.diverged else {}),
            **({"quick": True} if plan.config.run.quick else {}),
            "budget": {
                "floats": plan.config.budget.floats(layout.spec),
                "accounting": plan.config.budget.accounting,
                "strict": layout.strict_floats,
                "pixels": layout.parameter_floats,
                "over_budget": layout.over_budget,
            },
            "images_per_class": layout.images_per_class,
            "outer_steps": plan.config.outer.steps,
            "selected_step": best.step,
            "selected_by": "validation",
            "selected_accuracy": best.accuracy,
            "skipped_steps": skipped,
            "step_size": float(best.learned.step_size),
            "trajectories": dict(storage),
            "seconds": {stage: round(value, 3) for stage, value in self.watch.seconds.items()},
            "device": device,
        }
        self.directory.write_json(SUMMARY, summary)
        with suppress(OSError):  # the run is finished; they go when the same command looks at it again
            checkpoint.remove(self.directory.checkpoints)
        self.announce(RunFinished(status="finished", directory=self.directory.path, summary=summary))
        return summary

    def _write_set(
        self,
        distillation: Distillation[Any],
        learned: Learned,
        step: int,
        reports: Sequence[EvaluationReport],
        storage: Mapping[str, int],
        status: str,
    ) -> dict[str, str]:
        """synthetic/ and its picture; returns the files' hashes."""
        plan, config = self.plan, self.plan.config
        images, targets = distillation.decoded(learned)
        record = card(plan, float(learned.step_size), step, reports, storage, status)
        hashes = synthetic.write_set(
            self.directory.synthetic, learned.params, learned.label_params, images, targets, plan.space, record
        )
        found = {f"synthetic/{name}": digest for name, digest in hashes.items()}
        found["images/synthetic.png"] = pictures.write_grid(
            self.directory.path / "images" / "synthetic.png",
            plan.space.decode(images),
            targets,
            plan.layout.images_per_class,
            plan.splits.class_names,
            f"{config.title()} · step {step}",
        )
        return found

    def _keep_diverged(
        self, distillation: Distillation[Any], state: OuterState, best: Best, error: DivergedError
    ) -> None:
        """Writes what was learned before a divergence, so that nothing is lost; there is no summary."""
        if not self._writes:
            return
        learned, step, outputs = best.learned, best.step, dict[str, str]()
        if error.step is not None:
            learned, step = state.result, error.step
        if learned is not None:
            outputs = self._write_set(distillation, learned, step, (), {}, "diverged")
        self.directory.write_json(
            MANIFEST,
            manifest(self.plan, status="diverged", reason=str(error), outputs=outputs, seconds=self.watch.seconds),
        )
        self.announce(RunFinished(status="diverged", directory=self.directory.path, summary={"reason": str(error)}))

    def tell_failure(self, error: Exception) -> None:
        """A manifest and a last report for a run that ended in an error; there is no summary.

        A run that has its summary is finished, and stays so whatever goes wrong afterwards.
        """
        if not self._writes or (self.directory.path / SUMMARY).exists():
            return
        reason = f"{type(error).__name__}: {error}"
        self.directory.write_json(
            MANIFEST, manifest(self.plan, status="failed", reason=reason, seconds=self.watch.seconds)
        )
        self.announce(RunFinished(status="failed", directory=self.directory.path, summary={"reason": reason}))


def _require_teachers(teachers: ExpertTeachers, train: LabelledImages) -> None:
    """Refuses the baseline of teacher labels where the experts' last checkpoints were not kept.

    Raises:
        OptionError: they were not.
    """
    try:
        teachers.logits(train.images[:1])
    except OptionError as error:
        raise OptionError(f"{error}, or leave baselines with teacher labels out") from error
