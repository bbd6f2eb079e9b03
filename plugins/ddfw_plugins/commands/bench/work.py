"""The work of one outer step with random images and parameters, for the engine and for the plain loop.

The cost of a step does not depend on the values, so neither data nor experts are needed.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ddfw import ExecutorContext, GradientSettings, ImageSpec, Problem, Schedule, Segment, component
from ddfw.engine.inner import build_module
from ddfw_plugins.commands.bench.shapes import BenchShape
from ddfw_plugins.commands.bench.yardstick import PlainGradient, plain_meta_gradient

#: Number of classes in every shape of `ddfw bench` without a preset.
NUM_CLASSES = 10
CPU = torch.device("cpu")


@frozen(kw_only=True)
class BenchWork:
    """The work of one outer step.

    Args:
        plain: the network as a PyTorch module, for the plain loop.
        context: network, augmentation and loss, for opening an executor's session.
        problem: images, targets, step size, and the schedule of batches with the draws of the augmentation.
        segment: parameters at which the student starts, and parameters that it should reach.
    """

    plain: nn.Module
    context: ExecutorContext
    problem: Problem
    segment: Segment

    def plain_gradient(self) -> PlainGradient:
        """The meta-gradient of this work, computed by the plain loop."""
        problem, (schedule,) = self.problem, self.problem.schedules

        def augment(images: Tensor, step: int) -> Tensor:
            return self.context.augmentation.apply(images, schedule.draws[step])

        return plain_meta_gradient(
            self.plain,
            problem.images,
            problem.targets.argmax(dim=1),  # class indices, as in published loops
            problem.step_size,
            self.segment.start,
            self.segment.target,
            schedule.batches,
            augment,
        )


def bench_work(
    shape: BenchShape,
    dtype: torch.dtype = torch.float32,
    steps: int | None = None,
    memory: int | None = None,
    device: torch.device = CPU,
) -> BenchWork:
    """Random work of a given size; equal arguments give equal work.

    Args:
        shape: the size.
        dtype: dtype of all floating-point tensors.
        steps: N, the number of inner steps; None for that of the shape.
        memory: `gradient.memory` in bytes; None for "auto".
        device: device of all tensors.
    """
    rng = torch.Generator().manual_seed(0)
    spec = ImageSpec(channels=shape.channels, height=shape.side, width=shape.side, num_classes=shape.num_classes)
    model = component("model", "convnet", depth=shape.depth, width=shape.width)
    augmentation = component("augment", "dsa")
    with torch.random.fork_rng(devices=[]):
        plain = model.build(spec).train().to(device)
    module = build_module(model, spec)
    count, in_batch = shape.steps if steps is None else steps, shape.batch or shape.images
    size = (shape.images, *spec.shape)
    start = model.init(module, rng).to(dtype)
    schedule = Schedule(
        batches=tuple(torch.randperm(shape.images, generator=rng)[:in_batch].to(device) for _ in range(count)),
        draws=tuple(augmentation.draw((in_batch, *spec.shape), rng).to(device) for _ in range(count)),
    )
    problem = Problem(
        images=torch.randn(size, generator=rng, dtype=dtype).to(device),
        targets=one_hot(torch.arange(shape.images) % shape.num_classes, shape.num_classes).to(device, dtype),
        step_size=torch.tensor(0.01, dtype=dtype, device=device),
        schedules=(schedule,),
        learn_targets=False,  # as in the plain loop
    )
    target = start + 0.01 * torch.randn(start.shape, generator=rng, dtype=dtype)
    return BenchWork(
        plain=plain,
        context=ExecutorContext(
            model=model,
            module=module,
            augmentation=augmentation,
            loss=component("loss", "ratio"),
            gradient=GradientSettings(memory="auto" if memory is None else memory),
            dtype=dtype,
        ),
        problem=problem,
        segment=Segment(start=start.to(device), target=target.to(device), expert=0, start_epoch=0.0, target_epoch=2.0),
    )
