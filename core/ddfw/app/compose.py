"""A whole run, stage by stage: experts, trajectories, the outer loop, evaluation, files.

The command line and notebooks call the same functions here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from attrs import define, evolve, field, frozen
from torch import Tensor

from ddfw.app import results
from ddfw.app.announce import Announcer
from ddfw.app.catalog import catalog
from ddfw.app.config import RunConfig
from ddfw.app.plan import Plan, at, make_plan, split_sha256
from ddfw.app.sources import Settings, gather
from ddfw.app.toml import dumps
from ddfw.artifacts import pictures, synthetic
from ddfw.artifacts.expert_store import StoredExperts
from ddfw.artifacts.run_dir import MANIFEST, SUMMARY, RunDirectory
from ddfw.contracts.executor import LabelledImages, TrainingSettings
from ddfw.contracts.observer import EvaluationReport, ExpertReport, RunFinished, RunStarted, StepReport
from ddfw.engine.distill import Distillation, Learned, OuterState, run_steps
from ddfw.engine.evaluate import mean_std
from ddfw.engine.experts import ExpertTeachers
from ddfw.errors import DivergedError, PluginError
from ddfw.randomness import Stream, generator
from ddfw_registry import Structurer

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.contracts.observer import AbstractObserver
    from ddfw.contracts.parameterization import Params


@frozen(kw_only=True)
class Places:
    """Where things are; none of it changes a result.

    Args:
        out: the run directory, None for `runs/<recipe>-s<seed>-<hash8>`.
        experts: the folder of expert caches.
        data_root: where data sets look for their files.
    """

    out: Path | None = None
    experts: Path = Path("experts")
    data_root: Path | None = None


@frozen(kw_only=True)
class RunResult:
    """A finished run: its directory, its summary (as in summary.json), and whether it had been finished before."""

    directory: Path
    summary: Mapping[str, Any]
    already_finished: bool = False

    def load(self) -> synthetic.SyntheticSet:
        """The learned set."""
        return synthetic.load(self.directory)


def structure(settings: Settings) -> RunConfig:
    """The configuration that merged settings describe.

    Raises:
        ConfigError: every problem at once, each with its path.
    """
    return Structurer(catalog()).structure(settings.tables, RunConfig)


def config_document(config: RunConfig) -> dict[str, Any]:
    """The resolved configuration as tables."""
    return Structurer(catalog()).unstructure(config)


def config_text(config: RunConfig) -> str:
    """config.toml: the resolved configuration, which runs again."""
    return dumps(config_document(config))


def plan(config: RunConfig, places: Places | None = None) -> Plan:
    """Everything that can be checked before training; what `--dry-run` shows."""
    places = places or Places()
    return make_plan(config, places.data_root, places.experts)


def outline(config: RunConfig, places: Places) -> dict[str, Any]:
    """What a run would do, without doing it: everything is checked, nothing trained or written."""
    made = plan(config, places)
    layout, there = made.layout, made.store.index()
    cached = sum(seed in there for seed in made.expert_seeds)
    return {
        "schema": 1,
        "recipe": config.run.recipe,
        "run": config.title(),
        "directory": str(directory_for(config, places)),
        "train_images": len(made.splits.train.labels),
        "validation_images": len(made.splits.validation.labels),
        "test_images": len(made.splits.test),
        "image_shape": list(layout.spec.shape),
        "classes": layout.spec.num_classes,
        "parameters": made.network.num_parameters,
        "experts": config.experts.count,
        "experts_cached": cached,
        "expert_folder": str(made.store.folder),
        "outer_steps": config.outer.steps,
        "inner_steps": config.outer.syn_steps,
        "images_per_class": layout.images_per_class,
        "samples_per_class": layout.samples_per_class,
        "budget_floats": config.budget.floats(layout.spec),
        "strict_floats": layout.strict_floats,
        "pixel_floats": layout.parameter_floats,
        "over_budget": layout.over_budget,
    }


def directory_for(config: RunConfig, places: Places) -> Path:
    """The run directory: the user's, or one named after recipe, seed and configuration."""
    if places.out is not None:
        return places.out
    digest = hashlib.sha256(config_text(config).encode()).hexdigest()[:8]
    return Path("runs") / f"{config.run.recipe}-s{config.run.seed}-{digest}"


def run(
    config: RunConfig,
    places: Places | None = None,
    extra_observers: Sequence[tuple[str, AbstractObserver]] = (),
) -> RunResult:
    """Runs a configuration, or returns the summary of the run that its directory already holds.

    Raises:
        ConfigError, DataError, DirectoryInUseError, DivergedError: see there.
    """
    places = places or Places()
    directory = RunDirectory(directory_for(config, places))
    text = config_text(config)
    made = plan(config, places)
    with directory.claimed(text):
        finished = directory.summary()
        if finished is not None:
            return RunResult(directory=directory.path, summary=finished, already_finished=True)
        announcer = Announcer()
        observers = [*config.observers.items(), *extra_observers]
        with announcer.opened(observers, directory.path), config.executor.open(made.context()) as session:
            return _Run(plan=made, directory=directory, session=session, announce=announcer).everything()


def distill(
    recipe: str | None = None,
    *,
    out: str | Path | None = None,
    experts_dir: str | Path = "experts",
    data_root: str | Path | None = None,
    seed: int = 0,
    ipc: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **components: Any,
) -> RunResult:
    """Distils from a notebook, with the words of the command line.

    Args:
        recipe: a recipe's name or a configuration file; None chooses one by data, ipc, param and traj.
        out: run directory; None for one below `runs/`.
        experts_dir: folder of the expert caches.
        data_root: where data sets look for their files.
        seed: `run.seed`.
        ipc: `budget.ipc`.
        settings: tables as in a configuration file, `{"outer": {"steps": 100}}`.
        components: `param=`, `traj=`, `loss=`, `labels=`, `data=`, `model=`, `augment=`, `executor=`: components,
            also ones that no plugin offers; and the settings records `experts=`, `outer=`, `window=`, `gradient=`,
            `eval=`, `budget=`.

    Returns:
        The finished run; `.load()` gives the images.
    """
    known = {f.name for f in attrs.fields(RunConfig)} - {"run"}
    if unknown := sorted(set(components) - known):
        raise TypeError(f"distill() takes no {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    names = {
        k: {"name": v.name} for k, v in components.items() if hasattr(v, "name") and k in ("data", "param", "traj")
    }
    flags: dict[str, Any] = {"run": {"seed": seed}, **{k: dict(v) for k, v in (settings or {}).items()}}
    if ipc is not None:
        flags["budget"] = {**flags.get("budget", {}), "ipc": ipc}
    offered = {kind: {e.name for e in catalog().entries(kind)} for kind in names}
    named = {k: v for k, v in names.items() if v["name"] in offered[k]}
    config = evolve(structure(gather(recipe, {**flags, **named}, ())), **components)
    places = Places(
        out=None if out is None else Path(out),
        experts=Path(experts_dir),
        data_root=None if data_root is None else Path(data_root),
    )
    return run(config, places)


@define(kw_only=True)
class _Best:
    """The best step so far by validation accuracy; earlier steps win ties."""

    accuracy: float = -1.0
    step: int = 0
    learned: Learned | None = None


@define(kw_only=True)
class _Run:
    """The stages of one run."""

    plan: Plan
    directory: RunDirectory
    session: ExecutorSession
    announce: Announcer
    seconds: dict[str, float] = field(factory=dict)
    networks_done: int = 0

    def everything(self) -> RunResult:
        """Experts, outer loop, evaluation, files."""
        config, plan = self.plan.config, self.plan
        self.announce(
            RunStarted(
                recipe=config.run.recipe,
                seed=config.run.seed,
                directory=self.directory.path,
                steps=config.outer.steps,
                experts=config.experts.count,
                headline=self._headline(),
            )
        )
        train = plan.encode(plan.splits.train, self.session.device)
        validation = plan.encode(plan.splits.validation, self.session.device)
        with self._timed("experts"):
            experts = self._experts(train, validation)
        teachers = ExpertTeachers(plan.network, experts)
        with self._timed("distill"):
            distillation, state = self._start(experts, teachers, train)
            best = _Best()
            try:
                self._outer_loop(distillation, state, best, validation)
            except DivergedError as error:
                self._keep_diverged(distillation, state, best, error)
                raise
        assert best.learned is not None
        with self._timed("evaluate"):
            reports = self._evaluate(distillation, best, teachers, train, validation)
        storage = {
            "source_bytes": config.traj.stored_bytes(distillation.trajectories),
            "experts": experts.num_experts,
            "checkpoint_bytes": experts.num_experts
            * (experts.num_epochs + 1)
            * plan.network.num_parameters
            * plan.dtype.itemsize,
        }
        return self._write(distillation, best, reports, storage)

    def _headline(self) -> tuple[str, ...]:
        config, layout = self.plan.config, self.plan.layout
        over = " – over the strict budget" if layout.over_budget else ""
        return (
            f"recipe    {config.run.recipe}",
            f"run       {config.title()}",
            f"set       {layout.images_per_class} images per class, {layout.strict_floats:,} floats strict, "
            f"{layout.parameter_floats:,} pixels, of {config.budget.floats(layout.spec):,}{over}",
            f"writes    {self.directory.path}",
        )

    def _experts(self, train: LabelledImages, validation: LabelledImages) -> StoredExperts:
        """Experts from the cache, the missing ones trained and added to it."""
        plan, settings = self.plan, self.plan.config.experts
        index, seeds = plan.store.index(), plan.expert_seeds
        missing = [seed for seed in seeds if seed not in index]
        epochs = len(missing) * settings.epochs

        def ready(seed: int, cached: bool, accuracy: float) -> None:
            self.announce(
                ExpertReport(
                    index=seeds.index(seed),
                    count=len(seeds),
                    seed=seed,
                    cached=cached,
                    validation_accuracy=accuracy,
                    location=plan.store.folder,
                )
            )

        for seed in seeds:
            if seed in index:
                ready(seed, True, index[seed].validation_accuracy[-1])
        trained = self.session.train_experts(
            settings.training,
            train,
            validation,
            missing,
            lambda position, epoch: self.announce.tick("experts", position * settings.epochs + epoch, epochs),
        )
        for expert in trained:
            stored = plan.store.add(expert, plan.network)
            ready(expert.seed, False, stored.validation_accuracy[-1])
        return plan.store.source(seeds, plan.network, self.session.device)

    def _start(
        self, experts: StoredExperts, teachers: ExpertTeachers, train: LabelledImages
    ) -> tuple[Distillation[Any], OuterState]:
        """The outer loop's constants and its first state."""
        config, plan = self.plan.config, self.plan
        with at("traj"):
            trajectories = config.traj.prepare(experts)
        distillation = Distillation(
            param=config.param,
            labels=config.labels,
            traj=config.traj,
            augmentation=config.augment,
            session=self.session,
            trajectories=trajectories,
            layout=plan.layout,
            outer=config.outer,
            window=config.window,
            seed=config.run.seed,
        )
        with at("param"):
            params = config.param.init(plan.layout, plan.real(train), generator(config.run.seed, Stream.PARAM_INIT))
            index = torch.arange(plan.layout.num_images, device=self.session.device)
            images = config.param.decode(params, index).detach()
        with at("labels"):
            label_params = config.labels.init(
                plan.layout, images, teachers, generator(config.run.seed, Stream.LABEL_INIT)
            )
        _check_contracts(plan, params, label_params, images)
        return distillation, distillation.start(params, label_params, plan.dtype)

    def _outer_loop(
        self, distillation: Distillation[Any], state: OuterState, best: _Best, validation: LabelledImages
    ) -> None:
        """All outer steps, with a selection on the validation split now and then."""
        settings = self.plan.config.eval
        steps = distillation.outer.steps

        def select(state: OuterState) -> None:
            images, targets = distillation.decoded(state.learned)
            lr = float(state.learned.step_size)
            report = self._judge(
                "distilled",
                "validation",
                LabelledImages(images=images, targets=targets),
                validation,
                settings.small_set(lr, settings.select_epochs),
                settings.select_networks,
                self._set_floats(),
                step=state.step,
            )
            if report.mean > best.accuracy:
                best.accuracy, best.step, best.learned = report.mean, state.step, state.learned.snapshot()

        def after_step(state: OuterState, report: StepReport) -> None:
            self.announce(report)
            if state.step % settings.every == 0 or state.step == steps:
                select(state)

        select(state)
        run_steps(distillation, state, after_step)

    def _evaluate(
        self,
        distillation: Distillation[Any],
        best: _Best,
        teachers: ExpertTeachers,
        train: LabelledImages,
        validation: LabelledImages,
    ) -> list[EvaluationReport]:
        """The final table. The test split is read here, once, and after everything was chosen."""
        assert best.learned is not None
        settings, layout, splits = self.plan.config.eval, self.plan.layout, self.plan.splits
        images, targets = distillation.decoded(best.learned)
        subjects = [
            (
                "distilled",
                LabelledImages(images=images, targets=targets),
                settings.small_set(float(best.learned.step_size)),
                self._set_floats(),
                ("over the strict budget",) if layout.over_budget else (),
            ),
            *(self._baseline(labels, teachers, train, validation) for labels in ("hard", "teacher")),
            (
                "full_data",
                train,
                settings.full_set(),
                {"strict": self.plan.full_data_floats(), "pixels": self.plan.full_data_floats()},
                (),
            ),
        ]
        test = self.plan.encode(splits.test.read(), self.session.device)
        total, done = settings.networks * len(subjects), 0
        reports = []
        for name, subject, training, floats, notes in subjects:
            before = done
            reports.append(
                self._judge(
                    name,
                    "test",
                    subject,
                    test,
                    training,
                    settings.networks,
                    floats,
                    step=best.step if name == "distilled" else None,
                    notes=notes,
                    on_network=lambda n, before=before: self.announce.tick("evaluate", before + n, total),  # type: ignore[misc]
                )
            )
            done += settings.networks
        return reports

    def _baseline(
        self,
        labels: Literal["hard", "teacher"],
        teachers: ExpertTeachers,
        train: LabelledImages,
        validation: LabelledImages,
    ) -> tuple[str, LabelledImages, TrainingSettings, dict[str, int], tuple[str, ...]]:
        """Random real images at equal stored floats, their learning rate chosen on the validation split."""
        config, spec = self.plan.config, self.plan.splits.spec
        label_floats = spec.num_classes if labels == "teacher" else 0
        price = spec.num_classes * (spec.floats_per_image + config.budget.label_price(label_floats))
        budget = config.budget.floats(spec)
        per_class = max(1, budget // price)
        notes = (f"{per_class * price:,} floats exceed the budget",) if per_class * price > budget else ()
        rows = self.plan.real(train).pick(per_class, generator(config.run.seed, Stream.BASELINE))
        images, classes = train.images[rows], train.targets[rows]
        subject = LabelledImages(
            images=images,
            targets=classes if labels == "hard" else teachers.logits(images).softmax(dim=2).mean(dim=0),
        )
        pixels = len(rows) * spec.floats_per_image
        floats = {"strict": pixels + len(rows) * label_floats, "pixels": pixels}
        name = "random_real" if labels == "hard" else "random_real_teacher"
        lrs = config.eval.baseline_lrs
        chosen = lrs[0] if len(lrs) == 1 else self._best_lr(name, subject, validation, lrs, floats)
        return name, subject, config.eval.small_set(chosen), floats, notes

    def _best_lr(
        self,
        name: str,
        subject: LabelledImages,
        validation: LabelledImages,
        lrs: Sequence[float],
        floats: Mapping[str, int],
    ) -> float:
        settings = self.plan.config.eval
        found: dict[float, float] = {}
        for lr in lrs:
            training = settings.small_set(lr, settings.select_epochs)
            try:
                report = self._judge(
                    name, "validation", subject, validation, training, settings.select_networks, floats
                )
            except DivergedError:
                continue
            found[lr] = report.mean
        if not found:
            raise DivergedError(f"{name} diverges at every learning rate of eval.baseline_lrs; add a smaller one")
        return max(found, key=lambda lr: (found[lr], -lr))

    def _judge(
        self,
        subject: str,
        split: Literal["validation", "test"],
        data: LabelledImages,
        judge: LabelledImages,
        training: TrainingSettings,
        networks: int,
        floats: Mapping[str, int],
        step: int | None = None,
        notes: tuple[str, ...] = (),
        on_network: Callable[[int], None] = lambda n: None,
    ) -> EvaluationReport:
        """Trains fresh networks on a subject, judges them, tells the observers."""
        config = self.plan.config
        accuracies = self.session.evaluate(
            training,
            data,
            judge,
            config.eval.seed,
            range(networks),
            "select" if split == "validation" else "eval",
            on_network,
        )
        mean, std = mean_std(accuracies)
        report = EvaluationReport(
            subject=subject,
            split=split,
            net=config.model.name,
            n=networks,
            accuracies=accuracies,
            mean=mean,
            std=std,
            seeds=tuple(range(networks)),
            step=step,
            selected_by="validation" if subject != "full_data" else "nothing",
            lr=training.lr,
            images=len(data.images),
            floats=floats,
            notes=notes,
        )
        self.announce(report)
        return report

    def _set_floats(self) -> dict[str, int]:
        layout = self.plan.layout
        return {"strict": layout.strict_floats, "pixels": layout.parameter_floats}

    def _write(
        self,
        distillation: Distillation[Any],
        best: _Best,
        reports: Sequence[EvaluationReport],
        storage: Mapping[str, int],
    ) -> RunResult:
        """All files of a finished run; the summary last, since it says that the run is finished."""
        assert best.learned is not None
        plan, layout = self.plan, self.plan.layout
        outputs = self._write_set(distillation, best.learned, best.step, reports, storage, "finished")
        for report in reports:
            self.directory.write_json(f"eval/{report.subject}.json", results.eval_record(report))
        device = self.session.describe()
        self.directory.write_json(
            MANIFEST,
            results.manifest(
                plan,
                status="finished",
                data_sha256=split_sha256(plan.splits),
                experts=str(plan.store.folder),
                device=device,
                outputs=outputs,
                selected_step=best.step,
                test_reads=plan.splits.test.reads,
                seconds=self.seconds,
            ),
        )
        summary = {
            "schema": results.SUMMARY_SCHEMA,
            "recipe": plan.config.run.recipe,
            "seed": plan.config.run.seed,
            "rows": [results.summary_row(r) for r in reports],
            "budget": {
                "floats": plan.config.budget.floats(layout.spec),
                "accounting": plan.config.budget.accounting,
                "strict": layout.strict_floats,
                "pixels": layout.parameter_floats,
                "over_budget": layout.over_budget,
            },
            "images_per_class": layout.images_per_class,
            "selected_step": best.step,
            "selected_by": "validation",
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
        hashes = synthetic.write(self.directory.synthetic, learned.params, learned.label_params, images, targets, card)
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
        self, distillation: Distillation[Any], state: OuterState, best: _Best, error: DivergedError
    ) -> None:
        """Writes what was learned before a divergence, so that nothing is lost; there is no summary."""
        learned, step = (state.learned, error.step or 0) if state.learned.finite() else (best.learned, best.step)
        outputs = {}
        if learned is not None:
            outputs = self._write_set(distillation, learned, step, (), {}, "diverged")
        self.directory.write_json(
            MANIFEST,
            results.manifest(self.plan, status="diverged", reason=str(error), outputs=outputs, seconds=self.seconds),
        )
        self.announce(RunFinished(status="diverged", directory=self.directory.path, summary={"reason": str(error)}))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = time.monotonic() - began


def floats_in(tensors: Mapping[str, Tensor]) -> int:
    """Number of floating elements."""
    return sum(t.numel() for t in tensors.values() if t.is_floating_point())


def _check_contracts(plan: Plan, params: Params, label_params: Params, images: Tensor) -> None:
    """Refuses a parameterisation or label strategy that does not keep its word, before anything is learned.

    Raises:
        PluginError: wrong shapes, or another number of floats than announced.
    """
    config, layout = plan.config, plan.layout
    expected = (layout.num_images, *layout.spec.shape)
    if tuple(images.shape) != expected or images.dtype != plan.dtype:
        raise PluginError(
            f"param {config.param.name} decodes to {tuple(images.shape)} {images.dtype}, "
            f"its layout says {expected} {plan.dtype}"
        )
    targets = config.labels.targets(label_params, torch.arange(layout.num_images, device=images.device))
    if tuple(targets.shape) != (layout.num_images, layout.spec.num_classes):
        raise PluginError(
            f"labels {config.labels.name} gives targets {tuple(targets.shape)}, "
            f"expected {(layout.num_images, layout.spec.num_classes)}"
        )
    for what, found, announced in (
        (f"param {config.param.name}", config.param.stored_floats(params), layout.parameter_floats),
        (f"param {config.param.name}'s tensors", floats_in(params), layout.parameter_floats),
        (f"labels {config.labels.name}", floats_in(label_params), layout.label_floats),
    ):
        if found != announced:
            raise PluginError(f"{what} hold {found} floats, but the layout announced {announced}")
