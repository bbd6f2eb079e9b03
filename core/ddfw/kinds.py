"""The kinds of components: for each its flag and configuration table, its name in messages, hook and base class."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Kind:
    """One kind of component.

    Args:
        id: name of the flag and of the configuration table, such as `param`.
        title: the kind's name in messages, such as "parameterisation".
        hook: name of the hook by which plugins offer classes of this kind.
        base: import string `module:class` of the kind's base class.
    """

    id: str
    title: str
    hook: str
    base: str


#: All kinds, in the order in which help, lists and documents show them. Plugins cannot add kinds.
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
