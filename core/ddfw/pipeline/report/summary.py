"""summary.json and eval/*.json: the figures of a run. Accuracies are fractions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ddfw.contracts.observer import EvaluationReport
from ddfw.contracts.records import StoredFloats, Summary, SummaryRow
from ddfw.pipeline.evaluation.baselines import BASELINES

if TYPE_CHECKING:
    from ddfw.pipeline.evaluation.final import FinalReports
    from ddfw.pipeline.prepare import Plan
    from ddfw.pipeline.resume import Best

EVAL_SCHEMA = 1
#: The facts of a file of eval/ in their order.
_EVAL_ORDER = (
    *("subject", "net", "n", "accuracies", "mean", "std", "seeds", "eval_seed"),
    *("selected_by", "step", "split", "lr", "images", "floats", "notes"),
)
#: Facts that a file of eval/ holds where there are some, and a card never.
_OF_THE_RUN = ("source", "confusion")
#: What is evaluated beside baselines, with the words for it in tables.
_OTHERS = {"distilled": "distilled", "given": "the given set"}


def subject_title(subject: str) -> str:
    """The title of a row in a table of results.

    Args:
        subject: the set of the row: `distilled`, `given`, or the name of a baseline. Another name is returned as it is.
    """
    return BASELINES[subject].title if subject in BASELINES else _OTHERS.get(subject, subject)


def eval_record(report: EvaluationReport, *, card: bool = False) -> dict[str, Any]:
    """The content of one file of eval/, JSON-able.

    Args:
        report: what was measured.
        card: leave out what is no part of a card, which is passed on: the path of another run, and the matrix.
    """
    facts = {name: getattr(report, name) for name in _EVAL_ORDER}
    facts |= {name: value for name in _OF_THE_RUN if not card and (value := getattr(report, name))}
    return {"schema": EVAL_SCHEMA, **{k: list(v) if isinstance(v, tuple) else v for k, v in facts.items()}}


def _rows(reports: Iterable[EvaluationReport], *, across: bool = False) -> tuple[SummaryRow, ...]:
    names = [f.name for f in attrs.fields(SummaryRow) if f.name != "net" or across]
    return tuple(SummaryRow(**{name: getattr(report, name) for name in names}) for report in reports)


def summary_of(
    plan: Plan,
    final: FinalReports,
    best: Best,
    *,
    skipped: int,
    storage: Mapping[str, int],
    seconds: Mapping[str, float],
    device: Mapping[str, Any],
    test_reads: int,
    extended_from: tuple[int, ...],
) -> Summary:
    """The summary of a run that was evaluated.

    Args:
        plan: the run.
        final: what the evaluation found.
        best: the step that was kept.
        skipped: outer steps that changed nothing.
        storage: bytes of trajectories and number of experts.
        seconds: of each stage.
        device: what the executor says of it.
        test_reads: how often the test split was read.
        extended_from: the outer steps from which the run was extended.
    """
    assert best.learned is not None
    config, layout = plan.config, plan.layout
    return Summary(
        recipe=config.run.recipe,
        seed=config.run.seed,
        rows=_rows(final.own),
        cross=_rows(final.across, across=True),
        cross_diverged=final.diverged,
        quick=config.run.quick,
        budget=StoredFloats(
            floats=config.budget.floats(layout.spec),
            accounting=config.budget.accounting,
            strict=layout.strict_floats,
            pixels=layout.parameter_floats,
            over_budget=layout.over_budget,
        ),
        images_per_class=layout.images_per_class,
        outer_steps=config.outer.steps,
        selected_step=best.step,
        selected_by="validation",
        selected_accuracy=best.accuracy,
        skipped_steps=skipped,
        step_size=float(best.learned.step_size),
        trajectories=dict(storage),
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        device=device,
        test_reads=test_reads,
        extended_from=extended_from,
    )


def over_seeds(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """For each subject, mean and sample standard deviation over several runs' means, JSON-able."""
    from ddfw.engine.evaluate import mean_std  # it imports torch, and tables of finished runs need none

    rows = []
    for subject in ("distilled", *BASELINES, "given"):
        means = [row.mean for summary in summaries for row in summary.rows if row.subject == subject]
        if means:
            mean, std = mean_std(means)
            rows.append({"subject": subject, "mean": mean, "std": std, "n": len(means), "means": means})
    return rows
