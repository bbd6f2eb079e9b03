"""manifest.json: what a run needs to be repeated bit for bit, and what it wrote."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING, Any

from ddfw.config.catalog import plugins

if TYPE_CHECKING:
    from ddfw.pipeline.prepare import Plan


MANIFEST_SCHEMA = 1


def manifest_of(plan: Plan, **facts: Any) -> dict[str, Any]:
    """manifest.json: what a run needs to be repeated bit for bit, and what it wrote."""
    return {
        "schema": MANIFEST_SCHEMA,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("ddfw", "torch", "numpy", "safetensors")},
        },
        "machine": {"system": platform.system(), "processor": platform.machine()},
        "sources": plan.run.sources,
        "plugins": [{"identity": p.identity, "version": p.version} for p in plugins().plugins],
        "seeds": {
            "run": plan.config.run.seed,
            "split": plan.config.data.split_seed,
            "experts": [] if plan.config.experts.store else list(plan.expert_set.seeds),
            "eval": plan.config.eval.seed,
        },
        **facts,
    }
