"""Trains fresh networks on a set and measures their accuracy: on the validation split to select, on test to report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from attrs import evolve, frozen

from ddfw.contracts.evaluation import EvaluationTask, ask_sets
from ddfw.contracts.executor import Evaluated, LabelledImages
from ddfw.contracts.observer import EvaluationReport
from ddfw.contracts.records import QUICK_NOTE
from ddfw.contracts.settings import EvalSettings
from ddfw.engine.evaluate import confusion as confusion_counts
from ddfw.engine.evaluate import mean_std
from ddfw.errors import DivergedError, PluginError
from ddfw.pipeline.evaluation.baselines import Subject
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Setup

if TYPE_CHECKING:
    from ddfw.artifacts.row_cache import CachedRow
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.contracts.settings import TrainingSettings


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
        ((_, report),) = self.measured([subject], validation, "validation")
        return self.announced(report)

    def test(self, subject: Subject, test: LabelledImages) -> EvaluationReport:
        """Accuracy on the test split of `eval.networks` networks trained on the set."""
        ((_, report),) = self.measured([subject], test, "test")
        return self.announced(report)

    def known(self, subject: Subject, row: CachedRow) -> EvaluationReport:
        """The report of a set whose test accuracy another run has measured, not announced yet.

        Args:
            subject: the set.
            row: what that run measured.
        """
        subject = evolve(subject, selected_by="validation" if row.selected_by == "validation" else "nothing")
        return self._report(subject, "test", row.accuracies, row.lr, source=row.run)

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
        (found,) = self.with_best_lrs([subject], validation)
        if isinstance(found, DivergedError):
            raise found
        return found

    def with_best_lrs(self, subjects: Sequence[Subject], validation: LabelledImages) -> list[Subject | DivergedError]:
        """As `with_best_lr` for several sets, whose networks are all trained independently of each other.

        Returns:
            For each set what `with_best_lr` would return or raise.
        """
        rates = sorted(self.settings.baseline_lrs)
        if len(rates) == 1:
            return [evolve(subject, lr=rates[0], selected_by="nothing") for subject in subjects]
        candidates = [evolve(s, lr=lr, selected_by="validation") for s in subjects for lr in rates]
        reports = dict(self.in_order(self.measured(candidates, validation, "validation")))
        found = list[Subject | DivergedError]()
        for number, subject in enumerate(subjects):
            own = range(number * len(rates), (number + 1) * len(rates))
            means = {i: report.mean for i in own if isinstance(report := reports[i], EvaluationReport)}
            if means:
                # Of equal ones the first, which has the smallest rate.
                found.append(candidates[max(means, key=lambda i: means[i])])
            else:
                words = f"{subject.name} diverges at every rate of eval.baseline_lrs; add a smaller one"
                found.append(DivergedError(words))
        return found

    def measured(
        self,
        subjects: Sequence[Subject],
        judged: LabelledImages,
        split: Literal["validation", "test"],
        on_network: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, EvaluationReport | DivergedError]]:
        """Trains networks on sets and measures them; the positions and reports of sets come as they are measured.

        Args:
            subjects: the sets.
            judged: the images on which accuracy is measured, in training space.
            split: which ones they are.
            on_network: called after each network.
        """
        purpose: Literal["select", "eval"] = "select" if split == "validation" else "eval"
        tasks = [
            EvaluationTask(
                settings=self._training(subject, split),
                train=subject.data,
                test=judged,
                networks=range(self.settings.select_networks if split == "validation" else self.settings.networks),
                purpose=purpose,
                classes=split == "test" and subject.is_learned,
            )
            for subject in subjects
        ]
        for position, found in ask_sets(self.session, tasks, self.settings.seed, lambda position, done: on_network()):
            if isinstance(found, DivergedError):
                yield position, found
                continue
            lr, confusion = tasks[position].settings.lr, self._confusion(found, judged)
            yield position, self._report(subjects[position], split, found.accuracies, lr, confusion=confusion)

    def in_order(
        self, measured: Iterator[tuple[int, EvaluationReport | DivergedError]]
    ) -> Iterator[tuple[int, EvaluationReport | DivergedError]]:
        """Brings what comes as it is measured into the order of positions, and announces reports in that order."""
        early, following = dict[int, EvaluationReport | DivergedError](), 0
        for position, found in measured:
            early[position] = found
            while following in early:
                report = early.pop(following)
                if isinstance(report, EvaluationReport):
                    self.announce(report)
                yield following, report
                following += 1

    def announced(self, found: EvaluationReport | DivergedError) -> EvaluationReport:
        """Passes a report on to the observers and returns it.

        Raises:
            DivergedError: there is none, since a network diverged.
        """
        if isinstance(found, DivergedError):
            raise found
        self.announce(found)
        return found

    def _training(self, subject: Subject, split: Literal["validation", "test"]) -> TrainingSettings:
        if subject.name == "full_data":
            return evolve(self.settings.full_set(), lr=subject.lr)
        return self.settings.small_set(subject.lr, self.settings.select_epochs if split == "validation" else None)

    def _report(
        self,
        subject: Subject,
        split: Literal["validation", "test"],
        accuracies: tuple[float, ...],
        lr: float,
        *,
        confusion: tuple[tuple[int, ...], ...] | None = None,
        source: str = "",
    ) -> EvaluationReport:
        """What observers are told of a set."""
        settings, networks = self.settings, len(accuracies)
        mean, std = mean_std(accuracies)
        return EvaluationReport(
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
