"""Fingerprints: hashes of data, of components and of their code, by which equal work is found again."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ddfw.artifacts.atomic import file_sha256
from ddfw.config.catalog import as_table, catalog
from ddfw.config.run_config import COMPONENT_TABLES, RunConfig
from ddfw.contracts.dataset import Split, Splits
from ddfw.contracts.space import space_key

if TYPE_CHECKING:
    pass


#: Grows when the meaning of an expert store's key changes.
KEY_SCHEMA = 1


def expert_key(config: RunConfig, splits: Splits, data_sha256: str) -> dict[str, Any]:
    """Everything that shapes an expert, JSON-able; its seed, the number of experts and the executor excepted."""
    training = attrs.asdict(config.experts.training)
    if training["sharpness"] is None:
        del training["sharpness"]
    return {
        **subject_key(config, splits, data_sha256),
        "training": training,
        "augment": component_key("augment", config.augment),
        "precision": config.run.precision,
    }


def subject_key(config: RunConfig, splits: Splits, data_sha256: str) -> dict[str, Any]:
    """What experts are networks of, and on what: the part of their key that imported ones have too."""
    return {
        "schema": KEY_SCHEMA,
        "data": {"name": config.data.name, "sha256": data_sha256},
        "space": space_key(config.data.space, splits.max_value, config.data.zca_epsilon),
        "model": component_key("model", config.model),
    }


def sha256_of(*splits: Split) -> str:
    """A hash over the images and labels of splits, in their order."""
    digest = hashlib.sha256()
    for tensor in (t for split in splits for t in (split.images, split.labels)):
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        array: Any = tensor.contiguous().numpy()
        digest.update(array)
    return digest.hexdigest()


def component_key(kind: str, component: Any) -> dict[str, Any]:
    """A component's name and options, and where it comes from unless it is built in; JSON-able."""
    table = as_table(component)
    for entry in catalog().entries(kind):
        if entry.cls is type(component) and entry.distribution != "ddfw":
            table["from"] = f"{entry.distribution} {entry.version}"
            table["source"] = source_sha256(entry.cls)
    return table


def source_sha256(cls: type) -> str:
    """A hash of the file that a class is written in, "" where there is none: edited code is other code."""
    try:
        path = inspect.getsourcefile(cls)
    except TypeError:
        path = None
    return file_sha256(Path(path)) if path else ""


def foreign_sources(config: RunConfig) -> dict[str, str]:
    """For each component that is not built in, the hash of its code."""
    keys = {kind: component_key(kind, getattr(config, kind)) for kind in COMPONENT_TABLES}
    return {kind: str(key["source"]) for kind, key in keys.items() if "source" in key}
