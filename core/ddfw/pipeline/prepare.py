"""Loads the data, builds the network and lays out the budget of a run, and checks that they fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs
import torch
from attrs import evolve, frozen
from torch import nn

from ddfw.artifacts.expert_store import ExpertStore
from ddfw.config.fingerprints import expert_key, sha256_of, subject_key
from ddfw.config.run_config import RunConfig
from ddfw.contracts.dataset import ImageSpec, RealImages, Split, Splits
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.parameterization import Layout
from ddfw.contracts.records import ResolvedRun
from ddfw.contracts.space import TrainingSpace, fit_space
from ddfw.engine.inner import Network, build_module
from ddfw.errors import ConfigError, ConfigProblem, DataError, option_errors_at
from ddfw.pipeline.evaluation.baselines import asked_baselines

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorContext

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@frozen(kw_only=True)
class Setup:
    """What training and evaluating networks needs: configuration, data and network.

    Args:
        run: the resolved configuration.
        splits: training, validation and test split of the data set.
        space: the training space: how images are normalised.
        module: the network as a PyTorch module.
        network: the network as a function of a flat parameter vector.
        data_sha256: hash of the training and the validation split.
    """

    run: ResolvedRun[RunConfig]
    splits: Splits
    space: TrainingSpace
    module: nn.Module
    network: Network
    data_sha256: str

    @property
    def config(self) -> RunConfig:
        """The configuration."""
        return self.run.config

    def with_config(self, config: RunConfig) -> Self:
        """This setup with another configuration, which must describe the same data and network."""
        return evolve(self, run=evolve(self.run, config=config))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all floating-point tensors, from `run.precision`."""
        return DTYPES[self.config.run.precision]

    def encode(self, split: Split, device: torch.device) -> LabelledImages:
        """A split on a device: images [n, C, H, W] in training space and precision of the run, labels [n] int64."""
        images = self.space.encode(split.images.to(device), self.dtype)
        return LabelledImages(images=images, targets=split.labels.to(device))

    def real(self, train: LabelledImages) -> RealImages:
        """The training split, as `encode` returns it, in the form that parameterisations take."""
        return RealImages(images=train.images, labels=train.targets, num_classes=self.splits.spec.num_classes)

    def context(self) -> ExecutorContext:
        """The network, augmentation, loss and precision for an executor's session."""
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
        """Number of floats in the images of the training split."""
        return len(self.splits.train.labels) * self.splits.spec.floats_per_image


@frozen(kw_only=True)
class ExpertSet:
    """The experts of a run.

    Args:
        store: the store that holds the experts, or will hold them.
        seeds: the seed of each expert.
        epochs: K, the number of epochs of each expert.
        imported: whether the experts were trained by another program.
    """

    store: ExpertStore
    seeds: Sequence[int]
    epochs: int
    imported: bool = False


@frozen(kw_only=True)
class Plan(Setup):
    """A checked run that is ready to start: its setup, the layout of the synthetic set, and its experts."""

    layout: Layout
    expert_set: ExpertSet


def fits(config: RunConfig, data_root: Path | None) -> Layout:
    """Checks that a configuration fits its data and its budget, without fitting a training space or reading experts.

    Args:
        config: the configuration to check.
        data_root: folder in which data sets look for their files.

    Returns:
        The layout of the synthetic set.

    Raises:
        ConfigError: options do not fit the data, the budget or each other.
        DataError: the data set is missing or damaged.
    """
    _require_start(config)
    with option_errors_at("data"):
        spec = config.data.splits(data_root).spec
    with option_errors_at("model"):
        build_module(config.model, spec)
    asked_baselines(config.eval.baselines)
    if not config.experts.store:
        _check_window(config, config.experts.epochs)
    return _layout(config, spec)


def _require_start(config: RunConfig) -> None:
    """Refuses a set to start from that is not there, before anything is loaded or written.

    Raises:
        DataError: nothing lies at the path that `outer.init_from` names.
    """
    start = config.outer.init_from
    if start and not Path(start).exists():
        raise DataError(
            f"{start} does not exist; outer.init_from (--init-from) takes a run's directory, an export, an images*.pt "
            "or a folder with a folder of pictures for each class"
        )


def _layout(config: RunConfig, spec: ImageSpec) -> Layout:
    with option_errors_at("param"):
        return config.param.layout(spec, config.budget, config.labels.floats_per_image(spec))


def set_up(run: ResolvedRun[RunConfig], data_root: Path | None, space: TrainingSpace | None = None) -> Setup:
    """Loads the data and builds the network.

    Args:
        run: the resolved configuration.
        data_root: folder in which data sets look for their files.
        space: a training space to use, such as that of a learned set; None fits one to the training split.

    Raises:
        ConfigError: options do not fit the data.
        DataError: the data set is missing or damaged.
    """
    config = run.config
    asked_baselines(config.eval.baselines)
    with option_errors_at("data"):
        splits = config.data.splits(data_root)
        if space is None:
            space = fit_space(config.data.space, splits.train.images, splits.max_value, config.data.zca_epsilon)
    with option_errors_at("model"):
        module = build_module(config.model, splits.spec)
    return Setup(
        run=run,
        splits=splits,
        space=space,
        module=module,
        network=Network(module),
        data_sha256=sha256_of(splits.train, splits.validation),
    )


def select_experts(setup: Setup, experts_dir: Path) -> ExpertSet:
    """The experts that a configuration asks for, whether or not they are trained yet.

    Args:
        setup: configuration, data and network.
        experts_dir: the folder of expert stores.

    Raises:
        ConfigError: the store that `experts.store` names holds experts of other data, another training space or
            another network.
        DataError: the store that `experts.store` names is missing or damaged.
    """
    settings = setup.config.experts
    if settings.store:
        return _named_roster(setup, experts_dir)
    key = expert_key(setup.run, setup.splits, setup.data_sha256)
    return ExpertSet(
        store=ExpertStore(experts_dir, key, f"{setup.config.data.name}-{setup.config.model.name}"),
        seeds=range(settings.seed, settings.seed + settings.count),
        epochs=settings.epochs,
    )


def make_plan(run: ResolvedRun[RunConfig], data_root: Path | None, experts_dir: Path) -> Plan:
    """Loads the data, builds the network and lays out the budget.

    Args:
        run: the resolved configuration.
        data_root: folder in which data sets look for their files.
        experts_dir: the folder of expert stores.

    Raises:
        ConfigError: options do not fit the data, the budget or each other.
        DataError: the data set is missing or damaged.
    """
    _require_start(run.config)
    setup = set_up(run, data_root)
    layout = _layout(run.config, setup.splits.spec)
    expert_set = select_experts(setup, experts_dir)
    _check_window(run.config, expert_set.epochs)
    return Plan(**attrs.asdict(setup, recurse=False), layout=layout, expert_set=expert_set)


def _named_roster(setup: Setup, experts_dir: Path) -> ExpertSet:
    """The experts of the store that `experts.store` names, which must be of the run's data and network."""
    settings = setup.config.experts
    store = ExpertStore.named(experts_dir, settings.store)
    wanted = subject_key(setup.run, setup.splits, setup.data_sha256)
    for part, words in (("data", "data"), ("space", "a training space"), ("model", "a network")):
        there, here = store.key.get(part), wanted[part]
        # Data sets are compared by the hash of their images and labels, not by their names.
        same = there == here
        if part == "data" and isinstance(there, dict):
            same = there.get("sha256") == here["sha256"]
        if not same:
            split = ", or another data.split_seed or data.validation" if part == "data" else ""
            message = f"{settings.store} holds experts of {words} {_short(there)}, this run has {_short(here)}{split}"
            raise ConfigError((ConfigProblem(path="experts.store", message=message),))
    seeds = tuple(sorted(store.index()))[: settings.count]
    return ExpertSet(
        store=store, seeds=seeds, epochs=store.epochs(seeds, setup.network), imported="imported" in store.key
    )


def _short(part: object) -> str:
    """A part of an expert store's key as text, with hashes shortened."""
    if not isinstance(part, dict):
        return str(part)
    return "{" + ", ".join(f"{k}: {str(v)[:12] + '…' if k == 'sha256' else v}" for k, v in part.items()) + "}"


def _check_window(config: RunConfig, epochs: int) -> None:
    high = config.traj.latest_high(epochs)
    if high < 1:
        words = f"segments of {config.traj.name} do not fit experts of {epochs} epochs"
        message = f"{words}; raise experts.epochs, or shorten the segments"
        raise ConfigError((ConfigProblem(path="traj", message=message),))
    if config.window.max_start > high:
        message = (
            f"segments of {config.traj.name} start before epoch {high:g} (experts have {epochs} epochs), "
            f"so this must be <= {int(high)}, got {config.window.max_start}"
        )
        raise ConfigError((ConfigProblem(path="window.max_start", message=message),))
