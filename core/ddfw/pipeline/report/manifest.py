"""manifest.json: what a run needs to be repeated bit for bit, and what it wrote."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING, Any

from ddfw.artifacts.run_seals import MANIFEST_SCHEMA
from ddfw.config.catalog import catalog, plugins
from ddfw.config.fingerprints import sha256_of
from ddfw.config.run_config import COMPONENT_TABLES

if TYPE_CHECKING:
    from ddfw.config.run_config import RunConfig
    from ddfw.pipeline.prepare import Plan


def manifest_of(plan: Plan, **facts: Any) -> dict[str, Any]:
    """manifest.json: what a run needs to be repeated bit for bit, and what it wrote."""
    return {
        "schema": MANIFEST_SCHEMA,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("ddfw", "torch", "numpy", "safetensors")},
        },
        "config_sha256": plan.run.sha256,
        "data_sha256": plan.data_sha256,
        "test_sha256": plan.splits.test.fingerprint(sha256_of),
        "machine": {"system": platform.system(), "processor": platform.machine()},
        "sources": plan.run.sources,
        "components": _components(plan.config),
        "origins": dict(plan.run.origins),
        "plugins": [{"identity": p.identity, "version": p.version} for p in plugins().plugins],
        "seeds": {
            "run": plan.config.run.seed,
            "split": plan.config.data.split_seed,
            "experts": [] if plan.config.experts.store else list(plan.expert_set.seeds),
            "eval": plan.config.eval.seed,
        },
        **facts,
    }


def _components(config: RunConfig) -> list[dict[str, str]]:
    """The components that a run uses, with the plugins that offer them; components of no plugin say so by ""."""
    used = [(kind, getattr(config, kind)) for kind in COMPONENT_TABLES]
    used += [("model", model) for model in config.cross.values()]
    used += [("observer", observer) for observer in config.observers.values()]
    found = []
    for kind, component in used:
        entry = next((e for e in catalog().entries(kind) if e.cls is type(component)), None)
        facts = {fact: getattr(entry, fact, "") for fact in ("plugin", "distribution", "version")}
        found.append({"kind": kind, "name": component.name, **facts})
    return found
