"""Hashes of data, components and code, by which finished work is recognised and used again."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import attrs

from ddfw.artifacts.atomic import file_sha256
from ddfw.config.catalog import catalog
from ddfw.config.run_config import COMPONENT_TABLES, RunConfig
from ddfw.contracts.dataset import Split, Splits
from ddfw.contracts.records import ForeignCode, ResolvedRun
from ddfw.contracts.space import space_key

#: Grows when the meaning of an expert store's key changes.
KEY_SCHEMA = 1


def expert_key(run: ResolvedRun[RunConfig], splits: Splits, data_sha256: str) -> dict[str, Any]:
    """The key of an expert store: everything that an expert depends on, except its seed; JSON-able.

    The number of experts and the executor are not part of it, since they do not change an expert. An arithmetic lower
    than float32 does.
    """
    config = run.config
    arithmetic = config.executor.expert_arithmetic if config.run.precision == "float32" else "float32"
    training = attrs.asdict(config.experts.training)
    if training["sharpness"] is None:
        del training["sharpness"]
    return {
        **subject_key(run, splits, data_sha256),
        "training": training,
        "augment": run.component_key("augment"),
        "precision": config.run.precision,
        # Not named where it is float32, as in keys of stores that were made before this could be told.
        **({} if arithmetic == "float32" else {"arithmetic": arithmetic}),
    }


def subject_key(run: ResolvedRun[RunConfig], splits: Splits, data_sha256: str) -> dict[str, Any]:
    """The part of an expert store's key that imported experts have too: data, training space and network; JSON-able."""
    config = run.config
    return {
        "schema": KEY_SCHEMA,
        "data": {"name": config.data.name, "sha256": data_sha256},
        "space": space_key(config.data.space, splits.max_value, config.data.zca_epsilon),
        "model": run.component_key("model"),
    }


def sha256_of(*splits: Split) -> str:
    """SHA-256 (hexadecimal) of the images and labels of splits, in the order given."""
    digest = hashlib.sha256()
    for tensor in (t for split in splits for t in (split.images, split.labels)):
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        array: Any = tensor.contiguous().numpy()
        digest.update(array)
    return digest.hexdigest()


def source_sha256(cls: type) -> str:
    """SHA-256 (hexadecimal) of the source file of a class, "" if it has none; it shows whether code was edited."""
    try:
        path = inspect.getsourcefile(cls)
    except TypeError:
        path = None
    return file_sha256(Path(path)) if path else ""


def foreign_code(config: RunConfig) -> dict[str, ForeignCode]:
    """The package and code hash of each component of a configuration that is not built in, by the id of its kind."""
    found = {}
    for kind in COMPONENT_TABLES:
        cls = type(getattr(config, kind))
        for entry in catalog().entries(kind):
            if entry.cls is cls and entry.distribution != "ddfw":
                package = f"{entry.distribution} {entry.version}"
                found[kind] = ForeignCode(package=package, sha256=source_sha256(cls))
    return found
