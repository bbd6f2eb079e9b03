"""How much memory a run will need at its peak, from the sizes of what it will hold; nothing large is allocated for it.

Shapes: b images of a batch, N inner steps, P parameters, K epochs of an expert. θ is a network's P parameters.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ddfw.contracts.executor import Problem, Schedule
from ddfw.contracts.trajectory import AbstractTrajectory, Segment
from ddfw.engine.budget import auto_memory, available_memory, graph_bytes, peak_bytes
from ddfw.engine.distill import batch_sizes
from ddfw.engine.inner import supervised_gradient
from ddfw.engine.sizes import size_text, weightless
from ddfw.remote.pool import WORKER_BYTES

if TYPE_CHECKING:
    from ddfw.contracts.dataset import Split
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.pipeline.prepare import Plan

#: Vectors of P that training a network holds besides what one gradient takes: θ, the velocity and the initial θ.
NETWORK_COPIES = 3
#: Further vectors of P that sharpness-aware training of an expert holds.
SHARPNESS_COPIES = 4
#: Floats held for each stored one while it is learned: itself, its gradient, up to two of the optimiser, and copies:
#: from before the step and of the best one.
LEARNED_COPIES = 6
#: Floats held for each one of the decoded images: itself, its gradient, the graph that decoded it, and what is written.
IMAGE_COPIES = 4
#: Vectors of P that the way back along a student's path holds besides its points: a segment's ends, cotangents and
#: products.
REVERSE_COPIES = 7
#: Checkpoints of an expert: as they are collected, and once more when they are put together.
CHECKPOINT_COPIES = 2
#: Vectors of P that a trajectory source keeps of each expert, where it keeps any.
SOURCE_COPIES = 2
#: Images that are classified at a time.
CHUNK = 1024
#: A student is measured over at most so many steps; of each, so many passes through the network are made.
MEASURED_STEPS, STUDENT_PASSES = 3, 6
#: The most that measuring may take on a processor: bytes, floating-point operations of one student, images of a step.
#: Where a run's batches are larger, smaller ones are measured.
MEASURED_BYTES, MEASURED_WORK, MEASURED_IMAGES = 10**9, 5e10, 4096
#: Vectors of P that measuring a student holds.
MEASURED_COPIES = 12
#: Batches at which work is tried out; in between and beyond, its memory is a straight line.
_FEW, _MORE = 2, 6


def predicted_peak(
    plan: Plan, session: ExecutorSession, missing: int, loading_peak: int, workers: int = 0
) -> dict[str, Any]:
    """The fields of a forecast that are about memory: the whole process's on a processor, the device's elsewhere.

    Args:
        plan: what was configured; its data are loaded, and not encoded yet.
        session: says which device, and whether it holds step graphs.
        missing: experts that have to be trained.
        loading_peak: the most that this process has held so far.
        workers: processes that train networks for it, whose memory counts, too; 0 for none.
    """
    stages = stage_memory(plan, session, missing)
    if session.device.type == "cpu":
        process = _process_memory(plan)  # last: by now the libraries have loaded most of what work needs
        stages = {stage: {**process, **parts} for stage, parts in _with_workers(stages, workers).items()}
        stages["loading"] = {**process, "loading": max(0, loading_peak - sum(process.values()))}
    worst = max(stages, key=lambda stage: sum(stages[stage].values()))
    return {
        "peak_bytes": {name: size for name, size in stages[worst].items() if size},
        "peak_stage": worst,
        "device": str(session.device),
        "available_bytes": available_memory(session.device),
        "held_steps": expected_hold(plan, session)[0],
    }


def stage_memory(plan: Plan, session: ExecutorSession, missing: int) -> dict[str, dict[str, int]]:
    """Bytes of tensors at the worst moment of each stage, by what they are for.

    A selection on the validation split needs no more than the evaluation.
    """
    config, layout, splits = plan.config, plan.layout, plan.splits
    itemsize, floats = plan.dtype.itemsize, layout.spec.floats_per_image
    theta = plan.network.num_parameters * itemsize
    validation, train, images = len(splits.validation.labels), len(splits.train.labels), layout.num_images
    held, graph = expected_hold(plan, session)
    train_memory, judge_memory = _work_memory(plan, session.device)
    # A source that can do without an expert's checkpoints keeps what it makes of them; others read them from disk.
    kept = 0 if type(config.traj).compact is AbstractTrajectory.compact else SOURCE_COPIES

    def networks(batch: int, judged: int) -> int:
        """Training a network and then judging it."""
        return NETWORK_COPIES * theta + max(train_memory(batch), judge_memory(min(CHUNK, judged)))

    data = {"data": encoded_bytes(plan, splits.train, splits.validation)}
    learned = {
        "optimiser": LEARNED_COPIES * layout.strict_floats * itemsize,
        "images": IMAGE_COPIES * images * floats * itemsize,
        "trajectories": kept * len(plan.expert_set.seeds) * theta,
    }
    student = {
        "path": (config.outer.syn_steps + 1 + REVERSE_COPIES) * theta,
        "step_graphs": held * graph,
        "one_step": graph if held < config.outer.syn_steps else 0,
    }
    largest = train if "full_data" in config.eval.baselines else images
    final = {"networks": networks(min(config.eval.batch_size, largest), len(splits.test))}
    with_test = {"data": data["data"] + len(splits.test) * (floats * itemsize + splits.train.labels.element_size())}
    stages = {"distill": {**data, **learned, **student}, "evaluate": {**with_test, **learned, **final}}
    if missing:
        sharpness = SHARPNESS_COPIES * theta if config.experts.optimiser == "gsam" else 0
        work = networks(min(config.experts.batch_size, train), validation) + sharpness
        checkpoints = CHECKPOINT_COPIES * (plan.expert_set.epochs + 1) * theta
        stages["experts"] = {**data, "networks": work, "checkpoints": checkpoints}
    return stages


def _with_workers(stages: Mapping[str, Mapping[str, int]], workers: int) -> dict[str, Mapping[str, int]]:
    """Memory by stage where so many workers train networks; they stay until the end of the run, with what they took."""
    if not workers:
        return dict(stages)
    own = process_bytes("RssAnon")
    each = max(stages[stage].get("networks", 0) + stages[stage].get("checkpoints", 0) for stage in stages)
    found = dict[str, Mapping[str, int]]()
    for stage, parts in stages.items():
        here = {name: size for name, size in parts.items() if name != "networks"}
        # The data lie in memory a second time, which all workers share.
        found[stage] = {**here, "shared_data": parts["data"], "workers": workers * (min(own, WORKER_BYTES) + each)}
    return found


def require_measurable(plan: Plan, device: torch.device) -> None:
    """Refuses to measure short steps that would not be short, or would take much memory, on a processor.

    Raises:
        ValueError: they would; the text says why.
    """
    if device.type != "cpu":
        return
    batch, spec = measured_batch(plan, device), plan.layout.spec
    rows = min(plan.layout.num_images, batch * plan.config.outer.syn_steps)
    size = MEASURED_COPIES * plan.network.num_parameters * plan.dtype.itemsize + rows * spec.floats_per_image * 16
    if size > MEASURED_BYTES:
        raise ValueError(f"measuring would take {size_text(size)} of memory")
    if (work := STUDENT_PASSES * MEASURED_STEPS * image_work(plan)) > 10 * MEASURED_WORK:
        raise ValueError(f"measuring would take long: {work:.1e} floating-point operations for a single image")


def image_work(plan: Plan) -> int:
    """Floating-point operations of the network for one image, there; 0 if its module cannot be built without values."""
    module = weightless(plan.config.model, plan.layout.spec)
    if module is None:
        return 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty(1, *plan.layout.spec.shape, device="meta"))
    return int(counter.get_total_flops())


def measured_batch(plan: Plan, device: torch.device) -> int:
    """Number of images of the batches on which steps are measured: the largest ones of the run, if that is quick."""
    largest = largest_batch(plan)
    if device.type != "cpu":
        return largest
    one = STUDENT_PASSES * MEASURED_STEPS * image_work(plan)
    return max(1, min(largest, MEASURED_IMAGES, int(MEASURED_WORK / max(1, one))))


def largest_batch(plan: Plan) -> int:
    """Number of images of the largest batch that a student's steps see."""
    n, wanted = plan.layout.num_images, plan.config.outer.batch_syn
    pieces = -(-n // (wanted or n))  # a permutation's batches; later ones repeat their sizes
    return max(batch_sizes(n, wanted, min(plan.config.outer.syn_steps, pieces)))


def sample_problem(plan: Plan, steps: int, device: torch.device, batch: int | None = None) -> tuple[Problem, Segment]:
    """An inner problem of random images in a run's shapes, and a segment; the step size is too small to do harm.

    Args:
        plan: what was configured.
        steps: of the student.
        device: where the session wants tensors.
        batch: images of each step; None: those of the run's largest batch.
    """
    outer, spec, n = plan.config.outer, plan.layout.spec, plan.layout.num_images
    rng = torch.Generator().manual_seed(0)
    size = batch or largest_batch(plan)
    rows = min(n, size * outer.syn_steps)
    batches = tuple(((torch.arange(size) + i * size) % rows).to(device) for i in range(steps))
    draws = tuple(plan.config.augment.draw((size, *spec.shape), rng).to(device) for _ in batches)
    start, target = (
        plan.config.model.init(plan.module, torch.Generator().manual_seed(seed)).to(device, plan.dtype)
        for seed in (1, 2)
    )
    problem = Problem(
        images=torch.randn(rows, *spec.shape, generator=rng, dtype=torch.float64).to(device, plan.dtype),
        targets=torch.randn(rows, spec.num_classes, generator=rng).softmax(dim=1).to(device, plan.dtype),
        step_size=torch.tensor(1e-6, dtype=plan.dtype, device=device),
        schedules=(Schedule(batches=batches, draws=draws),),
    )
    return problem, Segment(start=start, target=target, expert=0, start_epoch=0, target_epoch=1)


def expected_hold(plan: Plan, session: ExecutorSession) -> tuple[int, int]:
    """How many step graphs the run will hold once its data are in memory, and the bytes of one."""
    device, settings = session.device, plan.config.gradient
    few = measured_batch(plan, device)
    problem, segment = sample_problem(plan, 1, device, few)
    (batch,) = problem.schedules[0].batches
    one = max(1, graph_bytes(plan.network.to(device), segment.start, problem.images[batch], problem.targets[batch]))
    one = one * largest_batch(plan) // few
    if session.describe().get("held_steps") == 0:  # as where steps are compiled
        return 0, one
    memory = settings.memory
    if memory == "auto":
        left = available_memory(device)
        if left is not None:
            left = max(0, left - encoded_bytes(plan, plan.splits.train, plan.splits.validation))
        memory = auto_memory(device, left)
    return min(memory // one, plan.config.outer.syn_steps), one


def encoded_bytes(plan: Plan, *splits: Split) -> int:
    """Bytes of splits in training space, labels included."""
    floats = plan.splits.spec.floats_per_image
    return sum(len(s.labels) * (floats * plan.dtype.itemsize + s.labels.element_size()) for s in splits)


def _work_memory(plan: Plan, device: torch.device) -> list[Callable[[int], int]]:
    """Peak bytes by the number of images: of a training step, and of judging."""
    spec, network = plan.layout.spec, plan.network.to(device)
    rng = torch.Generator().manual_seed(0)
    theta = plan.config.model.init(plan.module, rng).to(device, plan.dtype)

    def line(work: Callable[[Tensor, Tensor], object]) -> Callable[[int], int]:
        few, more = (peak_bytes(lambda n=n: work(*batch(n))) for n in (_FEW, _MORE))  # type: ignore[misc]
        slope = max(0.0, (more - few) / (_MORE - _FEW))
        return lambda size: int(max(0.0, few - slope * _FEW) + slope * size)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(size, *spec.shape, generator=rng).to(device, plan.dtype)
        return images, torch.full((size, spec.num_classes), 1 / spec.num_classes, dtype=plan.dtype, device=device)

    return [
        line(lambda images, targets: supervised_gradient(network, theta, images, targets)),
        line(lambda images, targets: torch.no_grad()(network.logits)(theta, images)),
    ]


def _process_memory(plan: Plan) -> dict[str, int]:
    """This process as it is: program and libraries, and the images as they were loaded."""
    gc.collect()
    splits = plan.splits
    train = splits.train.images
    # The test split stays sealed: it has the training images' type.
    raw = train.nbytes + splits.validation.images.nbytes
    raw += len(splits.test) * splits.spec.floats_per_image * train.element_size()
    return {"program": max(0, process_bytes("VmRSS") - raw), "raw_images": raw}


def process_bytes(name: str) -> int:
    """Memory of this process: `VmRSS` is what it holds now, `VmHWM` the most so far; 0 where Linux is not there.

    `resource.getrusage` would not do: its peak starts at what the process that started this one held.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024
