"""The work that is measured: one outer step's inner problem, in three sizes, with random images and parameters.

What a step costs does not depend on the values, so neither data nor experts are needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ddfw.config.catalog import component
from ddfw.contracts.augmentation import AbstractAugmentation
from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.executor import ExecutorContext, Problem, Schedule
from ddfw.contracts.model import AbstractModel
from ddfw.contracts.settings import GradientSettings
from ddfw.contracts.trajectory import Segment
from ddfw.engine.inner import build_module
from ddfw_plugins.commands.bench import yardstick


@frozen(kw_only=True)
class Shape:
    """A size of work.

    Args:
        name: as it is asked for.
        title: for people.
        depth: D, blocks of the ConvNet.
        width: W, its channels.
        side: rows and columns of the images.
        channels: C.
        images: how many synthetic images, all of them in each inner step.
        steps: N.
    """

    name: str
    title: str
    depth: int
    width: int
    side: int
    channels: int
    images: int
    steps: int


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="digits",
            title="digits, ipc 1: ConvNet 2×32, 10 images 8×8, N = 20",
            **dict(depth=2, width=32, side=8, channels=1, images=10, steps=20),
        ),
        Shape(
            name="cifar-ipc1",
            title="CIFAR-10, ipc 1: ConvNet 3×128, 10 images 32×32, N = 20",
            **dict(depth=3, width=128, side=32, channels=3, images=10, steps=20),
        ),
        Shape(
            name="cifar-ipc10",
            title="CIFAR-10, ipc 10: ConvNet 3×128, 100 images 32×32, N = 10",
            **dict(depth=3, width=128, side=32, channels=3, images=100, steps=10),
        ),
    )
}
#: Classes of every shape.
CLASSES = 10


@frozen(kw_only=True)
class Work:
    """One outer step, for the engine and for the yardstick alike.

    Args:
        model: the ConvNet.
        augmentation: DSA, with the same draws on both sides.
        plain: the network as PyTorch builds it, for the yardstick.
        context: what an executor's session needs.
        problem: images, targets, step size, schedule.
        segment: where the student starts and should land.
    """

    model: AbstractModel
    augmentation: AbstractAugmentation
    plain: nn.Module
    context: ExecutorContext
    problem: Problem
    segment: Segment

    def to(self, device: torch.device) -> Work:
        """The same on a device."""
        problem, segment = self.problem, self.segment
        schedules = tuple(
            Schedule(
                batches=tuple(batch.to(device) for batch in schedule.batches),
                draws=tuple(draws.to(device) for draws in schedule.draws),
            )
            for schedule in problem.schedules
        )
        return evolve(
            self,
            plain=self.plain.to(device),
            problem=evolve(
                problem,
                images=problem.images.to(device),
                targets=problem.targets.to(device),
                step_size=problem.step_size.to(device),
                schedules=schedules,
            ),
            segment=evolve(segment, start=segment.start.to(device), target=segment.target.to(device)),
        )

    def yardstick(self) -> Callable[[], yardstick.Found]:
        """The plain loop on this work."""
        problem, (schedule,) = self.problem, self.problem.schedules
        labels = problem.targets.argmax(dim=1)  # as the public loops have them

        def augment(images: Tensor, number: int) -> Tensor:
            return self.augmentation.apply(images, schedule.draws[number])

        return lambda: yardstick.meta_gradient(
            self.plain,
            problem.images,
            labels,
            problem.step_size,
            self.segment.start,
            self.segment.target,
            schedule.batches,
            augment,
        )


def work(shape: Shape, dtype: torch.dtype = torch.float32, steps: int | None = None, memory: int | None = None) -> Work:
    """Random work of a shape; the same for every call.

    Args:
        shape: its size.
        dtype: of all floating tensors.
        steps: N in place of the shape's.
        memory: `gradient.memory` in bytes; None for "auto".
    """
    rng = torch.Generator().manual_seed(0)
    spec = ImageSpec(channels=shape.channels, height=shape.side, width=shape.side, num_classes=CLASSES)
    model = component("model", "convnet", depth=shape.depth, width=shape.width)
    augmentation = component("augment", "dsa")
    with torch.random.fork_rng(devices=[]):
        plain = model.build(spec).train()
    module = build_module(model, spec)
    size, count = (shape.images, *spec.shape), shape.steps if steps is None else steps
    start = model.init(module, rng).to(dtype)
    labels = torch.arange(shape.images) % CLASSES
    schedule = Schedule(
        batches=tuple(torch.randperm(shape.images, generator=rng) for _ in range(count)),
        draws=tuple(augmentation.draw(size, rng) for _ in range(count)),
    )
    return Work(
        model=model,
        augmentation=augmentation,
        plain=plain,
        context=ExecutorContext(
            model=model,
            module=module,
            augmentation=augmentation,
            loss=component("loss", "ratio"),
            gradient=GradientSettings(memory="auto" if memory is None else memory),
            dtype=dtype,
        ),
        problem=Problem(
            images=torch.randn(size, generator=rng, dtype=dtype),
            targets=one_hot(labels, CLASSES).to(dtype),
            step_size=torch.tensor(0.01, dtype=dtype),
            schedules=(schedule,),
            learn_targets=False,  # as in the plain loop
        ),
        segment=Segment(
            start=start,
            target=start + 0.01 * torch.randn(start.shape, generator=rng, dtype=dtype),
            expert=0,
            start_epoch=0.0,
            target_epoch=2.0,
        ),
    )
