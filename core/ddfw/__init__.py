"""ddfw: dataset distillation with every method a plugin.

Everything public is here by name and loaded on first use, so that `from ddfw import hookimpl` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ddfw.hookspecs import HOOK_API
from ddfw.markers import hookimpl

if TYPE_CHECKING:
    from ddfw.artifacts.synthetic import SyntheticSet as SyntheticSet
    from ddfw.contracts.augmentation import AbstractAugmentation as AbstractAugmentation
    from ddfw.contracts.augmentation import Draws as Draws
    from ddfw.contracts.dataset import AbstractDataset as AbstractDataset
    from ddfw.contracts.dataset import ImageSpec as ImageSpec
    from ddfw.contracts.dataset import RealImages as RealImages
    from ddfw.contracts.dataset import Split as Split
    from ddfw.contracts.dataset import Splits as Splits
    from ddfw.contracts.executor import AbstractExecutor as AbstractExecutor
    from ddfw.contracts.executor import Crew as Crew
    from ddfw.contracts.executor import EvalSettings as EvalSettings
    from ddfw.contracts.executor import ExecutorContext as ExecutorContext
    from ddfw.contracts.executor import ExpertSettings as ExpertSettings
    from ddfw.contracts.executor import GradientSettings as GradientSettings
    from ddfw.contracts.executor import LabelledImages as LabelledImages
    from ddfw.contracts.executor import MetaGradient as MetaGradient
    from ddfw.contracts.executor import Problem as Problem
    from ddfw.contracts.executor import TrainingSettings as TrainingSettings
    from ddfw.contracts.extensions import Command as Command
    from ddfw.contracts.extensions import Format as Format
    from ddfw.contracts.labels import AbstractLabels as AbstractLabels
    from ddfw.contracts.labels import Teachers as Teachers
    from ddfw.contracts.matching import AbstractMatchingLoss as AbstractMatchingLoss
    from ddfw.contracts.model import AbstractModel as AbstractModel
    from ddfw.contracts.observer import AbstractObserver as AbstractObserver
    from ddfw.contracts.observer import ObserverSession as ObserverSession
    from ddfw.contracts.parameterization import AbstractParameterization as AbstractParameterization
    from ddfw.contracts.parameterization import Budget as Budget
    from ddfw.contracts.parameterization import Layout as Layout
    from ddfw.contracts.parameterization import ParamGroup as ParamGroup
    from ddfw.contracts.space import TrainingSpace as TrainingSpace
    from ddfw.contracts.trajectory import AbstractTrajectory as AbstractTrajectory
    from ddfw.contracts.trajectory import CompactExpert as CompactExpert
    from ddfw.contracts.trajectory import ExpertSource as ExpertSource
    from ddfw.contracts.trajectory import Segment as Segment
    from ddfw.engine.distill import OuterSettings as OuterSettings
    from ddfw.engine.distill import WindowSettings as WindowSettings
    from ddfw.errors import DataError as DataError
    from ddfw.errors import DdfwError as DdfwError
    from ddfw.errors import DivergedError as DivergedError
    from ddfw.errors import OptionError as OptionError
    from ddfw.options import option as option
    from ddfw.options import required_option as required_option
    from ddfw.pipeline.evaluation.any_set import evaluate as evaluate
    from ddfw.pipeline.loading import load as load
    from ddfw.pipeline.runner import distill as distill
    from ddfw.pipeline.runner import plan as plan
    from ddfw.randomness import Stream as Stream
    from ddfw.randomness import generator as generator

_HOME = {
    "pipeline.runner": ("distill", "plan"),
    "pipeline.loading": ("load",),
    "pipeline.evaluation.any_set": ("evaluate",),
    "artifacts.synthetic": ("SyntheticSet",),
    "contracts.augmentation": ("AbstractAugmentation", "Draws"),
    "contracts.dataset": ("AbstractDataset", "ImageSpec", "RealImages", "Split", "Splits"),
    "contracts.executor": (
        *("AbstractExecutor", "EvalSettings", "ExpertSettings", "GradientSettings"),
        *("Crew", "ExecutorContext", "LabelledImages", "MetaGradient", "Problem", "TrainingSettings"),
    ),
    "contracts.extensions": ("Command", "Format"),
    "contracts.labels": ("AbstractLabels", "Teachers"),
    "contracts.matching": ("AbstractMatchingLoss",),
    "contracts.model": ("AbstractModel",),
    "contracts.observer": ("AbstractObserver", "ObserverSession"),
    "contracts.parameterization": ("AbstractParameterization", "Budget", "Layout", "ParamGroup"),
    "contracts.space": ("TrainingSpace",),
    "contracts.trajectory": ("AbstractTrajectory", "CompactExpert", "ExpertSource", "Segment"),
    "engine.distill": ("OuterSettings", "WindowSettings"),
    "errors": ("DataError", "DdfwError", "DivergedError", "OptionError"),
    "options": ("option", "required_option"),
    "randomness": ("Stream", "generator"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["HOOK_API", "hookimpl", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ddfw' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ddfw.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
