"""The table of component kinds: id (flag, config table), words for people, hook, base class."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Kind:
    """One kind of component.

    Args:
        id: what users type as a flag, and the name of the config table.
        title: the kind in words, as it stands in messages.
        hook: the hook that offers classes of this kind.
        base: import string of the contract's base class.
    """

    id: str
    title: str
    hook: str
    base: str


#: In the order in which help, lists and documents show them. Closed in HOOK_API 1.
KINDS: tuple[Kind, ...] = tuple(
    Kind(id=id_, title=title, hook=f"ddfw_register_{plural}", base=f"ddfw.contracts.{base}")
    for id_, title, plural, base in (
        ("param", "parameterisation", "parameterizations", "parameterization:AbstractParameterization"),
        ("traj", "trajectory source", "trajectories", "trajectory:AbstractTrajectory"),
        ("loss", "matching loss", "losses", "matching:AbstractMatchingLoss"),
        ("labels", "label strategy", "labels", "labels:AbstractLabels"),
        ("data", "data set", "datasets", "dataset:AbstractDataset"),
        ("model", "network", "models", "model:AbstractModel"),
        ("augment", "augmentation", "augmentations", "augmentation:AbstractAugmentation"),
        ("executor", "executor", "executors", "executor:AbstractExecutor"),
        ("observer", "observer", "observers", "observer:AbstractObserver"),
    )
)
