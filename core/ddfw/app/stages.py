"""The stages of one run: experts, trajectories, the outer loop, evaluation, files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from ddfw.app import results
from ddfw.app.announce import Announcer
from ddfw.app.experts import ensure_experts
from ddfw.app.judging import Judge, Verdict, cross_contexts, final
from ddfw.app.loading import load
from ddfw.app.plan import Plan, at, sha256_of
from ddfw.app.sources import UNTUNED
from ddfw.app.start import begin, warm_start
from ddfw.app.subjects import REAL, distilled
from ddfw.artifacts import pictures, synthetic
from ddfw.artifacts.run_dir import MANIFEST, SUMMARY, RunDirectory
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.observer import EvaluationReport, RunFinished, RunStarted, StepReport
from ddfw.engine.distill import Distillation, Learned, OuterState, run_steps
from ddfw.engine.experts import ExpertTeachers
from ddfw.errors import DivergedError, OptionError

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
class Best:
    """The best step so far by validation accuracy; earlier steps win ties."""

    accuracy: float = -1.0
    step: int = 0
    learned: Learned | None = None


@define(kw_only=True)
class Stages:
    """The stages of one run."""

    plan: Plan
    directory: RunDirectory
    session: ExecutorSession
    announce: Announcer
    seconds: dict[str, float] = field(factory=dict)

    @property
    def judge(self) -> Judge:
        """Evaluates on this run's session."""
        return Judge(ground=self.plan, session=self.session, announce=self.announce, net=self.plan.config.model.name)

    def everything(self) -> RunResult:
        """Experts, outer loop, evaluation, files."""
        config, plan = self.plan.config, self.plan
        self.announce(
            RunStarted(
                recipe=config.run.recipe,
                seed=config.run.seed,
                directory=self.directory.path,
                steps=config.outer.steps,
                experts=len(plan.roster.seeds),
                headline=self._headline(),
            )
        )
        cross_contexts(plan)  # refused now, and not after the last outer step; so is a set to start from
        warm = warm_start(plan)
        train = plan.encode(plan.splits.train, self.session.device)
        validation = plan.encode(plan.splits.validation, self.session.device)
        with self._timed("experts"):
            experts = ensure_experts(plan, plan.roster, self.session, self.announce, train, validation)
        teachers = ExpertTeachers(plan.network, experts)
        with self._timed("distill"):
            start = begin(
                plan, self.session, experts, teachers, train, None if warm is None else warm.to(self.session.device)
            )
            distillation, state = start.distillation, start.state
            if any(REAL[name][1] == "teacher" for name in config.eval.baselines if name in REAL):
                with at("eval.baselines"):  # asked now, and not after the last outer step
                    _require_teachers(teachers, train)
            best = Best()
            try:
                skipped = self._outer_loop(distillation, state, best, validation)
            except DivergedError as error:
                self._keep_diverged(distillation, state, best, error)
                raise
        assert best.learned is not None
        try:
            with self._timed("evaluate"):
                images, targets = distillation.decoded(best.learned)
                subject = distilled(plan, images, targets, float(best.learned.step_size), best.step)
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
        facts = {} if warm is None else {"init_from_sha256": warm.sha256}
        return self._write(distillation, best, verdict, storage, skipped, facts)

    def _headline(self) -> tuple[str, ...]:
        config, layout = self.plan.config, self.plan.layout
        over = " – over the strict budget" if layout.over_budget else ""
        choice = f"{config.data.name}, ipc {config.budget.ipc}, {config.param.name}, {config.traj.name}"
        untuned = f" (untuned; no recipe for {choice})" if config.run.recipe in UNTUNED else ""
        roster = self.plan.roster
        named = (f"experts   {len(roster.seeds)} of the {len(roster.store.index())} in {config.experts.store}",)
        return (
            f"recipe    {config.run.recipe}{untuned}{' – quick, scaled down' if config.run.quick else ''}",
            f"run       {config.title()}",
            f"data      {self.plan.splits.counts()}",
            f"set       {layout.images_per_class} images per class, {layout.strict_floats:,} floats strict, "
            f"{layout.parameter_floats:,} pixels, of {config.budget.floats(layout.spec):,}{over}",
            *(named if config.experts.store else ()),
            f"writes    {self.directory.path}",
        )

    def _outer_loop(
        self, distillation: Distillation[Any], state: OuterState, best: Best, validation: LabelledImages
    ) -> int:
        """All outer steps, with a selection on the validation split now and then; how many were skipped."""
        every, steps = self.plan.config.eval.every, distillation.outer.steps

        def select(state: OuterState) -> None:
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

        select(state)
        return run_steps(distillation, state, after_step).skipped

    def _write(
        self,
        distillation: Distillation[Any],
        best: Best,
        verdict: Verdict,
        storage: Mapping[str, int],
        skipped: int,
        facts: Mapping[str, str],
    ) -> RunResult:
        """All files of a finished run; the summary last, since it says that the run is finished."""
        assert best.learned is not None
        plan, layout = self.plan, self.plan.layout
        across = [report for reports in verdict.cross.values() for report in reports]
        outputs = self._write_set(distillation, best.learned, best.step, (*verdict.own, *across), storage, "finished")
        for report in verdict.own:
            self.directory.write_json(f"eval/{report.subject}.json", results.eval_record(report))
        for report in across:
            self.directory.write_json(f"eval/{report.subject}-{report.net}.json", results.eval_record(report))
        device = self.session.describe()
        self.directory.write_json(
            MANIFEST,
            results.manifest(
                plan,
                status="finished",
                data_sha256=plan.data_sha256,
                test_sha256=plan.splits.test.fingerprint(sha256_of),
                experts=str(plan.roster.store.folder),
                device=device,
                outputs=outputs,
                selected_step=best.step,
                test_reads=plan.splits.test.reads,
                **facts,
                seconds=self.seconds,
            ),
        )
        summary = {
            "schema": results.SUMMARY_SCHEMA,
            "recipe": plan.config.run.recipe,
            "seed": plan.config.run.seed,
            "rows": [results.summary_row(r) for r in verdict.own],
            **({"cross": [{"net": r.net, **results.summary_row(r)} for r in across]} if across else {}),
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
            "skipped_steps": skipped,
            "step_size": float(best.learned.step_size),
            "trajectories": dict(storage),
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
            "device": device,
        }
        self.directory.write_json(SUMMARY, summary)
        self.announce(RunFinished(status="finished", directory=self.directory.path, summary=summary))
        return RunResult(directory=self.directory.path, summary=summary)

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
        card = results.card(plan, float(learned.step_size), step, reports, storage, status)
        hashes = synthetic.write(
            self.directory.synthetic, learned.params, learned.label_params, images, targets, plan.space, card
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
        learned, step, outputs = best.learned, best.step, dict[str, str]()
        if error.step is not None:
            learned, step = state.result, error.step
        if learned is not None:
            outputs = self._write_set(distillation, learned, step, (), {}, "diverged")
        self.directory.write_json(
            MANIFEST,
            results.manifest(self.plan, status="diverged", reason=str(error), outputs=outputs, seconds=self.seconds),
        )
        self.announce(RunFinished(status="diverged", directory=self.directory.path, summary={"reason": str(error)}))

    def tell_failure(self, error: Exception) -> None:
        """A manifest and a last report for a run that ended in an error; there is no summary."""
        reason = f"{type(error).__name__}: {error}"
        self.directory.write_json(
            MANIFEST, results.manifest(self.plan, status="failed", reason=reason, seconds=self.seconds)
        )
        self.announce(RunFinished(status="failed", directory=self.directory.path, summary={"reason": reason}))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = time.monotonic() - began


def _require_teachers(teachers: ExpertTeachers, train: LabelledImages) -> None:
    """Refuses the baseline of teacher labels where the experts' last checkpoints were not kept.

    Raises:
        OptionError: they were not.
    """
    try:
        teachers.logits(train.images[:1])
    except OptionError as error:
        raise OptionError(f"{error}, or leave baselines with teacher labels out") from error
