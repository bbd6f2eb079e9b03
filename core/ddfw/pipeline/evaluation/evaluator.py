"""Fresh networks on subjects: selection on the validation split, the final table on test, other architectures too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from attrs import evolve, frozen

from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.observer import EvaluationReport
from ddfw.contracts.records import QUICK_NOTE
from ddfw.contracts.settings import EvalSettings
from ddfw.engine.evaluate import mean_std
from ddfw.engine.inner import build_module
from ddfw.errors import DivergedError, option_errors_at
from ddfw.pipeline.evaluation.baselines import Subject, asked_baselines, full_data, real_baseline, size_of
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Setup

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorContext, ExecutorSession
    from ddfw.contracts.labels import Teachers


@frozen(kw_only=True)
class Evaluator:
    """Trains networks of one architecture on subjects.

    Args:
        setup: configuration and data.
        session: of the architecture.
        announce: hears every report.
        net: the architecture's name.
    """

    setup: Setup
    session: ExecutorSession
    announce: Announcer
    net: str

    @property
    def settings(self) -> EvalSettings:
        """`[eval]`."""
        return self.setup.config.eval

    def select(self, subject: Subject, validation: LabelledImages) -> EvaluationReport:
        """A quick look at the validation split."""
        return self._evaluate(subject, validation, "validation", self.settings.select_networks, lambda n: None)

    def test(self, subject: Subject, test: LabelledImages, on_network: Callable[[int], None]) -> EvaluationReport:
        """The figure that is reported."""
        return self._evaluate(subject, test, "test", self.settings.networks, on_network)

    def with_best_lr(self, subject: Subject, validation: LabelledImages) -> Subject:
        """The subject with the learning rate that does best on the validation split; ties go to the smaller one."""
        rates = sorted(self.settings.baseline_lrs)
        if len(rates) == 1:
            return evolve(subject, lr=rates[0], selected_by="nothing")
        best, accuracy = None, -1.0
        for lr in rates:
            candidate = evolve(subject, lr=lr, selected_by="validation")
            try:
                found = self.select(candidate, validation).mean
            except DivergedError:
                continue
            if found > accuracy:
                best, accuracy = candidate, found
        if best is None:
            raise DivergedError(f"{subject.name} diverges at every rate of eval.baseline_lrs; add a smaller one")
        return best

    def _evaluate(
        self,
        subject: Subject,
        test: LabelledImages,
        split: Literal["validation", "test"],
        networks: int,
        on_network: Callable[[int], None],
    ) -> EvaluationReport:
        settings = self.settings
        if subject.name == "full_data":
            training = evolve(settings.full_set(), lr=subject.lr)
        else:
            training = settings.small_set(subject.lr, settings.select_epochs if split == "validation" else None)
        accuracies = self.session.evaluate(
            training,
            subject.data,
            test,
            settings.seed,
            range(networks),
            "select" if split == "validation" else "eval",
            on_network,
        )
        mean, std = mean_std(accuracies)
        report = EvaluationReport(
            subject=subject.name,
            split=split,
            net=self.net,
            n=networks,
            accuracies=accuracies,
            mean=mean,
            std=std,
            seeds=tuple(range(networks)),
            eval_seed=settings.seed,
            step=subject.step,
            selected_by=subject.selected_by,
            lr=training.lr,
            images=len(subject.data.images),
            floats=subject.floats,
            notes=tuple(dict.fromkeys((*subject.notes, *((QUICK_NOTE,) if self.setup.config.run.quick else ())))),
        )
        self.announce(report)
        return report


@frozen(kw_only=True)
class FinalReports:
    """The reports of a final evaluation.

    Args:
        own: of the run's own network.
        cross: of each network of `[cross]`, by key.
        diverged: what could not be trained on another network: {net, subject, reason} each.
    """

    own: tuple[EvaluationReport, ...]
    cross: Mapping[str, tuple[EvaluationReport, ...]]
    diverged: tuple[Mapping[str, str], ...] = ()

    @property
    def across(self) -> tuple[EvaluationReport, ...]:
        """The reports of all networks of `[cross]`."""
        return tuple(report for reports in self.cross.values() for report in reports)


def final(
    evaluator: Evaluator,
    distilled: Subject,
    teachers: Teachers | None,
    train: LabelledImages,
    validation: LabelledImages,
    *,
    own_budget: bool = True,
) -> FinalReports:
    """The final tables. The test split is read here, once, after everything was chosen.

    A set keeps its step size on networks that it was not learned with, so that one may diverge on it; that is a finding
    and no end of the run.

    Args:
        evaluator: of the run's own network.
        distilled: what is judged.
        teachers: label real images where `eval.baselines` asks for it.
        train: the training split in training space.
        validation: chooses the baselines' learning rates.
        own_budget: whether the set was made for the budget of the configuration; baselines get the floats that the
            set stores if it was not.
    """
    setup, settings = evaluator.setup, evaluator.settings
    size = size_of(setup, distilled, own_budget=own_budget)
    asked = asked_baselines(settings.baselines)
    baselines = [real_baseline(setup, b, train, teachers, size) for b in asked if b.selection != "all"]
    subjects = [distilled, *(evaluator.with_best_lr(b, validation) for b in baselines)]
    if any(b.selection == "all" for b in asked):
        subjects.append(full_data(setup, train))
    contexts, chosen, diverged = cross_contexts(setup), dict[str, list[Subject]](), list[Mapping[str, str]]()
    for key, context in contexts.items():
        with setup.config.executor.open(context) as session:
            other = evolve(evaluator, session=session, net=key)
            chosen[key] = [distilled]
            for baseline in baselines:
                with _noting(diverged, key, baseline):
                    chosen[key].append(other.with_best_lr(baseline, validation))
    test = setup.encode(setup.splits.test.read(), evaluator.session.device)
    total = settings.networks * (len(subjects) + sum(map(len, chosen.values())))
    done = settings.networks * len(subjects)
    own = tuple(_tested(evaluator, subject, test, n * settings.networks, total) for n, subject in enumerate(subjects))
    cross: dict[str, tuple[EvaluationReport, ...]] = {}
    for key, context in contexts.items():
        with setup.config.executor.open(context) as session:
            other = evolve(evaluator, session=session, net=key)
            for subject in chosen[key]:
                with _noting(diverged, key, subject):
                    cross[key] = (*cross.get(key, ()), _tested(other, subject, test, done, total))
                done += settings.networks
    return FinalReports(own=own, cross=cross, diverged=tuple(diverged))


@contextmanager
def _noting(diverged: list[Mapping[str, str]], net: str, subject: Subject) -> Iterator[None]:
    try:
        yield
    except DivergedError as error:
        diverged.append({"net": net, "subject": subject.name, "reason": str(error)})


def _tested(evaluator: Evaluator, subject: Subject, test: LabelledImages, before: int, total: int) -> EvaluationReport:
    return evaluator.test(subject, test, lambda done: evaluator.announce.tick("evaluate", before + done, total))


def cross_contexts(setup: Setup) -> dict[str, ExecutorContext]:
    """What sessions of the architectures of `[cross]` need, by key.

    Raises:
        ConfigError: an architecture that does not fit the images.
    """
    found = {}
    for key, model in setup.config.cross.items():
        with option_errors_at(f"cross.{key}"):
            module = build_module(model, setup.splits.spec)
        found[key] = evolve(setup.context(), model=model, module=module)
    return found
