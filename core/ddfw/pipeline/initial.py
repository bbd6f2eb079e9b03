"""The initial state of the outer loop: trajectories, images and labels, checked against what was announced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.contracts.labels import ask_targets
from ddfw.contracts.watch import broken
from ddfw.engine.distill import Distillation, OuterState, with_grad
from ddfw.engine.experts import recognised_first
from ddfw.errors import option_errors_at
from ddfw.pipeline.prepare import Plan
from ddfw.pipeline.warm_start import WarmStart, same_form
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
        num_parameters=plan.network.num_parameters,
        dtype=plan.dtype,
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
        if kept is not None and same_form(kept.label_params, label_params):
            label_params = kept.label_params
    _check_stored(plan, params, label_params, images)
    step_size = None if kept is None else kept.step_size
    return Start(distillation=distillation, state=distillation.start(params, label_params, plan.dtype, step_size))


def _check_groups(component: Any, tensors: Params, groups: Sequence[ParamGroup]) -> None:
    """Refuses optimiser groups that name tensors which do not exist, or which cannot be optimised.

    Raises:
        PluginError: a group names an unknown tensor, or a tensor of integers.
    """
    there = [key for key, tensor in tensors.items() if tensor.is_floating_point()]
    for key in (key for group in groups for key in group.keys):
        if key not in there:
            words = f"param_groups names {key!r}, but its floating tensors are {', '.join(there) or 'none'}"
            raise broken(component, "param_groups", words)


def count_floats(tensors: Mapping[str, Tensor]) -> int:
    """Number of elements in all floating-point tensors."""
    return sum(t.numel() for t in tensors.values() if t.is_floating_point())


def _check_images(plan: Plan, images: Tensor) -> None:
    """Refuses a parameterisation that decodes to something else than its layout says.

    Raises:
        PluginError: the decoded images have another shape or dtype.
    """
    expected = (plan.layout.num_images, *plan.layout.spec.shape)
    if tuple(images.shape) != expected or images.dtype != plan.dtype:
        came = f"{tuple(images.shape)} {images.dtype}"
        raise broken(plan.config.param, "decode", f"decodes to {came}, its layout says {expected} {plan.dtype}")


def _check_stored(plan: Plan, params: Params, label_params: Params, images: Tensor) -> None:
    """Refuses targets of a wrong shape or range, and tensors with another number of floats than the layout announced.

    Raises:
        PluginError: wrong shapes, another number of floats than announced, optimiser groups of unknown tensors, or
            targets that do not depend on the tensors that are to be learned.
    """
    param, labels, layout = plan.config.param, plan.config.labels, plan.layout
    index = torch.arange(layout.num_images, device=images.device)
    leaves = with_grad(label_params)
    with torch.enable_grad():
        targets = ask_targets(labels, leaves, index, plan.dtype)
    if tuple(targets.shape) != (layout.num_images, layout.spec.num_classes):
        expected = (layout.num_images, layout.spec.num_classes)
        raise broken(labels, "targets", f"gives targets {tuple(targets.shape)}, expected {expected}")
    rows = targets.detach().to(plan.dtype)
    if bool((rows < 0).any()) or not torch.allclose(rows.sum(dim=1), torch.ones_like(rows[:, 0]), atol=1e-3):
        raise broken(labels, "targets", "gives targets that are not probabilities")
    for component, method, found, announced in (
        (param, "stored_floats", param.stored_floats(params), layout.parameter_floats),
        (param, "init", count_floats(params), layout.parameter_floats),
        (labels, "init", count_floats(label_params), layout.label_floats),
    ):
        if found != announced:
            raise broken(component, method, f"its tensors hold {found} floats, but the layout announced {announced}")
    groups = labels.param_groups(label_params)
    _check_groups(param, params, param.param_groups(params))
    _check_groups(labels, label_params, groups)
    if any(group.keys for group in groups) and not targets.requires_grad:
        words = "the targets do not depend on the parameters (detached?), although param_groups names some to learn"
        raise broken(labels, "targets", words)
