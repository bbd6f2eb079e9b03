"""The final evaluation of a set and of the baselines beside it, by the run's own network and by those of `[cross]`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from ddfw.contracts.observer import EvaluationReport
from ddfw.engine.inner import build_module
from ddfw.errors import DivergedError, option_errors_at
from ddfw.pipeline.evaluation.baselines import Subject, asked_baselines, full_data, real_baselines, size_of

if TYPE_CHECKING:
    from ddfw.artifacts.row_cache import CachedRow
    from ddfw.contracts.executor import Crew, ExecutorContext, LabelledImages
    from ddfw.engine.experts import ExpertTeachers
    from ddfw.pipeline.evaluation.evaluator import Evaluator
    from ddfw.pipeline.evaluation.known_rows import KnownRows
    from ddfw.pipeline.prepare import Setup


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
    experts: ExpertTeachers | None,
    train: LabelledImages,
    validation: LabelledImages,
    *,
    own_budget: bool = True,
    known: KnownRows | None = None,
    crew: Crew | None = None,
) -> FinalReports:
    """Evaluates a set, the baselines of `eval.baselines` and the networks of `[cross]` on the test split.

    The test split is read here, once, after everything was chosen. A network of `[cross]` that diverges is noted and
    does not end the run: a set keeps its step size on networks that it was not learned with.

    Args:
        evaluator: for the run's own network.
        distilled: the set to evaluate.
        experts: select and label images of baselines; None if no baseline needs them.
        train: the training split in training space.
        validation: the validation split in training space, by which the baselines' learning rates are chosen.
        own_budget: whether the set was made for the configuration's budget; if not, baselines may store as many
            floats as the set does.
        known: rows of baselines that other runs measured, which are not measured again; None to measure all.
        crew: the processes that work on the run; None for this one alone.
    """
    setup, settings = evaluator.setup, evaluator.settings
    size = size_of(setup, distilled, own_budget=own_budget)
    asked = asked_baselines(settings.baselines)
    baselines = real_baselines(setup, asked, train, experts, size, crew)
    whole = [full_data(setup, train)] if any(b.selection == "all" for b in asked) else []
    own = [_Row(subject=distilled)]
    for row in _chosen(evaluator, [*baselines, *whole], validation, known):
        if isinstance(row, DivergedError):
            raise row
        own.append(row)
    contexts, others, diverged = cross_contexts(setup), dict[str, list[_Row]](), list[Mapping[str, str]]()
    for key, context in contexts.items():
        with setup.config.executor.open(context) as session:
            others[key] = [_Row(subject=distilled)]
            rows = _chosen(evaluator.on(key, session), baselines, validation, known)
            for baseline, row in zip(baselines, rows, strict=True):
                if isinstance(row, DivergedError):
                    diverged.append({"net": key, "subject": baseline.name, "reason": str(row)})
                else:
                    others[key].append(row)
    test = setup.encode(setup.splits.test.read(), evaluator.session.device)
    tick = _counting(evaluator, sum(row.cached is None for rows in (own, *others.values()) for row in rows))
    reports = list[EvaluationReport]()
    for _, report in _tested(evaluator, own, test, known, tick):
        if isinstance(report, DivergedError):
            raise report
        reports.append(report)
    cross: dict[str, tuple[EvaluationReport, ...]] = {}
    for key, context in contexts.items():
        with setup.config.executor.open(context) as session:
            for position, report in _tested(evaluator.on(key, session), others[key], test, known, tick):
                if isinstance(report, DivergedError):
                    subject = others[key][position].subject
                    diverged.append({"net": key, "subject": subject.name, "reason": str(report)})
                else:
                    cross[key] = (*cross.get(key, ()), report)
    return FinalReports(own=tuple(reports), cross=cross, diverged=tuple(diverged))


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


def _counting(evaluator: Evaluator, rows: int) -> Callable[[], None]:
    """What is called after each network of so many rows, to show how many are tested."""
    done, networks = itertools.count(1), rows * evaluator.settings.networks
    return lambda: evaluator.announce.tick("evaluate", next(done), networks)


def _chosen(
    evaluator: Evaluator, baselines: Sequence[Subject], validation: LabelledImages, known: KnownRows | None
) -> list[_Row | DivergedError]:
    """Baselines with their best learning rates, or with the figures that another run has measured."""
    rows = dict[int, _Row | DivergedError]()
    for position, baseline in enumerate(baselines):
        cached = None if known is None else known.find(evaluator.setup, baseline)
        if cached is not None or baseline.name == "full_data":
            rows[position] = _Row(subject=baseline, asked=baseline, cached=cached)
    left = [position for position in range(len(baselines)) if position not in rows]
    found = evaluator.with_best_lrs([baselines[position] for position in left], validation)
    for position, chosen in zip(left, found, strict=True):
        if isinstance(chosen, DivergedError):
            rows[position] = chosen
        else:
            rows[position] = _Row(subject=chosen, asked=baselines[position])
    return [rows[position] for position in range(len(baselines))]


def _tested(
    evaluator: Evaluator, rows: Sequence[_Row], test: LabelledImages, known: KnownRows | None, tick: Callable[[], None]
) -> Iterator[tuple[int, EvaluationReport | DivergedError]]:
    """The reports of rows in their order: measured now, and kept for other runs, or as they were measured before."""

    def found() -> Iterator[tuple[int, EvaluationReport | DivergedError]]:
        left = list[int]()
        for position, row in enumerate(rows):
            if row.cached is None:
                left.append(position)
            else:
                yield position, evaluator.known(row.subject, row.cached)
        for number, report in evaluator.measured([rows[position].subject for position in left], test, "test", tick):
            row = rows[left[number]]
            if isinstance(report, DivergedError):
                yield left[number], _named(row, report)
                continue
            if known is not None and row.asked is not None:
                known.keep(evaluator.setup, row.asked, report)
            yield left[number], report

    return evaluator.in_order(found())


def _named(row: _Row, error: DivergedError) -> DivergedError:
    """A divergence with the row's name, and the option that may mend it."""
    options = {"full_data": "eval.full_lr"}.get(row.subject.name, "eval.baseline_lrs" if row.asked else "")
    named = DivergedError(f"{row.subject.name}: {error}" + (f" ({options})" if options else ""))
    named.__cause__ = error
    return named


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
