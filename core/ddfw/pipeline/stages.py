"""The stages of one run: experts, trajectories, the outer loop, evaluation, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import Factory, define, evolve, field, frozen

from ddfw.artifacts import checkpoint
from ddfw.artifacts.run_dir import SUMMARY, RunDirectory
from ddfw.config.recipes import recipes
from ddfw.contracts.executor import Crew, LabelledImages
from ddfw.contracts.observer import RunFinished, RunStarted
from ddfw.contracts.records import Summary
from ddfw.engine.distill import Distillation, Learned, OuterState
from ddfw.engine.experts import ExpertTeachers
from ddfw.errors import DivergedError, OptionError, option_errors_at
from ddfw.pipeline.evaluation.baselines import asked_baselines, distilled
from ddfw.pipeline.evaluation.evaluator import Evaluator
from ddfw.pipeline.evaluation.final import FinalReports, cross_contexts, final
from ddfw.pipeline.experts import ensure_experts
from ddfw.pipeline.initial import initial_state
from ddfw.pipeline.limits import require_room_for_run
from ddfw.pipeline.notes import notes
from ddfw.pipeline.outer_loop import OuterLoop
from ddfw.pipeline.report.files import RunFiles
from ddfw.pipeline.report.summary import summary_of
from ddfw.pipeline.resume import Best, Checkpoints, Facts, Resumption, circumstances, is_shorter, materials
from ddfw.pipeline.sets import load
from ddfw.pipeline.stopping import StageTimer, Stopping
from ddfw.pipeline.warm_start import WarmStart, warm_start

if TYPE_CHECKING:
    from ddfw.artifacts.synthetic import SyntheticSet
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.contracts.trajectory import ExpertSource
    from ddfw.pipeline.evaluation.known_rows import KnownRows
    from ddfw.pipeline.observers import Announcer
    from ddfw.pipeline.prepare import Plan


@frozen(kw_only=True)
class RunResult:
    """A finished run.

    Args:
        directory: the run directory.
        summary: the content of its summary.json.
        already_finished: whether the run was finished before, so that nothing was done now.
    """

    directory: Path
    summary: Summary
    already_finished: bool = False

    def load(self) -> SyntheticSet:
        """Reads the learned set from the run directory."""
        return load(self.directory)


@frozen(kw_only=True)
class Distilled:
    """The result of the outer loop.

    Args:
        distillation: what all outer steps share: components, trajectories, session.
        state: the last state; its set is saved if a step or a selection diverges.
        best: the best step by validation accuracy.
        skipped: number of steps that changed nothing because of `outer.skip_above`.
    """

    distillation: Distillation[Any]
    state: OuterState
    best: Best
    skipped: int = 0


@define(kw_only=True)
class Stages:
    """The stages of one run; every rank of a crew goes through them, and only rank 0 writes files.

    Args:
        plan: the run: configuration, data, network and layout.
        directory: the run directory.
        session: the executor's session for the run's network.
        announce: called with every report for observers.
        crew: the processes that work on the run.
        stopping: says whether to stop.
        resumed: the checkpoint to resume from, None for a new run.
        known: rows of baselines that other runs measured, None to measure all.
        extends: whether a finished run is made longer: `resumed` is its last checkpoint then.
        timer: measures the seconds of each stage.
        checkpoints: writes the state between outer steps.
    """

    plan: Plan
    directory: RunDirectory
    session: ExecutorSession
    announce: Announcer
    crew: Crew = field(factory=Crew)
    stopping: Stopping = field(default=Factory(lambda self: Stopping(self.crew), takes_self=True))
    resumed: Resumption | None = None
    known: KnownRows | None = None
    extends: bool = False
    timer: StageTimer = field(init=False)
    checkpoints: Checkpoints = field(init=False)

    def __attrs_post_init__(self) -> None:
        here = circumstances(self.plan.run.sha256, self.plan.run.sources, self.session, self.crew)
        facts = Facts(circumstances=here)
        if self.resumed is not None:
            if is_shorter(self.plan.run, self.resumed):
                self.resumed = self.resumed.extended(here["configuration"])
            if self._writes:
                self.resumed.require(self.resumed.facts.circumstances, here)
            facts = self.resumed.facts
            if self.resumed.step not in facts.extended_from:
                facts = evolve(facts, resumed_from=(*facts.resumed_from, self.resumed.step))
        self.timer = StageTimer(facts.seconds)
        self.checkpoints = Checkpoints(
            folder=self.directory.checkpoints,
            session=self.session,
            timer=self.timer,
            facts=facts,
            writes=self._writes,
            saved=None if self.resumed is None else self.resumed.step,
        )

    def run(self) -> RunResult:
        """Trains experts, makes the outer steps, evaluates the best set and writes all files.

        Raises:
            ConfigError: the options ask for more memory than there is.
            DivergedError: a loss, parameter or image is not finite; what was learned before is kept.
            StoppedError: the time limit is reached; the same command resumes the run.
        """
        plan = self.plan
        require_room_for_run(plan, self.session.device)
        if self.extends and self._writes and self.resumed is not None:
            self.directory.archive(self.resumed.step)
        self._announce_start()
        # Impossible networks of [cross] and unusable sets to start from are refused now, not after the last step.
        cross_contexts(plan)
        warm = warm_start(plan)
        train = plan.encode(plan.splits.train, self.session.device)
        validation = plan.encode(plan.splits.validation, self.session.device)
        with self.timer.timed("experts"):
            experts = ensure_experts(
                plan, plan.expert_set, self.session, self.announce, train, validation, self.stopping, self.crew
            )
        self._require_materials({} if warm is None else warm.hashes)
        if self.extends and self._writes:  # from here on the run is an unfinished one
            self.directory.lengthen(plan.run.text)
        teachers = ExpertTeachers(plan.network, experts)
        with self.timer.timed("distill"):
            learned = self._distill(experts, teachers, train, validation, warm)
        with self._keeping_diverged(learned), self.timer.timed("evaluate"):
            best = learned.best
            assert best.learned is not None
            images, targets = learned.distillation.decoded(best.learned)
            subject = distilled(plan, images, targets, float(best.learned.step_size), best.step)
            for step in self.checkpoints.facts.extended_from:
                words = f"extended from {step} outer steps, after the test split had been read"
                subject = evolve(subject, notes=(*subject.notes, words))
            # Earlier evaluations of this run that were killed have read the test split, too; they are counted.
            before = checkpoint.begin_evaluation(self.directory.checkpoints) if self._writes else 0
            with self.stopping.ending("in the evaluation"):
                found = final(self._evaluator, subject, teachers, train, validation, known=self.known, crew=self.crew)
        summary = self._finish(learned, found, experts, warm, before) if self._writes else None
        shared = self.crew.share(None if summary is None else summary.to_json())
        return RunResult(directory=self.directory.path, summary=Summary.from_json(shared))

    @property
    def _writes(self) -> bool:
        return self.crew.rank == 0

    @property
    def _evaluator(self) -> Evaluator:
        """Evaluates synthetic sets with the run's own network."""
        net = self.plan.config.model.name
        return Evaluator(setup=self.plan, session=self.session, announce=self.announce, net=net)

    @property
    def _files(self) -> RunFiles:
        return RunFiles(plan=self.plan, directory=self.directory)

    def _announce_start(self) -> None:
        config = self.plan.config
        self.announce(
            RunStarted(
                recipe=config.run.recipe,
                seed=config.run.seed,
                directory=self.directory.path,
                steps=config.outer.steps,
                experts=len(self.plan.expert_set.seeds),
                first_step=0 if self.resumed is None else self.resumed.step,
                void_selection=self._void_selection,
                headline=self._headline(),
            )
        )

    @property
    def _void_selection(self) -> int | None:
        """A step whose selection is left to do, or the last one of a shorter run where only its end caused one."""
        if self.resumed is not None and self.resumed.unselected:
            return self.resumed.step
        if self.resumed is None or self.resumed.step not in self.checkpoints.facts.extended_from:
            return None
        return self.resumed.step if self.resumed.step % self.plan.config.eval.every else None

    def _headline(self) -> tuple[str, ...]:
        config, layout, experts = self.plan.config, self.plan.layout, self.plan.expert_set
        over = " – over the strict budget" if layout.over_budget else ""
        choice = f"{config.data.name}, ipc {config.budget.ipc}, {config.param.name}, {config.traj.name}"
        recipe = recipes().get(config.run.recipe)
        untuned = f" (untuned; no recipe for {choice})" if recipe is not None and not recipe.tuned else ""
        word = "extends" if self.extends else "resumes"
        named = (f"experts   {len(experts.seeds)} of the {len(experts.store.index())} in {config.experts.store}",)
        return (
            f"recipe    {config.run.recipe}{untuned}{' – quick, scaled down' if config.run.quick else ''}",
            f"run       {config.title()}",
            f"data      {self.plan.splits.counts()}",
            f"set       {layout.images_per_class} images per class, {layout.strict_floats:,} floats strict, "
            f"{layout.parameter_floats:,} pixels, of {config.budget.floats(layout.spec):,}{over}",
            *(named if config.experts.store else ()),
            *(() if self.resumed is None else (f"{word}   from step {self.resumed.step}",)),
            f"writes    {self.directory.path}",
            *(f"note      {note}" for note in notes(self.plan)),
        )

    def _require_materials(self, init_from: Mapping[str, str]) -> None:
        """Refuses to resume if the data, the experts or the set to start from have changed since the checkpoint."""
        here = materials(self.plan, init_from)
        if self.resumed is not None:
            self.resumed.require(self.resumed.facts.materials, here)
        self.checkpoints.facts = evolve(self.checkpoints.facts, materials=here)

    def _distill(
        self,
        experts: ExpertSource,
        teachers: ExpertTeachers,
        train: LabelledImages,
        validation: LabelledImages,
        warm: WarmStart | None,
    ) -> Distilled:
        """Prepares the initial set, or restores the state of a checkpoint, and makes all outer steps."""
        there = None if warm is None else warm.to(self.session.device)
        start = initial_state(self.plan, self.session, experts, teachers, train, there, ranks=self.crew.size)
        if any(baseline.needs_experts for baseline in asked_baselines(self.plan.config.eval.baselines)):
            with option_errors_at("eval.baselines"):  # checked now, not after the last outer step
                _require_teachers(teachers, train)
        state, best = start.state, Best()
        if self.resumed is not None:
            state = self.resumed.applied(state, best)
            self.resumed = evolve(self.resumed, tensors={})  # frees the checkpoint's tensors, which the state holds now
        learned = Distilled(distillation=start.distillation, state=state, best=best)
        loop = OuterLoop(
            plan=self.plan,
            distillation=start.distillation,
            best=best,
            validation=validation,
            evaluator=self._evaluator,
            checkpoints=self.checkpoints,
            crew=self.crew,
            stopping=self.stopping,
            keep_look=lambda state: self._keep_look(start.distillation, state),
            unselected=self.resumed is not None and self.resumed.unselected,
        )
        if self._writes and self.resumed is None:
            self._files.write_start(train)
        with self._keeping_diverged(learned):
            return evolve(learned, skipped=loop.run(state, resumed=self.resumed is not None))

    def _keep_look(self, distillation: Distillation[Any], state: OuterState) -> None:
        if self._writes:
            self._files.write_step(distillation, state.result, state.step)

    @contextmanager
    def _keeping_diverged(self, learned: Distilled) -> Iterator[None]:
        """If the block diverges, writes the set that was learned before; a diverged run has no summary."""
        try:
            yield
        except DivergedError as error:
            if self._writes:
                self._write_diverged(learned, error)
            raise

    def _write_diverged(self, learned: Distilled, error: DivergedError) -> None:
        best, outputs = learned.best, dict[str, str]()
        kept, step = (best.learned, best.step) if error.step is None else (learned.state.result, error.step)
        if kept is not None and kept is not best.learned and not _is_finite(learned.distillation, kept):
            kept, step = best.learned, best.step  # which was finite when it was evaluated
        if kept is not None:
            outputs = self._files.write_set(learned.distillation, kept, step, (), {}, "diverged")
        self._files.write_ended("diverged", str(error), self.timer.seconds, outputs)
        self._announce_end("diverged", {"reason": str(error)})

    def _finish(
        self,
        learned: Distilled,
        found: FinalReports,
        experts: ExpertSource,
        warm: WarmStart | None,
        reads_before: int,
    ) -> Summary:
        """Writes all files of a finished run and tells the observers."""
        plan, itemsize = self.plan, self.plan.dtype.itemsize
        checkpoints = experts.num_experts * (experts.num_epochs + 1)
        storage = {
            "source_bytes": plan.config.traj.stored_bytes(learned.distillation.trajectories),
            "experts": experts.num_experts,
            "checkpoint_bytes": checkpoints * plan.network.num_parameters * itemsize,
        }
        facts: dict[str, Any] = {} if warm is None else dict(warm.hashes)
        facts["test_reads"] = reads_before + plan.splits.test.reads
        known = self.checkpoints.facts
        facts |= {key: steps for key in ("resumed_from", "extended_from") if (steps := getattr(known, key))}
        summary = summary_of(
            plan,
            found,
            learned.best,
            skipped=learned.skipped,
            storage=storage,
            seconds=self.timer.seconds,
            device=self.session.describe(),
            test_reads=facts["test_reads"],
            extended_from=known.extended_from,
        )
        self._files.write_finished(
            learned.distillation, learned.best, found, summary, {**facts, "seconds": self.timer.seconds}
        )
        if not plan.config.run.keep_checkpoint:
            with suppress(OSError):  # the run is finished; the same command would remove what is left
                checkpoint.remove(self.directory.checkpoints)
        self._announce_end("finished", summary.to_json())
        return summary

    def _announce_end(self, status: Literal["finished", "diverged", "failed"], summary: Mapping[str, Any]) -> None:
        self.announce(RunFinished(status=status, directory=self.directory.path, summary=summary))

    def report_failure(self, error: Exception) -> None:
        """Writes a manifest and tells the observers that the run ended in an error; writes no summary.

        If the run already has a summary, it is finished, and nothing is written.

        Args:
            error: the error that ended the run.
        """
        if not self._writes or (self.directory.path / SUMMARY).exists():
            return
        reason = f"{type(error).__name__}: {error}"
        self._files.write_ended("failed", reason, self.timer.seconds, {})
        self._announce_end("failed", {"reason": reason})


def _is_finite(distillation: Distillation[Any], learned: Learned) -> bool:
    """Whether a learned set is finite, also decoded."""
    with suppress(DivergedError):
        distillation.decoded(learned)
        return learned.finite()
    return False


def _require_teachers(teachers: ExpertTeachers, train: LabelledImages) -> None:
    """Refuses baselines that experts select or label if the experts' last checkpoints were not kept.

    Raises:
        OptionError: the checkpoints were not kept.
    """
    try:
        teachers.logits(train.images[:1])
    except OptionError as error:
        raise OptionError(f"{error}, or leave out the baselines that experts select or label") from error
