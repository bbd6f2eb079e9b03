"""How much memory a run will need at its peak, from the sizes of what it will hold; nothing large is allocated for it.

Shapes: b images of a batch, N inner steps, P parameters, K epochs of an expert.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import frozen
from torch import Tensor

from ddfw.contracts.executor import Problem, Schedule
from ddfw.contracts.trajectory import Segment
from ddfw.engine.budget import auto_memory, available_memory, graph_bytes, peak_bytes
from ddfw.engine.distill import batch_sizes
from ddfw.engine.inner import StepGraph, supervised_gradient

if TYPE_CHECKING:
    from ddfw.contracts.dataset import Split
    from ddfw.contracts.executor import ExecutorSession
    from ddfw.contracts.trajectory import CompactExpert
    from ddfw.pipeline.prepare import Plan

#: Batches at which memory is measured; in between and beyond it is a straight line.
_FEW, _MORE = 2, 6
#: Images that are classified at a time.
_CHUNK = 1024
#: The largest path of one expert on which a trajectory source is tried out.
_TRIED_BYTES = 2**28


@frozen(kw_only=True)
class Hold:
    """How many of N step graphs a run will hold, each of so many bytes."""

    steps: int
    graph_bytes: int


@frozen(kw_only=True)
class Footprint:
    """Memory at the worst moment of a run.

    Args:
        stage: when that is: `loading`, `experts`, `distill`, `evaluate`.
        parts: bytes by what they are for; they sum to the total.
        device: whose memory it is.
        available: bytes that could be allocated there when it was predicted, None where nobody can say.
    """

    stage: str
    parts: Mapping[str, int]
    device: torch.device
    available: int | None

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.parts.values())


def sample_problem(plan: Plan, steps: int, device: torch.device) -> tuple[Problem, Segment]:
    """An inner problem of random images in a run's shapes, and a segment; the step size is too small to do harm.

    Args:
        plan: what was configured.
        steps: of the student, each with the run's largest batch.
        device: where the session wants tensors.
    """
    outer, spec, n = plan.config.outer, plan.layout.spec, plan.layout.num_images
    rng = torch.Generator().manual_seed(0)
    size = max(batch_sizes(n, outer.batch_syn, outer.syn_steps))
    rows = min(n, size * outer.syn_steps)
    batches = tuple((torch.arange(size) + i * size) % rows for i in range(steps))
    draws = tuple(plan.config.augment.draw((size, *spec.shape), rng).to(device) for _ in batches)
    start, target = (
        plan.config.model.init(plan.module, torch.Generator().manual_seed(seed)).to(device, plan.dtype)
        for seed in (1, 2)
    )
    problem = Problem(
        images=torch.randn(rows, *spec.shape, generator=rng, dtype=torch.float64).to(device, plan.dtype),
        targets=torch.randn(rows, spec.num_classes, generator=rng).softmax(dim=1).to(device, plan.dtype),
        step_size=torch.tensor(1e-6, dtype=plan.dtype, device=device),
        schedules=(Schedule(batches=tuple(b.to(device) for b in batches), draws=draws),),
    )
    return problem, Segment(start=start, target=target, expert=0, start_epoch=0, target_epoch=1)


def expected_hold(plan: Plan, session: ExecutorSession) -> Hold:
    """How many step graphs the run will hold, once its data are in memory.

    A session that describes what it found (`graph_bytes`, `memory_seen`), or that it holds none, is believed.
    """
    described, device, settings = session.describe(), session.device, plan.config.gradient
    one, steps = described.get("graph_bytes"), plan.config.outer.syn_steps
    if settings.memory == 0 or described.get("held_steps") == 0:
        return Hold(steps=0, graph_bytes=one if isinstance(one, int) else _graph_bytes(plan, device))
    if not isinstance(one, int):
        one = _graph_bytes(plan, device)
    if settings.memory != "auto":
        return Hold(steps=min(settings.memory // max(1, one), steps), graph_bytes=one)
    seen = described.get("memory_seen")
    left = seen if isinstance(seen, int) else available_memory(device)
    if left is not None:
        left = max(0, left - encoded_bytes(plan, plan.splits.train, plan.splits.validation))
    return Hold(steps=min(auto_memory(device, left) // max(1, one), steps), graph_bytes=one)


def _graph_bytes(plan: Plan, device: torch.device) -> int:
    problem, segment = sample_problem(plan, 1, device)
    (batch,) = problem.schedules[0].batches
    return graph_bytes(plan.network, segment.start, problem.images[batch], problem.targets[batch])


def encoded_bytes(plan: Plan, *splits: Split) -> int:
    """Bytes of splits in training space, labels included."""
    floats = plan.splits.spec.floats_per_image
    return sum(len(s.labels) * (floats * plan.dtype.itemsize + s.labels.element_size()) for s in splits)


def footprint(plan: Plan, session: ExecutorSession, missing: int, loading_peak: int | None) -> Footprint:
    """The memory of a run on its session's device: of the process on a CPU, of the device alone elsewhere.

    Args:
        plan: what was configured; its data are loaded, and not encoded yet.
        session: says which device, and how many step graphs it holds.
        missing: experts that have to be trained.
        loading_peak: the most that this process has held so far, None where that is not known.
    """
    device, config = session.device, plan.config
    itemsize, parameters = plan.dtype.itemsize, plan.network.num_parameters
    theta = parameters * itemsize
    splits, layout = plan.splits, plan.layout
    hold = expected_hold(plan, session)
    test = len(splits.test) * (splits.spec.floats_per_image * itemsize + 8)
    data = {"data": encoded_bytes(plan, splits.train, splits.validation)}
    work = _measured(plan, device)
    sizes = batch_sizes(layout.num_images, config.outer.batch_syn, config.outer.syn_steps)
    rows = min(layout.num_images, sum(sizes))
    step = work.step(max(sizes))

    def networks(batch: int, judged: int) -> dict[str, int]:
        """Training a network and judging it, one after the other; θ, its velocity and its gradient throughout."""
        return {"networks": 3 * theta + max(work.training(batch), work.judging(min(_CHUNK, judged)))}

    # Values, gradients, up to two tensors of the optimiser, and copies: before the step and of the best one.
    learned = {"optimiser": 6 * layout.strict_floats * itemsize, "trajectories": _trajectories(plan)}
    held = {
        "path": (config.outer.syn_steps + 1) * theta,
        "step graphs": hold.steps * hold.graph_bytes,
        "one step": step - min(hold.steps, 1) * min(step, hold.graph_bytes),
        "images": 3 * rows * layout.spec.floats_per_image * itemsize,
    }
    validation = len(splits.validation.labels)
    select = networks(min(config.eval.batch_size, layout.num_images), validation)
    final_batch = len(splits.train.labels) if "full_data" in config.eval.baselines else layout.num_images
    final = networks(min(config.eval.batch_size, final_batch), len(splits.test))
    stages = {
        "distill": {**data, **learned, **held},
        "select": {**data, **learned, **select},
        "evaluate": {"data": data["data"] + test, **learned, **final},
    }
    if missing:
        batch = min(config.experts.batch_size, len(splits.train.labels))
        snapshots = {"checkpoints": 2 * (plan.expert_set.epochs + 1) * theta}
        stages["experts"] = {**data, **networks(batch, validation), **snapshots}
    if device.type == "cpu":
        base = _process(plan)  # last: by now the libraries have loaded most of what work needs
        stages = {stage: {**base, **parts} for stage, parts in stages.items()}
        if loading_peak is not None:
            stages["loading"] = {**base, "loading": max(0, loading_peak - sum(base.values()))}
    worst = max(stages, key=lambda stage: sum(stages[stage].values()))
    return Footprint(
        stage="distill" if worst == "select" else worst,
        parts={name: size for name, size in stages[worst].items() if size},
        device=device,
        available=available_memory(device),
    )


@frozen(kw_only=True)
class _Work:
    """Peak bytes of pieces of work, by the number of images."""

    step: Callable[[int], int]
    training: Callable[[int], int]
    judging: Callable[[int], int]


def _measured(plan: Plan, device: torch.device) -> _Work:
    """Tried out on two small batches each."""
    spec, network = plan.layout.spec, plan.network
    rng = torch.Generator().manual_seed(0)
    theta = plan.config.model.init(plan.module, rng).to(device, plan.dtype)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(size, *spec.shape, generator=rng).to(device, plan.dtype)
        return images, torch.full((size, spec.num_classes), 1 / spec.num_classes, dtype=plan.dtype, device=device)

    def line(work: Callable[[Tensor, Tensor], object]) -> Callable[[int], int]:
        few, more = (peak_bytes(lambda n=n: work(*batch(n))) for n in (_FEW, _MORE))  # type: ignore[misc]
        slope = max(0.0, (more - few) / (_MORE - _FEW))
        return lambda size: int(max(0.0, few - slope * _FEW) + slope * size)

    def judge(images: Tensor, targets: Tensor) -> None:
        with torch.no_grad():
            network.logits(theta, images)

    through = plan.config.gradient.method == "exact"
    gsam = 2 if plan.config.experts.optimiser == "gsam" else 1
    training = line(lambda images, targets: supervised_gradient(network, theta, images, targets))
    return _Work(
        step=line(lambda i, t: StepGraph(network, theta, i, t).pull(theta, through_theta=through)),
        training=lambda size: training(size) + (gsam - 1) * 4 * theta.numel() * theta.element_size(),
        judging=line(judge),
    )


def _process(plan: Plan) -> dict[str, int]:
    """This process as it is: program and libraries, and the images as they were loaded."""
    gc.collect()
    test = plan.splits.test
    floats = plan.splits.spec.floats_per_image
    train = plan.splits.train.images
    # The test split stays sealed: it has the training images' type.
    raw = sum(s.images.nbytes for s in (plan.splits.train, plan.splits.validation))
    raw += len(test) * floats * train.element_size()
    resident = resident_bytes()
    return {"program": max(0, resident - raw) if resident is not None else 0, "raw images": raw}


def resident_bytes() -> int | None:
    """Bytes of this process in memory now; None where the system does not say."""
    return _status("VmRSS")


def highest_bytes() -> int | None:
    """The most bytes that this process has had in memory; None where the system does not say."""
    return _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key == name:
            return int(rest.split()[0]) * 1024
    return None


class _OnePath:
    """An expert source of one made-up expert."""

    num_experts = 1

    def __init__(self, plan: Plan) -> None:
        self.num_epochs = plan.expert_set.epochs
        self.sizes = plan.network.sizes
        rng = torch.Generator().manual_seed(0)
        steps = torch.randn(self.num_epochs + 1, plan.network.num_parameters, generator=rng, dtype=torch.float32)
        self._points = steps.cumsum(dim=0).to(plan.dtype)

    def snapshots(self, expert: int, epochs: Sequence[int]) -> Tensor:
        """Points [S, P]."""
        return self._points[list(epochs)].clone()

    def compact(self, expert: int) -> CompactExpert | None:
        """Nothing."""
        return None


def _trajectories(plan: Plan) -> int:
    """Bytes that the trajectory source keeps in memory for all experts, tried out on a made-up one."""
    theta = plan.network.num_parameters * plan.dtype.itemsize
    two_points = 2 * theta * len(plan.expert_set.seeds)
    if (plan.expert_set.epochs + 1) * theta > _TRIED_BYTES:
        return two_points
    source = _OnePath(plan)
    try:
        prepared = plan.config.traj.prepare(source)
    except Exception:  # a made-up expert is none; the source may say so
        return two_points
    tensors = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(prepared)}
    return sum(tensors.values()) * len(plan.expert_set.seeds)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in records, mappings and sequences; what a source reads from disk is in none."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from _tensors(getattr(value, field.name))
