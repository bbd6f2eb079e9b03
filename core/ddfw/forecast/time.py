"""How long a run will take, extrapolated from short measurements on random data of the run's shapes.

Every duration is a pair [2] (float64): seconds by the clock on the wall, and seconds that this process's threads spent
on processors. Any executor's session will do: only methods of the contract are called.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve
from torch import Tensor

from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.records import Baseline
from ddfw.engine.distill import batch_sizes
from ddfw.forecast.memory import (
    MEASURED_STEPS,
    expected_hold,
    image_work,
    largest_batch,
    measured_batch,
    sample_problem,
)
from ddfw.forecast.workers import SideBySide
from ddfw.pipeline.evaluation.baselines import asked_baselines
from ddfw.pipeline.evaluation.final import cross_contexts

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.pipeline.prepare import Plan

    #: The duration of training a network and judging it: (images, epochs, images per step, judged images).
    NetworkDuration = Callable[[int, int, int, int], Tensor]

#: A call is repeated until so many seconds are over, on the wall or on processors, and at most so often.
ENOUGH_S, MOST_REPEATS = torch.tensor([2.0, 0.25]), 20
#: Networks are timed on this many images, and on as many as a step of about so many seconds allows.
FEW_IMAGES, LONG_STEP_S = 16, 0.5
#: Floating-point operations for so few images, on a processor; fewer images are timed where they take more.
FEW_WORK = 4e9
#: Learning rate of networks that are only timed: too small to diverge.
_LR = 1e-6


class CostClock:
    """Reads the time that has gone by: on the wall, and on processors."""

    def read(self) -> Tensor:
        """Both in seconds [2]; only differences mean something."""
        return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


def duration_of(clock: CostClock, work: Callable[[], object]) -> Tensor:
    """The duration [2] of a call that has been warmed up: the median of several, or that of a single long one."""
    durations, spent = list[Tensor](), torch.zeros(2)
    while len(durations) < MOST_REPEATS and bool((spent < ENOUGH_S).all()):
        began = clock.read()
        work()
        durations.append(clock.read() - began)
        spent = spent + durations[-1]
    return torch.stack(durations).median(dim=0).values


def predicted_times(plan: Plan, session: ExecutorSession, missing: int, clock: CostClock) -> dict[str, Any]:
    """`seconds` and `cpu_seconds` of a forecast, by stage and in total, and how many `workers` share the work.

    Args:
        plan: what was configured.
        session: of its executor, which opens further ones: of other networks, and one that holds no step graphs.
        missing: experts that have to be trained.
        clock: tells how long each measurement took.
    """
    config, settings, splits, own = plan.config, plan.config.eval, plan.splits, plan.layout.num_images
    train, validation, test = len(splits.train.labels), len(splits.validation.labels), len(splits.test)
    once, outer = _outer_step(plan, session, clock)
    networks = [_network(plan, session, clock)]
    for context in cross_contexts(plan).values():
        with config.executor.open(context) as other:
            networks.append(_network(plan, other, clock))

    side_by_side = SideBySide.of(session, config.executor)
    epochs, passes = config.experts.epochs, 2 if config.experts.optimiser == "gsam" else 1
    experts = missing * networks[0](train, passes * epochs, config.experts.batch_size, epochs * validation)
    experts = side_by_side.shared(experts, missing)
    batch, select_epochs = settings.batch_size, settings.select_epochs or settings.epochs
    selections = 1 + -(-config.outer.steps // settings.every)  # before the first step, now and then, after the last
    selecting = selections * settings.select_networks * networks[0](own, select_epochs, batch, validation)
    selecting = side_by_side.shared(selecting, settings.select_networks, times=selections)
    distill = once + config.outer.steps * outer + selecting
    asked = asked_baselines(settings.baselines)
    baselines = [num_baseline_images(plan, baseline) for baseline in asked if baseline.selection != "all"]
    tried = settings.select_networks * (len(settings.baseline_lrs) if len(settings.baseline_lrs) > 1 else 0)
    evaluate = torch.zeros(2, dtype=torch.float64)
    for network in networks:
        for images in (own, *baselines):
            evaluate += settings.networks * network(images, settings.epochs, batch, test)
        for images in baselines:
            evaluate += tried * network(images, select_epochs, batch, validation)
    if any(baseline.selection == "all" for baseline in asked):
        evaluate += settings.networks * networks[0](train, settings.full_epochs, batch, test)
    sets = len(networks) * (1 + len(baselines)) + ("full_data" in settings.baselines)
    evaluate = side_by_side.shared(evaluate, sets * settings.networks)
    if any(baseline.compared_by == "features" for baseline in asked):
        evaluate += networks[0](0, 0, batch, train)  # an expert sees every training image once, in this process
    stages = {"experts": experts, "distill": distill, "evaluate": evaluate, "total": experts + distill + evaluate}
    by_clock, on_processors = (
        {stage: round(float(duration[column]), 3) for stage, duration in stages.items()} for column in (0, 1)
    )
    return {"seconds": by_clock, "cpu_seconds": on_processors, "workers": side_by_side.used}


def num_baseline_images(plan: Plan, baseline: Baseline) -> int:
    """How many real images a baseline gets, which is what the evaluation will train its networks on."""
    spec, budget, learned = plan.splits.spec, plan.config.budget, plan.layout.images_per_class
    return spec.num_classes * baseline.images_per_class(spec, budget, budget.floats(spec), learned)


def _outer_step(plan: Plan, session: ExecutorSession, clock: CostClock) -> tuple[Tensor, Tensor]:
    """Durations [2] of compiling or capturing, once in a run for each size of a batch, and of one outer step."""
    outer, described = plan.config.outer, session.describe()
    made = bool(described.get("compiled") or described.get("graphs"))
    sizes = len(set(batch_sizes(plan.layout.num_images, outer.batch_syn, outer.syn_steps)))
    largest = largest_batch(plan)
    warm_up, fixed, step = _student(plan, session, clock)
    held, _ = expected_hold(plan, session)
    if 0 < held < outer.syn_steps:
        with plan.config.executor.open(evolve(plan.context(), held_steps=0)) as without:
            _, _, recomputed = _student(plan, without, clock)
        step = (held * step + (outer.syn_steps - held) * recomputed) / outer.syn_steps
    # Steps are timed on the largest batch; the last batch of a set may be smaller.
    return made * sizes * warm_up, outer.segments_per_step * (fixed + images_seen(plan) / largest * step)


def images_seen(plan: Plan) -> int:
    """How many images a student's N steps see in all."""
    n, wanted, steps = plan.layout.num_images, plan.config.outer.batch_syn, plan.config.outer.syn_steps
    rounds, rest = divmod(steps, -(-n // (wanted or n)))
    return rounds * n + sum(batch_sizes(n, wanted, rest))


def _student(plan: Plan, session: ExecutorSession, clock: CostClock) -> tuple[Tensor, Tensor, Tensor]:
    """Durations [2] of a first student, of a later one without its steps, and of an inner step, there and back."""
    many, batch = min(MEASURED_STEPS, plan.config.outer.syn_steps), measured_batch(plan, session.device)
    larger = largest_batch(plan) / batch

    def student(steps: int) -> Callable[[], float]:
        problem, segment = sample_problem(plan, steps, session.device, batch)
        # Reading the loss waits for a device that works on its own.
        return lambda: float(session.meta_gradient(problem, [segment]).loss)

    began = clock.read()
    student(many)()  # the longer one first: a session decides on its first problem how many graphs it holds
    warm_up, longer = clock.read() - began, duration_of(clock, student(many))
    if many == 1:
        return warm_up, torch.zeros(2, dtype=torch.float64), larger * longer
    step = ((longer - duration_of(clock, student(1))) / (many - 1)).clamp(min=0)
    return warm_up, (longer - many * step).clamp(min=0), larger * step


def _network(plan: Plan, session: ExecutorSession, clock: CostClock) -> NetworkDuration:
    """How long networks take: so much each, for an epoch, a step, an image in a step, and an image that is judged."""
    settings, spec, train = plan.config.eval, plan.splits.spec, len(plan.splits.train.labels)
    batch = min(max(settings.batch_size, plan.config.experts.batch_size), train)

    def random(count: int) -> LabelledImages:
        images = torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(count))
        labels = torch.arange(count) % spec.num_classes
        return LabelledImages(images=images.to(session.device, plan.dtype), targets=labels.to(session.device))

    def network(images: int, epochs: int, batch_size: int, judged: int) -> Callable[[], object]:
        training = evolve(settings.small_set(_LR, epochs), batch_size=batch_size)
        data = random(images), random(judged)
        return lambda: session.evaluate(training, *data, settings.seed, range(1), "select", lambda done: None)

    few = min(FEW_IMAGES, max(1, batch // 2))
    if session.device.type == "cpu":
        few = max(1, min(few, int(FEW_WORK / max(1, image_work(plan)))))
    network(few, 1, few, 1)()  # untimed: the first call loads and allocates
    one = duration_of(clock, network(few, 1, few, 1))
    affordable = int(few * LONG_STEP_S / max(float(one[0]), 1e-9))
    many, more = max(2 * few, min(batch, affordable)), max(2, min(len(plan.splits.test), 1024, 2 * affordable))
    shapes = (few, 3, few, 1), (3 * few, 1, few, 1), (many, 1, many, 1), (few, 1, few, more)
    epochs, steps, images, judged = (duration_of(clock, network(*shape)) - one for shape in shapes)
    image, judge = (images / (many - few)).clamp(min=0), (judged / (more - 1)).clamp(min=0)
    step = (steps / 2 - few * image).clamp(min=0)
    epoch = ((epochs - steps) / 2).clamp(min=0)
    fixed = (one - epoch - step - few * image - judge).clamp(min=0)

    def predicted(images: int, epochs: int, batch_size: int, judged: int) -> Tensor:
        steps = -(-images // batch_size)
        return fixed + epochs * (epoch + steps * step + images * image) + judged * judge

    return predicted
