"""Trains fresh networks on a set and measures their accuracy: on the validation split to select, on test to report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from attrs import evolve, frozen

from ddfw.contracts.executor import Evaluated, LabelledImages, ask_classes
from ddfw.contracts.observer import EvaluationReport
from ddfw.contracts.records import QUICK_NOTE
from ddfw.contracts.settings import EvalSettings
from ddfw.engine.evaluate import confusion as confusion_counts
from ddfw.engine.evaluate import mean_std
from ddfw.engine.inner import build_module
from ddfw.errors import DivergedError, PluginError, option_errors_at
from ddfw.pipeline.evaluation.baselines import Subject, asked_baselines, full_data, real_baseline, size_of
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Setup

if TYPE_CHECKING:
    from ddfw.artifacts.row_cache import CachedRow
    from ddfw.contracts.executor import ExecutorContext, ExecutorSession
    from ddfw.contracts.labels import Teachers
    from ddfw.pipeline.evaluation.known_rows import KnownRows


@frozen(kw_only=True)
class Evaluator:
    """Trains networks of one architecture on sets of images and measures their accuracy.

    Args:
        setup: configuration and data.
        session: an opened executor for this architecture.
        announce: passes every report on to the observers.
        net: the architecture's name in reports.
    """

    setup: Setup
    session: ExecutorSession
    announce: Announcer
    net: str

    @property
    def settings(self) -> EvalSettings:
        """The settings table `[eval]`."""
        return self.setup.config.eval

    def select(self, subject: Subject, validation: LabelledImages) -> EvaluationReport:
        """Accuracy on the validation split of `eval.select_networks` networks trained on the set."""
        return self._evaluate(subject, validation, "validation", self.settings.select_networks, lambda n: None)

    def test(self, subject: Subject, test: LabelledImages, on_network: Callable[[int], None]) -> EvaluationReport:
        """Accuracy on the test split of `eval.networks` networks trained on the set.

        Args:
            subject: the set.
            test: the test split in training space.
            on_network: called with the number of finished networks.
        """
        return self._evaluate(subject, test, "test", self.settings.networks, on_network)

    def known(self, subject: Subject, row: CachedRow) -> EvaluationReport:
        """The report of a set whose test accuracy another run has measured.

        Args:
            subject: the set.
            row: what that run measured.
        """
        subject = evolve(subject, selected_by="validation" if row.selected_by == "validation" else "nothing")
        return self._reported(subject, "test", row.accuracies, row.lr, source=row.run)

    def on(self, net: str, session: ExecutorSession) -> Evaluator:
        """An evaluator for the network of `[cross]` that stands there under the key `net`."""
        config = self.setup.config
        setup = self.setup.with_config(evolve(config, model=config.cross[net]))
        return evolve(self, setup=setup, session=session, net=net)

    def with_best_lr(self, subject: Subject, validation: LabelledImages) -> Subject:
        """The set with the learning rate of `eval.baseline_lrs` that does best on the validation split.

        Of two rates that do equally well the smaller one is taken.

        Raises:
            DivergedError: training diverges at every rate.
        """
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
        arguments = (training, subject.data, test, settings.seed, range(networks))
        if split == "test" and subject.is_learned:
            found = ask_classes(self.session, *arguments, "eval", on_network)
        else:
            purpose: Literal["select", "eval"] = "select" if split == "validation" else "eval"
            found = Evaluated(accuracies=self.session.evaluate(*arguments, purpose, on_network))
        return self._reported(subject, split, found.accuracies, training.lr, confusion=self._confusion(found, test))

    def _reported(
        self,
        subject: Subject,
        split: Literal["validation", "test"],
        accuracies: tuple[float, ...],
        lr: float,
        *,
        confusion: tuple[tuple[int, ...], ...] | None = None,
        source: str = "",
    ) -> EvaluationReport:
        """Makes a report and passes it on to the observers."""
        settings, networks = self.settings, len(accuracies)
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
            lr=lr,
            images=len(subject.data.images),
            floats=subject.floats,
            notes=tuple(dict.fromkeys((*subject.notes, *((QUICK_NOTE,) if self.setup.config.run.quick else ())))),
            source=source,
            confusion=confusion,
        )
        self.announce(report)
        return report

    def _confusion(self, found: Evaluated, test: LabelledImages) -> tuple[tuple[int, ...], ...] | None:
        """The confusion matrix, None where the session gave no classes.

        Raises:
            PluginError: the session gave something that is no class for each image.
        """
        if found.predicted is None:
            return None
        try:
            return confusion_counts(found.predicted, test.targets, self.setup.splits.spec.num_classes)
        except ValueError as error:
            name = self.setup.config.executor.name
            raise PluginError(f"executor {name} predicts no classes for {len(test.targets)} images: {error}") from error


@frozen(kw_only=True)
class FinalReports:
    """The reports of a final evaluation.

    Args:
        own: reports for the run's own network, the evaluated set first, then the baselines.
        cross: reports for each network of `[cross]`, by its key there.
        diverged: {net, subject, reason} of each set on which another network could not be trained.
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
    known: KnownRows | None = None,
) -> FinalReports:
    """Evaluates a set, the baselines of `eval.baselines` and the networks of `[cross]` on the test split.

    The test split is read here, once, after everything was chosen. A network of `[cross]` that diverges is noted and
    does not end the run: a set keeps its step size on networks that it was not learned with.

    Args:
        evaluator: for the run's own network.
        distilled: the set to evaluate.
        teachers: give the labels of baselines with teacher labels; None if there is no such baseline.
        train: the training split in training space.
        validation: the validation split in training space, by which the baselines' learning rates are chosen.
        own_budget: whether the set was made for the configuration's budget; if not, baselines may store as many
            floats as the set does.
        known: rows of baselines that other runs measured, which are not measured again; None to measure all.
    """
    setup, settings = evaluator.setup, evaluator.settings
    size = size_of(setup, distilled, own_budget=own_budget)
    asked = asked_baselines(settings.baselines)
    baselines = [real_baseline(setup, b, train, teachers, size) for b in asked if b.selection != "all"]
    whole = [full_data(setup, train)] if any(b.selection == "all" for b in asked) else []
    own = [_Row(subject=distilled), *(_chosen(evaluator, b, validation, known) for b in (*baselines, *whole))]
    contexts, others, diverged = cross_contexts(setup), dict[str, list[_Row]](), list[Mapping[str, str]]()
    for key, context in contexts.items():
        with setup.config.executor.open(context) as session:
            other = evaluator.on(key, session)
            others[key] = [_Row(subject=distilled)]
            for baseline in baselines:
                with _noting(diverged, key, baseline):
                    others[key].append(_chosen(other, baseline, validation, known))
    test = setup.encode(setup.splits.test.read(), evaluator.session.device)
    rows = [*own, *(row for some in others.values() for row in some)]
    counter = _Counter(evaluator.announce, settings.networks * sum(row.cached is None for row in rows))
    reports = tuple(_tested(evaluator, row, test, known, counter) for row in own)
    cross: dict[str, tuple[EvaluationReport, ...]] = {}
    for key, context in contexts.items():
        with setup.config.executor.open(context) as session:
            other = evaluator.on(key, session)
            for row in others[key]:
                with _noting(diverged, key, row.subject):
                    cross[key] = (*cross.get(key, ()), _tested(other, row, test, known, counter))
    return FinalReports(own=reports, cross=cross, diverged=tuple(diverged))


@frozen(kw_only=True)
class _Row:
    """A set that is going to be tested.

    Args:
        subject: the set, with the learning rate that was chosen for it.
        asked: the same before a learning rate was chosen: what a row is found again by; None for a learned set.
        cached: its figures, if another run has measured them.
    """

    subject: Subject
    asked: Subject | None = None
    cached: CachedRow | None = None


class _Counter:
    """Shows how many networks of all rows are tested."""

    def __init__(self, announce: Announcer, total: int) -> None:
        self._announce, self._total, self._before = announce, total, 0

    def row(self, networks: int) -> Callable[[int], None]:
        """What a row of so many networks is told by."""
        before, self._before = self._before, self._before + networks
        return lambda done: self._announce.tick("evaluate", before + done, self._total)


def _chosen(evaluator: Evaluator, baseline: Subject, validation: LabelledImages, known: KnownRows | None) -> _Row:
    """A baseline with its best learning rate, or with the figures that another run has measured."""
    cached = None if known is None else known.find(evaluator.setup, baseline)
    if cached is not None:
        return _Row(subject=baseline, asked=baseline, cached=cached)
    whole = baseline.name == "full_data"
    return _Row(subject=baseline if whole else evaluator.with_best_lr(baseline, validation), asked=baseline)


@contextmanager
def _noting(diverged: list[Mapping[str, str]], net: str, subject: Subject) -> Iterator[None]:
    try:
        yield
    except DivergedError as error:
        diverged.append({"net": net, "subject": subject.name, "reason": str(error)})


def _tested(
    evaluator: Evaluator, row: _Row, test: LabelledImages, known: KnownRows | None, counter: _Counter
) -> EvaluationReport:
    """The report of one row: measured now, and kept for other runs, or as it was measured before."""
    if row.cached is not None:
        return evaluator.known(row.subject, row.cached)
    try:
        report = evaluator.test(row.subject, test, counter.row(evaluator.settings.networks))
    except DivergedError as error:
        options = {"full_data": "eval.full_lr"}.get(row.subject.name, "eval.baseline_lrs" if row.asked else "")
        raise DivergedError(f"{row.subject.name}: {error}" + (f" ({options})" if options else "")) from error
    if known is not None and row.asked is not None:
        known.keep(evaluator.setup, row.asked, report)
    return report


def cross_contexts(setup: Setup) -> dict[str, ExecutorContext]:
    """What an executor needs to open a session for each network of `[cross]`, by its key there.

    Raises:
        ConfigError: an architecture that does not fit the images.
    """
    found = {}
    for key, model in setup.config.cross.items():
        with option_errors_at(f"cross.{key}"):
            module = build_module(model, setup.splits.spec)
        found[key] = evolve(setup.context(), model=model, module=module)
    return found
