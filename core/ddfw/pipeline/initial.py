"""The initial state of the outer loop: trajectories, images and labels, checked against what was announced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.contracts.labels import ask_targets
from ddfw.engine.distill import Distillation, OuterState
from ddfw.engine.experts import recognised_first
from ddfw.errors import PluginError, option_errors_at
from ddfw.pipeline.prepare import Plan
from ddfw.pipeline.warm_start import WarmStart, _alike
from ddfw.randomness import Stream, generator

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorSession, LabelledImages
    from ddfw.contracts.labels import Teachers
    from ddfw.contracts.parameterization import ParamGroup, Params
    from ddfw.contracts.trajectory import ExpertSource


@frozen(kw_only=True)
class Start:
    """What all outer steps share (`distillation`), and the state before the first one."""

    distillation: Distillation[Any]
    state: OuterState


def initial_state(
    plan: Plan,
    session: ExecutorSession,
    experts: ExpertSource,
    teachers: Teachers,
    train: LabelledImages,
    warm: WarmStart | None = None,
    *,
    ranks: int = 1,
) -> Start:
    """Prepares trajectories and draws the initial set, in the plan's precision.

    Args:
        plan: the run: configuration, data, network and layout.
        session: the executor's session; its device holds all tensors.
        experts: the experts' checkpoints.
        teachers: the experts as networks that label images.
        train: the training split in training space.
        warm: the learned set to start from instead of real images, None for real images.
        ranks: number of processes that work on the run.

    Raises:
        ConfigError: options do not fit the experts.
        PluginError: a component returns other shapes, dtypes or sizes than it announced.
    """
    config = plan.config
    with option_errors_at("traj"):
        trajectories = config.traj.prepare(experts)
    distillation = Distillation(
        param=config.param,
        labels=config.labels,
        traj=config.traj,
        augmentation=config.augment,
        session=session,
        trajectories=trajectories,
        layout=plan.layout,
        outer=config.outer,
        window=config.window,
        seed=config.run.seed,
        ranks=ranks,
    )
    real = warm.images if warm is not None else plan.real(train)
    real = evolve(real, images=real.images.to(plan.dtype))
    if config.outer.images == "recognised" and warm is None:
        with option_errors_at("outer.images"):
            real = recognised_first(real, teachers, plan.layout.images_per_class)
    with option_errors_at("param"):
        params = config.param.init(plan.layout, real, generator(config.run.seed, Stream.PARAM_INIT))
        kept = warm if warm is not None and warm.fits(params) else None
        params = params if kept is None else kept.params
        index = torch.arange(plan.layout.num_images, device=session.device)
        images = config.param.decode(params, index).detach()
    _check_images(plan, images)
    with option_errors_at("labels"):
        label_params = config.labels.init(plan.layout, images, teachers, generator(config.run.seed, Stream.LABEL_INIT))
        if kept is not None and _alike(kept.label_params, label_params):
            label_params = kept.label_params
    _check_stored(plan, params, label_params, images)
    step_size = None if kept is None else kept.step_size
    return Start(distillation=distillation, state=distillation.start(params, label_params, plan.dtype, step_size))


def _check_groups(what: str, tensors: Params, groups: Sequence[ParamGroup]) -> None:
    """Refuses optimiser groups that name tensors which do not exist, or which cannot be optimised.

    Raises:
        PluginError: a group names an unknown tensor, or a tensor of integers.
    """
    there = [key for key, tensor in tensors.items() if tensor.is_floating_point()]
    for key in (key for group in groups for key in group.keys):
        if key not in there:
            raise PluginError(f"{what}: param_groups names {key!r}, but its floating tensors are {', '.join(there)}")


def count_floats(tensors: Mapping[str, Tensor]) -> int:
    """Number of elements in all floating-point tensors."""
    return sum(t.numel() for t in tensors.values() if t.is_floating_point())


def _check_images(plan: Plan, images: Tensor) -> None:
    """Refuses a parameterisation that decodes to something else than its layout says.

    Raises:
        PluginError: the decoded images have another shape or dtype.
    """
    config, layout = plan.config, plan.layout
    expected = (layout.num_images, *layout.spec.shape)
    if tuple(images.shape) != expected or images.dtype != plan.dtype:
        raise PluginError(
            f"param {config.param.name} decodes to {tuple(images.shape)} {images.dtype}, "
            f"its layout says {expected} {plan.dtype}"
        )


def _check_stored(plan: Plan, params: Params, label_params: Params, images: Tensor) -> None:
    """Refuses targets of a wrong shape or range, and tensors with another number of floats than the layout announced.

    Raises:
        PluginError: wrong shapes, another number of floats than announced, or optimiser groups of unknown tensors.
    """
    config, layout = plan.config, plan.layout
    index = torch.arange(layout.num_images, device=images.device)
    targets = ask_targets(config.labels, label_params, index, plan.dtype)
    if tuple(targets.shape) != (layout.num_images, layout.spec.num_classes):
        raise PluginError(
            f"labels {config.labels.name} gives targets {tuple(targets.shape)}, "
            f"expected {(layout.num_images, layout.spec.num_classes)}"
        )
    rows = targets.to(plan.dtype)
    if bool((rows < 0).any()) or not torch.allclose(rows.sum(dim=1), torch.ones_like(rows[:, 0]), atol=1e-3):
        raise PluginError(f"labels {config.labels.name} gives targets that are not probabilities")
    for what, found, announced in (
        (f"param {config.param.name}", config.param.stored_floats(params), layout.parameter_floats),
        (f"param {config.param.name}'s tensors", count_floats(params), layout.parameter_floats),
        (f"labels {config.labels.name}", count_floats(label_params), layout.label_floats),
    ):
        if found != announced:
            raise PluginError(f"{what} hold {found} floats, but the layout announced {announced}")
    _check_groups(f"param {config.param.name}", params, config.param.param_groups(params))
    _check_groups(f"labels {config.labels.name}", label_params, config.labels.param_groups(label_params))
