"""`ddfw.load`: what was learned, with the augmentation and the network that it was learned for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from ddfw.artifacts import exchange
from ddfw.artifacts.synthetic import SyntheticSet
from ddfw.config.catalog import from_table
from ddfw.contracts.augmentation import AbstractAugmentation
from ddfw.contracts.dataset import AbstractDataset
from ddfw.contracts.model import AbstractModel
from ddfw.errors import ConfigError, RegistryError


def load(run: str | Path) -> SyntheticSet:
    """Loads what a run learned.

    Args:
        run: the run directory, its `synthetic` folder, or what `ddfw export` wrote.

    Returns:
        Images and targets (a data set of PyTorch's too), step size, training space, augmentation, network, source data
        and card; every file is verified against the card.

    Raises:
        DataError: missing or damaged files.
    """
    learned = exchange.load_set(Path(run))
    return evolve(
        learned,
        augmentation=_component(learned, "augment", AbstractAugmentation),
        model=_component(learned, "model", AbstractModel),
        data=_component(learned, "data", AbstractDataset),
    )


def _component(learned: SyntheticSet, kind: str, base: type) -> Any:
    """A component as the card describes it, None where its plugin is not installed."""
    table = learned.card.get("components", {}).get(kind)
    try:
        return None if table is None else from_table(table, base)
    except (ConfigError, RegistryError):
        return None
