"""A plan: a configuration with its data, network and layout in place, checked before anything is trained."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import frozen
from torch import nn

from ddfw.app.catalog import catalog
from ddfw.app.config import COMPONENT_TABLES, RunConfig
from ddfw.artifacts.atomic import file_sha256
from ddfw.artifacts.expert_store import ExpertStore
from ddfw.contracts.dataset import ImageSpec, RealImages, Split, Splits
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.parameterization import Layout
from ddfw.contracts.space import TrainingSpace, fit_space, space_key
from ddfw.engine.inner import Network, build_module
from ddfw.errors import OptionError
from ddfw_registry import ConfigError, Problem, Structurer

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorContext

#: Grows when the meaning of an expert store's key changes.
KEY_SCHEMA = 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@contextmanager
def at(table: str) -> Iterator[None]:
    """Turns an OptionError of a component into a problem at its place in the configuration."""
    try:
        yield
    except OptionError as error:
        path = f"{table}.{error.option}" if error.option else table
        raise ConfigError((Problem(path=path, message=str(error)),)) from error


@frozen(kw_only=True)
class Ground:
    """What training and evaluating networks needs, whatever is distilled."""

    config: RunConfig
    splits: Splits
    space: TrainingSpace
    module: nn.Module
    network: Network
    data_sha256: str

    @property
    def dtype(self) -> torch.dtype:
        """Of all floating tensors."""
        return DTYPES[self.config.run.precision]

    def encode(self, split: Split, device: torch.device) -> LabelledImages:
        """A split in training space, on a device."""
        images = self.space.encode(split.images.to(device), self.dtype)
        return LabelledImages(images=images, targets=split.labels.to(device))

    def real(self, train: LabelledImages) -> RealImages:
        """The training split as parameterisations see it."""
        return RealImages(images=train.images, labels=train.targets, num_classes=self.splits.spec.num_classes)

    def context(self) -> ExecutorContext:
        """What an executor's session needs to know."""
        from ddfw.contracts.executor import ExecutorContext

        config = self.config
        return ExecutorContext(
            model=config.model,
            module=self.module,
            augmentation=config.augment,
            loss=config.loss,
            gradient=config.gradient,
            dtype=self.dtype,
        )

    def full_data_floats(self) -> int:
        """Floats of the training split."""
        return len(self.splits.train.labels) * self.splits.spec.floats_per_image


@frozen(kw_only=True)
class Roster:
    """The experts of a run.

    Args:
        store: where they are, or will be.
        seeds: which of them.
        epochs: K.
        imported: whether they were trained elsewhere.
    """

    store: ExpertStore
    seeds: tuple[int, ...]
    epochs: int
    imported: bool = False


@frozen(kw_only=True)
class Plan(Ground):
    """What is fixed before the first expert is trained."""

    layout: Layout
    roster: Roster


def check(config: RunConfig, data_root: Path | None) -> Layout:
    """The layout, and everything that can be checked without fitting a space or looking for experts.

    Raises:
        ConfigError: options that do not fit the data, the budget or each other.
        DataError: the data set is missing or damaged.
    """
    with at("data"):
        spec = config.data.splits(data_root).spec
    with at("model"):
        build_module(config.model, spec)
    if not config.experts.store:
        _check_window(config, config.experts.epochs)
    return _layout(config, spec)


def _layout(config: RunConfig, spec: ImageSpec) -> Layout:
    with at("param"):
        return config.param.layout(spec, config.budget, config.labels.floats_per_image(spec))


def lay_ground(config: RunConfig, data_root: Path | None, space: TrainingSpace | None = None) -> Ground:
    """Loads the data and builds the network.

    Args:
        config: what to run.
        data_root: where data sets look for their files.
        space: the training space that images were learned in; None fits one to the training split.

    Raises:
        ConfigError: options that do not fit the data.
        DataError: the data set is missing or damaged.
    """
    with at("data"):
        splits = config.data.splits(data_root)
        if space is None:
            space = fit_space(config.data.space, splits.train.images, splits.max_value, config.data.zca_epsilon)
    with at("model"):
        module = build_module(config.model, splits.spec)
    return Ground(
        config=config,
        splits=splits,
        space=space,
        module=module,
        network=Network(module),
        data_sha256=sha256_of(splits.train, splits.validation),
    )


def call_roster(ground: Ground, experts_dir: Path) -> Roster:
    """The experts that a configuration asks for, trained or not.

    Raises:
        ConfigError: imported experts of other data, another training space or another network.
        DataError: no such imported store, or a damaged one.
    """
    settings = ground.config.experts
    if settings.store:
        return _named_roster(ground, experts_dir)
    key = expert_key(ground.config, ground.splits, ground.data_sha256)
    return Roster(
        store=ExpertStore(experts_dir, key, f"{ground.config.data.name}-{ground.config.model.name}"),
        seeds=tuple(range(settings.seed, settings.seed + settings.count)),
        epochs=settings.epochs,
    )


def make_plan(config: RunConfig, data_root: Path | None, experts_dir: Path) -> Plan:
    """Loads the data, builds the network and lays out the budget.

    Args:
        config: what to run.
        data_root: where data sets look for their files.
        experts_dir: the folder of expert stores.

    Raises:
        ConfigError: options that do not fit the data, the budget or each other.
        DataError: the data set is missing or damaged.
    """
    ground = lay_ground(config, data_root)
    layout = _layout(config, ground.splits.spec)
    roster = call_roster(ground, experts_dir)
    _check_window(config, roster.epochs)
    return Plan(**attrs.asdict(ground, recurse=False), layout=layout, roster=roster)


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


def _named_roster(ground: Ground, experts_dir: Path) -> Roster:
    """The experts of the store that `experts.store` names; its key has to fit the run."""
    settings = ground.config.experts
    store = ExpertStore.named(experts_dir, settings.store)
    wanted = subject_key(ground.config, ground.splits, ground.data_sha256)
    for part, words in (("data", "data"), ("space", "a training space"), ("model", "a network")):
        there, here = store.key.get(part), wanted[part]
        # The name of the data set is a name; the bytes decide.
        same = there == here
        if part == "data" and isinstance(there, dict):
            same = there.get("sha256") == here["sha256"]
        if not same:
            split = ", or another data.split_seed or data.validation" if part == "data" else ""
            message = f"{settings.store} holds experts of {words} {_short(there)}, this run has {_short(here)}{split}"
            raise ConfigError((Problem(path="experts.store", message=message),))
    seeds = tuple(sorted(store.index()))[: settings.count]
    return Roster(
        store=store, seeds=seeds, epochs=store.epochs(seeds, ground.network), imported="imported" in store.key
    )


def _short(part: object) -> str:
    """A key's part for people, long hashes cut."""
    if not isinstance(part, dict):
        return str(part)
    return "{" + ", ".join(f"{k}: {str(v)[:12] + '…' if k == 'sha256' else v}" for k, v in part.items()) + "}"


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
    table = Structurer(catalog()).unstructure(component)
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


def _check_window(config: RunConfig, epochs: int) -> None:
    high = config.traj.latest_high(epochs)
    if high < 1:
        message = f"segments of {config.traj.name} do not fit experts of {epochs} epochs; raise experts.epochs"
        raise ConfigError((Problem(path="traj", message=message),))
    if config.window.max_start > high:
        message = (
            f"segments of {config.traj.name} start before epoch {high:g} (experts have {epochs} epochs), "
            f"so this must be <= {int(high)}, got {config.window.max_start}"
        )
        raise ConfigError((Problem(path="window.max_start", message=message),))
