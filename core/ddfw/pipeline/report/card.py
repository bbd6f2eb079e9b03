"""card.json: what a learned set is, how to load it, what it costs and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ddfw.config.run_config import COMPONENT_TABLES
from ddfw.contracts.observer import EvaluationReport
from ddfw.contracts.records import Card
from ddfw.pipeline.report.citations import citations
from ddfw.pipeline.report.summary import eval_record

if TYPE_CHECKING:
    from ddfw.pipeline.prepare import Plan


def card_of(
    plan: Plan,
    step_size: float,
    selected_step: int,
    reports: Sequence[EvaluationReport],
    storage: Mapping[str, int],
    status: str,
) -> Card:
    """card.json: what the set is, how to load it, what it costs, how good it is and under which protocol."""
    config, splits, layout = plan.config, plan.splits, plan.layout
    content = {
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
        # Cards are passed on, so the path of the set that the run started from is left out; the manifest has its hash.
        "outer": {key: value for key, value in attrs.asdict(config.outer).items() if key != "init_from"},
        **({"warm_start": True} if config.outer.init_from else {}),
        "selected": {"step": selected_step, "by": "validation" if status == "finished" else "nothing"},
        "accuracies": [eval_record(r, card=True) for r in reports],
        "protocol": {**attrs.asdict(config.eval), "network": config.model.name},
        "components": {table: plan.run.tables[table] for table in COMPONENT_TABLES},
        "citations": citations(config),
        "privacy": "no privacy guarantee: synthetic images can reveal training images",
    }
    return Card(content)


def experts_record(plan: Plan) -> dict[str, Any]:
    """How the run's experts came about."""
    settings, expert_set = plan.config.experts, plan.expert_set
    record: dict[str, Any] = {
        "count": len(expert_set.seeds),
        "epochs": expert_set.epochs,
        "imported": expert_set.imported,
    }
    if settings.store:
        words = "trained elsewhere; they may have seen the validation images that selected the step"
        note = {"note": words} if expert_set.imported else {}
        return {**record, "store": settings.store, "numbers": list(expert_set.seeds), **note}
    return {**record, "seeds": list(expert_set.seeds), "training": attrs.asdict(settings.training)}
