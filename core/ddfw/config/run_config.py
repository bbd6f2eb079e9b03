"""`RunConfig`: a whole run as one value; its fields are the tables of the configuration file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from ddfw.contracts.augmentation import AbstractAugmentation
from ddfw.contracts.dataset import AbstractDataset
from ddfw.contracts.executor import AbstractExecutor
from ddfw.contracts.labels import AbstractLabels
from ddfw.contracts.matching import AbstractMatchingLoss
from ddfw.contracts.model import AbstractModel
from ddfw.contracts.observer import AbstractObserver
from ddfw.contracts.parameterization import AbstractParameterization
from ddfw.contracts.settings import (
    Budget,
    EvalSettings,
    ExpertSettings,
    GradientSettings,
    OuterSettings,
    RunSettings,
    WindowSettings,
)
from ddfw.contracts.trajectory import AbstractTrajectory


def _file_names(instance: object, attribute: object, value: Mapping[str, object]) -> None:
    for key in value:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", key):
            raise ValueError(f"a network's key is part of a file's name; {key!r} cannot be")


@frozen(kw_only=True)
class RunConfig:
    """The whole configuration of a run; each field is a table of the configuration file.

    Folders (data root, run directory, expert stores) are not part of it, since they change no result.
    """

    run: RunSettings = field(factory=RunSettings)
    budget: Budget = field(factory=Budget)
    data: AbstractDataset
    experts: ExpertSettings = field(factory=ExpertSettings)
    param: AbstractParameterization
    traj: AbstractTrajectory[Any]
    loss: AbstractMatchingLoss
    labels: AbstractLabels
    model: AbstractModel
    cross: Mapping[str, AbstractModel] = field(factory=dict, validator=_file_names)
    augment: AbstractAugmentation
    executor: AbstractExecutor
    observers: Mapping[str, AbstractObserver] = field(factory=dict)
    outer: OuterSettings = field(factory=OuterSettings)
    window: WindowSettings = field(factory=WindowSettings)
    gradient: GradientSettings = field(factory=GradientSettings)
    eval: EvalSettings = field(factory=EvalSettings)

    def title(self) -> str:
        """One line with the names of the main components, the images per class and the seed."""
        parts = (self.data, self.model, self.param, self.traj, self.labels, self.loss, self.augment)
        return f"{' · '.join(p.name for p in parts)} · ipc {self.budget.ipc} · seed {self.run.seed}"


#: Tables whose value is one component; the key is the kind's id.
COMPONENT_TABLES = ("data", "param", "traj", "loss", "labels", "model", "augment", "executor")
