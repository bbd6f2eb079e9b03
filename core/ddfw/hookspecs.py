"""Every hook of ddfw: what plugins can offer, in the order in which a run asks for it.

A registration hook *offers* classes; ddfw reads their options, shows them in `ddfw list` and builds the one that a
user names. It is called at most once per process, without arguments, and only when the kind is needed: import torch
and the component inside the hook, so that `ddfw --help` and `ddfw plugins` stay fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddfw.markers import hookspec

if TYPE_CHECKING:
    from pathlib import Path

    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.command import Command
    from ddfw.contracts.dataset import AbstractDataset
    from ddfw.contracts.executor import AbstractExecutor
    from ddfw.contracts.format import Format
    from ddfw.contracts.labels import AbstractLabels
    from ddfw.contracts.matching import AbstractMatchingLoss
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.observer import AbstractObserver
    from ddfw.contracts.parameterization import AbstractParameterization
    from ddfw.contracts.trajectory import AbstractTrajectory

#: Version of the hooks and contracts; it is raised when plugins written for the version before would stop working.
HOOK_API = 2


@hookspec
def ddfw_register_commands() -> list[Command]:  # type: ignore[empty-body]
    """Called when `ddfw` lists its commands or looks one up.

    Returns:
        Commands: each a name, a summary and the import string of a `click.Command`, imported only when it is called.
    """


@hookspec
def ddfw_register_recipes() -> list[Path]:  # type: ignore[empty-body]
    """Called when recipes are looked up.

    Returns:
        Folders. Every `*.toml` in one is a recipe, every `comparisons/*.toml` below it a comparison. Two recipes that
        have the same name, or are chosen for the same settings, are refused.
    """


@hookspec
def ddfw_register_formats() -> list[Format]:  # type: ignore[empty-body]
    """Called when a learned set is exported, or read from a path that is not a run directory of ddfw.

    Returns:
        Formats: each a name, patterns of file names, and the places of a reader and a writer.
    """


@hookspec
def ddfw_register_observers() -> list[type[AbstractObserver]]:  # type: ignore[empty-body]
    """Called when a run's observers are looked up, before anything else of the run exists.

    Returns:
        Observer classes: each shows or records a run (progress, logs, trackers) and never changes it.
    """


@hookspec
def ddfw_register_executors() -> list[type[AbstractExecutor]]:  # type: ignore[empty-body]
    """Called when a run looks up its executor.

    Returns:
        Executor classes: each trains experts, computes meta-gradients and evaluates on some device or cluster.
    """


@hookspec
def ddfw_register_datasets() -> list[type[AbstractDataset]]:  # type: ignore[empty-body]
    """Called when a run looks up its data set.

    Returns:
        Data set classes: each loads labelled images as train, validation and a sealed test split.
    """


@hookspec
def ddfw_register_models() -> list[type[AbstractModel]]:  # type: ignore[empty-body]
    """Called when a run looks up its network.

    Returns:
        Model classes: each builds a network and draws its initial parameters from a given generator.
    """


@hookspec
def ddfw_register_augmentations() -> list[type[AbstractAugmentation]]:  # type: ignore[empty-body]
    """Called when a run looks up its augmentation.

    Returns:
        Augmentation classes: each changes images differentiably by random draws, which can be replayed.
    """


@hookspec
def ddfw_register_parameterizations() -> list[type[AbstractParameterization]]:  # type: ignore[empty-body]
    """Called when a run looks up how its synthetic images are stored and decoded.

    Returns:
        Parameterisation classes: each stores synthetic images as parameters and decodes them to pixels.
    """


@hookspec
def ddfw_register_labels() -> list[type[AbstractLabels]]:  # type: ignore[empty-body]
    """Called when a run looks up its label strategy.

    Returns:
        Label strategy classes: each gives the synthetic images targets (hard, learned, from a teacher, …).
    """


@hookspec
def ddfw_register_trajectories() -> list[type[AbstractTrajectory[Any]]]:  # type: ignore[empty-body]
    """Called when a run looks up its trajectory source.

    Returns:
        Trajectory source classes: each turns expert checkpoints into segments with a start and a target.
    """


@hookspec
def ddfw_register_losses() -> list[type[AbstractMatchingLoss]]:  # type: ignore[empty-body]
    """Called when a run looks up its matching loss.

    Returns:
        Matching loss classes: each measures how far a student's path is from a segment, as one number.
    """
