"""summary.json and eval/*.json: the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ddfw.contracts.observer import EvaluationReport

if TYPE_CHECKING:
    pass


#: Subjects in the order of the table, with the words for people.
SUBJECTS = {
    "distilled": "distilled",
    "random_real": "random real images",
    "random_real_teacher": "random real + teacher labels",
    "random_real_count": "random real, as many images",
    "random_real_teacher_count": "random real + teacher, as many",
    "kmeans_real": "k-means selection",
    "herding_real": "herding selection",
    "full_data": "full training data",
    "given": "the given set",
}


def subject_title(subject: str) -> str:
    """The words for a row of a table.

    Args:
        subject: `distilled`, `given`, or the name of a baseline; another name is its own title.
    """
    return SUBJECTS.get(subject, subject)


#: Stands with every figure of a run that --quick scaled down.
QUICK_NOTE = "quick: scaled down, not a figure of the recipe"


SUMMARY_SCHEMA = MANIFEST_SCHEMA = EVAL_SCHEMA = 1


def eval_record(report: EvaluationReport) -> dict[str, Any]:
    """One file of eval/."""
    return {
        "schema": EVAL_SCHEMA,
        "subject": report.subject,
        "net": report.net,
        "n": report.n,
        "accuracies": list(report.accuracies),
        "mean": report.mean,
        "std": report.std,
        "seeds": list(report.seeds),
        "eval_seed": report.eval_seed,
        "selected_by": report.selected_by,
        "step": report.step,
        "split": report.split,
        "lr": report.lr,
        "images": report.images,
        "floats": dict(report.floats),
        "notes": list(report.notes),
    }


def summary_row(report: EvaluationReport) -> dict[str, Any]:
    """One row of summary.json."""
    return {
        "subject": report.subject,
        "mean": report.mean,
        "std": report.std,
        "n": report.n,
        "floats": dict(report.floats),
        "images": report.images,
        "lr": report.lr,
        "notes": list(report.notes),
    }


def over_seeds(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each subject's mean and sample standard deviation over several runs' means."""
    from ddfw.engine.evaluate import mean_std

    rows = []
    for subject in SUBJECTS:
        means = [r["mean"] for s in summaries for r in s["rows"] if r["subject"] == subject]
        if means:
            mean, std = mean_std(means)
            rows.append({"subject": subject, "mean": mean, "std": std, "n": len(means), "means": means})
    return rows
