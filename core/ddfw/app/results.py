"""What a run says in the end: rows, the card, the manifest, tables for people.

Accuracies are fractions in files and percent on the screen.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ddfw.app.catalog import catalog, plugins
from ddfw.app.citations import setting_citations
from ddfw.app.config import COMPONENT_TABLES
from ddfw.app.plan import foreign_sources
from ddfw.contracts.observer import EvaluationReport
from ddfw_registry import Structurer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ddfw.app.config import RunConfig
    from ddfw.app.plan import Plan

#: Stands with every figure of a run that --quick scaled down.
QUICK_NOTE = "quick: scaled down, not a figure of the recipe"
SUMMARY_SCHEMA = MANIFEST_SCHEMA = EVAL_SCHEMA = 1

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


def card(
    plan: Plan,
    step_size: float,
    selected_step: int,
    reports: Sequence[EvaluationReport],
    storage: Mapping[str, int],
    status: str,
) -> dict[str, Any]:
    """card.json: what the set is, how to load it, what it costs, how good it is and under which protocol."""
    config, splits, layout = plan.config, plan.splits, plan.layout
    structurer = Structurer(catalog())
    return {
        "schema": 1,
        **({"quick": True} if config.run.quick else {}),
        "what": f"a synthetic training set distilled from {config.data.name}",
        "status": status,
        "load": "import ddfw; s = ddfw.load('<this folder>'); s.images, s.targets, s.step_size, s.space, s.card",
        "source_data": {
            "name": config.data.name,
            "origin": splits.source,
            "licence": splits.licence,
            "sha256": plan.data_sha256,
            "class_names": list(splits.class_names),
        },
        "images": {
            "count": layout.num_images,
            "per_class": layout.images_per_class,
            "shape": list(layout.spec.shape),
            "order": "by class",
            "augmentation": config.augment.name,
        },
        "training_space": plan.space.record(),
        "step_size": step_size,
        "floats": {
            "strict": layout.strict_floats,
            "pixels": layout.parameter_floats,
            "labels": layout.label_floats,
            "budget": config.budget.floats(layout.spec),
            "accounting": config.budget.accounting,
            "over_budget": layout.over_budget,
            "counted_in": "params.safetensors (its floating elements are the strict count)",
            "exempt": ["step size", "class order", "integer tables of params.safetensors", "training space"],
        },
        "trajectories": dict(storage),
        "experts": experts_record(plan),
        # Where a set to start from lay is nobody else's business; what it was stands in the manifest.
        "outer": {key: value for key, value in attrs.asdict(config.outer).items() if key != "init_from"},
        **({"warm_start": True} if config.outer.init_from else {}),
        "selected": {"step": selected_step, "by": "validation" if status == "finished" else "nothing"},
        "accuracies": [eval_record(r) for r in reports],
        "protocol": {**attrs.asdict(config.eval), "network": config.model.name},
        "components": {table: structurer.unstructure(getattr(config, table)) for table in COMPONENT_TABLES},
        "citations": citations(config),
        "privacy": "no privacy guarantee: synthetic images can reveal training images",
    }


def experts_record(plan: Plan) -> dict[str, Any]:
    """How the run's experts came about."""
    settings, roster = plan.config.experts, plan.roster
    record: dict[str, Any] = {"count": len(roster.seeds), "epochs": roster.epochs, "imported": roster.imported}
    if settings.store:
        words = "trained elsewhere; they may have seen the validation images that selected the step"
        note = {"note": words} if roster.imported else {}
        return {**record, "store": settings.store, "numbers": list(roster.seeds), **note}
    return {**record, "seeds": list(roster.seeds), "training": attrs.asdict(settings.training)}


def citations(config: RunConfig) -> list[str]:
    """The BibTeX entries of the run's components and of settings that come from a paper, each once."""
    found = [getattr(config, table).citation for table in COMPONENT_TABLES]
    found += setting_citations(config)
    return list(dict.fromkeys(c for c in found if c))


def manifest(plan: Plan, **facts: Any) -> dict[str, Any]:
    """manifest.json: what a run needs to be repeated bit for bit, and what it wrote."""
    return {
        "schema": MANIFEST_SCHEMA,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("ddfw", "torch", "numpy", "safetensors")},
        },
        "machine": {"system": platform.system(), "processor": platform.machine()},
        "sources": foreign_sources(plan.config),
        "plugins": [{"identity": p.identity, "version": p.version} for p in plugins().plugins],
        "seeds": {
            "run": plan.config.run.seed,
            "split": plan.config.data.split_seed,
            "experts": [] if plan.config.experts.store else list(plan.roster.seeds),
            "eval": plan.config.eval.seed,
        },
        **facts,
    }


def table(summary: Mapping[str, Any]) -> RenderableType:
    """The summary as rich renders it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("trained on", no_wrap=True)
    for column in ("test accuracy", "n", "images", "floats", "with labels"):
        grid.add_column(column, justify="right", no_wrap=True)
    marks: dict[str, str] = {}
    for row in summary["rows"]:
        notes = [note for note in row["notes"] if note != QUICK_NOTE]  # a line of its own says that
        mark = "".join(marks.setdefault(note, "*" * (len(marks) + 1)) for note in notes)
        grid.add_row(
            SUBJECTS.get(row["subject"], row["subject"]),
            f"{percent(row['mean'])} ± {percent(row['std'])} %",
            str(row["n"]),
            f"{row['images']:,}",
            f"{row['floats']['pixels']:,}",
            f"{row['floats']['strict']:,}{mark}",
            style="bold" if row["subject"] == "distilled" else "",
        )
    budget = summary["budget"]
    seconds = summary["seconds"]
    facts = [
        *(f"{mark} {note}" for note, mark in marks.items()),
        f"budget {budget['floats']:,} floats ({budget['accounting']}); distilled stores {budget['strict']:,} strict, "
        f"{budget['pixels']:,} pixels",
        f"step {summary['selected_step']} was selected on the validation split; the test split was read once",
        *(
            ["no outer step did better on the validation split than the initial set, which is what was kept"]
            if summary["selected_step"] == 0 and summary.get("outer_steps", 0)
            else []
        ),
        "seconds: " + ", ".join(f"{stage} {value:.1f}" for stage, value in seconds.items()),
    ]
    facts += [
        f"{d['net']} could not be trained on {SUBJECTS.get(d['subject'], d['subject'])}: {d['reason']}"
        for d in summary.get("cross_diverged", [])
    ]
    if summary.get("quick"):
        facts.append("a quick run: scaled down by --quick, its figures are not those of its recipe")
    across = [cross_table(summary["cross"]), Text("")] if summary.get("cross") else []
    return Group(grid, Text(""), *across, *(Text(f) for f in facts))


def cross_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Test accuracy of other architectures, a column each."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("other networks", no_wrap=True)
    nets = list(dict.fromkeys(row["net"] for row in rows))
    for net in nets:
        grid.add_column(net, justify="right", no_wrap=True)
    for subject in dict.fromkeys(row["subject"] for row in rows):
        cells = {
            row["net"]: f"{percent(row['mean'])} ± {percent(row['std'])} %" for row in rows if row["subject"] == subject
        }
        style = "bold" if subject == "distilled" else ""
        grid.add_row(SUBJECTS.get(subject, subject), *(cells.get(net, "–") for net in nets), style=style)
    return grid


def seeds_table(summaries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Mean and standard deviation over run seeds, of each subject's mean."""
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("over run seeds", no_wrap=True)
    grid.add_column("mean ± std", justify="right", no_wrap=True)
    grid.add_column("n", justify="right")
    grid.add_column("each")
    for row in over_seeds(summaries):
        grid.add_row(
            SUBJECTS.get(row["subject"], row["subject"]),
            f"{percent(row['mean'])} ± {percent(row['std'])} %",
            str(row["n"]),
            ", ".join(percent(m) for m in row["means"]),
        )
    return grid


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


def percent(fraction: float) -> str:
    """A fraction as percent with one decimal."""
    return f"{100 * fraction:.1f}"
