"""Refuses a run whose options ask for more memory than its machine has, before memory is taken for them.

Every figure is the least that the run will hold, so that nothing is refused that could have run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import frozen

from ddfw.contracts.trajectory import AbstractTrajectory
from ddfw.engine.sizes import size_text, total_memory
from ddfw.errors import config_error

if TYPE_CHECKING:
    import torch

    from ddfw.pipeline.prepare import Plan, Setup

#: Bytes of an item of Python, or of a small tensor, in a list.
ITEM, SMALL_TENSOR = 32, 500


@frozen(kw_only=True)
class Need:
    """The least memory that one option makes a run hold.

    Args:
        option: the option's path in the configuration.
        value: its value.
        size: bytes.
        what: what takes them, in words.
    """

    option: str
    value: int
    size: int
    what: str


def require_room_for_experts(setup: Setup, device: torch.device) -> None:
    """Refuses experts that do not fit into a device's memory while they are trained.

    Raises:
        ConfigError: they do not; the option is named.
    """
    _require(_experts(setup), device)


def require_room_for_run(plan: Plan, device: torch.device) -> None:
    """Refuses a run that does not fit into a device's memory.

    Raises:
        ConfigError: it does not; the option is named.
    """
    _require((*(() if plan.config.experts.store else _experts(plan)), *_distillation(plan), *_evaluation(plan)), device)


def _require(needs: Iterator[Need] | tuple[Need, ...], device: torch.device) -> None:
    room = total_memory(device)
    if room is None:
        return
    # What an option takes follows from others, too; the largest value is to blame.
    worst = max((need for need in needs if need.size > room), key=lambda need: need.value, default=None)
    if worst is not None:
        raise config_error(
            worst.option,
            f"{worst.value} takes at least {size_text(worst.size)} of memory for {worst.what}, and there are "
            f"{size_text(room)} in all; lower it",
        )


def _experts(setup: Setup) -> Iterator[Need]:
    settings, theta = setup.config.experts, setup.network.num_parameters * setup.dtype.itemsize
    kept = "an expert's checkpoints, one after each epoch"
    yield Need(option="experts.epochs", value=settings.epochs, size=(settings.epochs + 1) * theta, what=kept)
    yield Need(option="experts.count", value=settings.count, size=settings.count * ITEM, what="the experts' seeds")


def _distillation(plan: Plan) -> Iterator[Need]:
    config, layout = plan.config, plan.layout
    theta, floats = plan.network.num_parameters * plan.dtype.itemsize, layout.spec.floats_per_image
    steps, segments = config.outer.syn_steps, config.outer.segments_per_step
    images = layout.num_images * floats * plan.dtype.itemsize
    stored = f"{layout.num_images} learned images"
    yield Need(option="budget.ipc", value=config.budget.ipc, size=images, what=stored)
    batch = min(config.outer.batch_syn or layout.num_images, layout.num_images)
    step = SMALL_TENSOR + batch * 8
    yield Need(
        option="outer.syn_steps", value=steps, size=steps * (theta + segments * step), what="the steps of a student"
    )
    yield Need(
        option="outer.segments_per_step",
        value=segments,
        size=segments * (theta + steps * step),
        what="the segments of an outer step",
    )
    if type(config.traj).compact is not AbstractTrajectory.compact:
        number = len(plan.expert_set.seeds)
        yield Need(option="experts.count", value=number, size=number * 2 * theta, what="the experts' trajectories")


def _evaluation(plan: Plan) -> Iterator[Need]:
    settings, shown = plan.config.eval, len(plan.splits.test)
    yield Need(
        option="eval.networks", value=settings.networks, size=settings.networks * shown * 8, what="their predictions"
    )
    looked = len(plan.splits.validation.labels)
    yield Need(
        option="eval.select_networks",
        value=settings.select_networks,
        size=settings.select_networks * looked * 8,
        what="their predictions",
    )
