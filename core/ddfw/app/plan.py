"""A plan: a configuration with its data, network and layout in place, checked before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import frozen
from torch import Tensor, nn

from ddfw.app.config import RunConfig
from ddfw.artifacts.expert_store import ExpertStore
from ddfw.contracts.dataset import RealImages, Split, Splits, TrainingSpace
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.parameterization import Layout
from ddfw.engine.inner import Network, build_module
from ddfw.errors import OptionError
from ddfw_registry import ConfigError, Problem

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorContext

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
class Plan:
    """What is fixed before the first expert is trained."""

    config: RunConfig
    splits: Splits
    space: TrainingSpace
    module: nn.Module
    network: Network
    layout: Layout
    store: ExpertStore

    @property
    def dtype(self) -> torch.dtype:
        """Of all floating tensors."""
        return DTYPES[self.config.run.precision]

    @property
    def expert_seeds(self) -> tuple[int, ...]:
        """The seeds of the run's experts."""
        settings = self.config.experts
        return tuple(range(settings.seed, settings.seed + settings.count))

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


def make_plan(config: RunConfig, data_root: Path | None, experts_dir: Path) -> Plan:
    """Loads the data, builds the network and lays out the budget.

    Raises:
        ConfigError: options that do not fit the data, the budget or each other.
        DataError: the data set is missing or damaged.
    """
    with at("data"):
        splits = config.data.load(data_root)
    space = TrainingSpace.fit(config.data.space, splits.train.images, splits.max_value)
    with at("model"):
        module = build_module(config.model, splits.spec)
    with at("param"):
        layout = config.param.layout(splits.spec, config.budget, config.labels.floats_per_image(splits.spec))
    _check_window(config)
    key = expert_key(config, splits, space)
    return Plan(
        config=config,
        splits=splits,
        space=space,
        module=module,
        network=Network(module),
        layout=layout,
        store=ExpertStore(experts_dir, key, f"{config.data.name}-{config.model.name}"),
    )


def expert_key(config: RunConfig, splits: Splits, space: TrainingSpace) -> dict[str, Any]:
    """Everything that shapes an expert, JSON-able; its seed, the number of experts and the executor excepted."""
    return {
        "data": {"name": config.data.name, "sha256": split_sha256(splits)},
        "space": space.kind,
        "model": component_key(config.model),
        "training": attrs.asdict(config.experts.training),
        "augment": component_key(config.augment),
        "precision": config.run.precision,
    }


def split_sha256(splits: Splits) -> str:
    """A hash over training and validation images and labels; the test split is not looked at."""
    digest = hashlib.sha256()
    for tensor in (
        splits.train.images,
        splits.train.labels,
        splits.validation.images,
        splits.validation.labels,
    ):
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def component_key(component: Any) -> dict[str, Any]:
    """A component's name and options, JSON-able."""
    return {"name": component.name, **attrs.asdict(component)}


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().numpy().tobytes())


def _check_window(config: RunConfig) -> None:
    latest = config.traj.latest_start(config.experts.epochs)
    if config.window.max_start > latest + 1:
        raise ConfigError(
            (
                Problem(
                    path="window.max_start",
                    message=f"segments of {config.traj.name} start at epoch {latest:g} at the latest "
                    f"(experts have {config.experts.epochs} epochs), so this must be <= {int(latest) + 1}, "
                    f"got {config.window.max_start}",
                ),
            )
        )
