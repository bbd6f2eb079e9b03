"""What `ddfw bench` measures, and the table that it prints.

Every row is a ratio to the yardstick or to a plain loop on the same work; below 1 ddfw is faster, or smaller.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import asdict, evolve, frozen
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, pad

from ddfw.config.catalog import component
from ddfw.contracts.executor import AbstractExecutor, ExecutorContext, LabelledImages, MetaGradient
from ddfw.contracts.settings import TrainingSettings
from ddfw.engine.budget import peak_bytes
from ddfw_plugins.commands.bench import yardstick
from ddfw_plugins.commands.bench.measure import Ratio, pairs, seconds
from ddfw_plugins.commands.bench.shapes import CLASSES, SHAPES, Shape, Work, work

BENCH_SCHEMA = 1
#: Bytes of `gradient.memory` that hold every graph, whatever the machine.
EVERYTHING = 2**62
#: Inner steps of the comparison of memory.
MEMORY_STEPS = 80
#: Images of the augmentation's and of the epoch's comparison.
AUGMENTED, EPOCH = 500, 1_000

Tick = Callable[[str], None]


@frozen(kw_only=True)
class Row:
    """One line of the table.

    Args:
        bench: what is measured.
        shape: on which work.
        mode: how ddfw did it.
        ratio: times, or None where bytes are compared.
        bytes: ddfw's extra peak of live bytes, and the yardstick's.
        bound: what the ratio should not exceed, None where nothing was promised.
        error: the largest relative difference of the image gradient to the yardstick's, in the measured precision.
        note: what there is to say.
    """

    bench: str
    shape: str
    mode: str
    ratio: Ratio | None = None
    bytes: tuple[int, int] | None = None
    bound: float | None = None
    error: float | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """The ratio of times or of bytes; NaN where nothing was measured."""
        if self.ratio is not None:
            return self.ratio.median
        return math.nan if self.bytes is None else self.bytes[0] / self.bytes[1]

    @property
    def kept(self) -> bool | None:
        """Whether the bound is kept, None without one."""
        return None if self.bound is None or math.isnan(self.value) else self.value <= self.bound

    def record(self) -> dict[str, Any]:
        """As JSON."""
        value = None if math.isnan(self.value) else self.value
        facts = {key: field for key, field in asdict(self, recurse=False).items() if key not in ("ratio", "bytes")}
        return {
            **facts,
            "value": value,
            "kept": self.kept,
            "ratio": None if self.ratio is None else self.ratio.record(),
            "bytes": None if self.bytes is None else list(self.bytes),
        }


#: Bounds on a CPU, by (bench, shape, mode); they are promises about a CPU alone.
BOUNDS: Mapping[tuple[str, str, str], float] = {
    **{("outer step", shape, "all graphs held"): 1.05 for shape in SHAPES},
    **{("outer step", shape, "no graph held"): 1.4 for shape in SHAPES},
    ("outer step", "digits", "compiled"): 0.7,
    ("memory", "cifar-ipc1", "no graph held"): 1 / 8,
    **{
        ("augmentation", f"{family} {what}", "vectorised"): 1 / 50
        for family in ("scale", "rotate")
        for what in ("matrices", "8×8", "32×32")
    },
    ("expert epoch", "cifar-ipc1", "one network"): 1.05,
}
GROUPS = ("outer", "memory", "augment", "expert", "ensemble")


def run(
    executor: AbstractExecutor,
    shapes: Sequence[Shape],
    groups: Sequence[str],
    count: int,
    tick: Tick = lambda words: None,
) -> Iterator[Row]:
    """Measures, and yields each row as it is there.

    Args:
        executor: whose sessions are measured; its compiled variant besides, where it has one.
        shapes: of the outer steps.
        groups: of `GROUPS`.
        count: interleaved pairs of each ratio.
        tick: told what is going on.
    """
    found: list[Iterator[Row]] = []
    if "outer" in groups:
        found += [_outer(executor, shape, count, tick) for shape in shapes]
    if "memory" in groups:
        found.append(_memory(executor, SHAPES["cifar-ipc1"], tick))
    if "augment" in groups:
        found.append(_augment(executor, count, tick))
    if "expert" in groups:
        found.append(_expert(executor, SHAPES["cifar-ipc1"], count, tick))
    if "ensemble" in groups:
        found.append(_ensemble(executor, SHAPES["digits"], count, tick))
    for rows in found:
        for row in rows:
            bound = BOUNDS.get((row.bench, row.shape, row.mode)) if _device(executor).type == "cpu" else None
            yield evolve(row, bound=bound)


def modes(executor: AbstractExecutor) -> dict[str, tuple[AbstractExecutor, int]]:
    """What is measured of an executor: (itself or its variant, bytes of held graphs) by name."""
    ways = [name for name in ("compile", "graphs") if hasattr(executor, name)]

    def variant(*on: str) -> AbstractExecutor:
        chosen: dict[str, Any] = {name: name in on for name in ways}
        return evolve(executor, **chosen)

    found = {"all graphs held": (variant(), EVERYTHING), "no graph held": (variant(), 0)}
    if "compile" in ways:
        found["compiled"] = (variant("compile"), 0)
    if "graphs" in ways:
        found["CUDA graphs"] = (variant("graphs"), 0)
    if len(ways) == 2:
        found["compiled, CUDA graphs"] = (variant(*ways), 0)
    return found


def _outer(executor: AbstractExecutor, shape: Shape, count: int, tick: Tick) -> Iterator[Row]:
    for mode, (variant, memory) in modes(executor).items():
        made = work(shape, memory=memory)
        with variant.open(made.context) as session:
            there = made.to(session.device)
            reference = there.yardstick()

            def ours(session: Any = session, there: Work = there) -> MetaGradient:
                found: MetaGradient = session.meta_gradient(there.problem, [there.segment])
                return found

            tick(f"outer step, {shape.name}, {mode}")
            error = _difference(ours().images, reference().images)
            ratio = pairs(ours, reference, count, session.device)
            yield Row(
                bench="outer step",
                shape=shape.name,
                mode=mode,
                ratio=ratio,
                error=error,
                note=_held(session.describe()),
            )


def _held(facts: Mapping[str, object]) -> str:
    return f"{facts['held_steps']} held" if facts.get("held_steps") else ""


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def _memory(executor: AbstractExecutor, shape: Shape, tick: Tick) -> Iterator[Row]:
    """Extra live bytes at N = 80: what operations allocate on top of the problem."""
    for mode in ("no graph held", "compiled"):
        if mode not in modes(executor):
            continue
        variant, memory = modes(executor)[mode]
        made = work(shape, steps=MEMORY_STEPS, memory=memory)
        with variant.open(made.context) as session:
            if mode == "compiled" and session.device.type != "cuda":
                continue  # tensors are counted on a CPU as operations are dispatched, and compiled ones are not
            there = made.to(session.device)
            tick(f"memory, {shape.name}, {mode}")
            session.meta_gradient(there.problem, [there.segment])
            mine = live_bytes(lambda: session.meta_gradient(there.problem, [there.segment]), session.device)  # noqa: B023
            theirs = live_bytes(there.yardstick(), session.device)
        yield Row(
            bench="memory", shape=shape.name, mode=mode, bytes=(mine, theirs), note=f"N = {MEMORY_STEPS}, extra peak"
        )


def live_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `work` adds to what is alive: of tensors on a CPU, of the allocator on a GPU."""
    if device.type != "cuda":
        return peak_bytes(work)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _augment(executor: AbstractExecutor, count: int, tick: Tick) -> Iterator[Row]:
    """DSA's matrices, and its whole warps, against loops over images."""
    device = _device(executor)
    rng = torch.Generator().manual_seed(0)
    for family in ("scale", "rotate"):
        augmentation = component("augment", "dsa", families=(family,))
        draws = augmentation.draw((AUGMENTED, 3, 32, 32), rng).to(device)
        make = augmentation.scales if family == "scale" else augmentation.rotations
        matrices = make(draws.values)
        tick(f"augmentation, {family}")
        ratio = pairs(lambda: make(draws.values), lambda: in_a_loop(family, draws.values), count, device)  # noqa: B023
        error = _difference(matrices, in_a_loop(family, draws.values))
        yield Row(
            bench="augmentation",
            shape=f"{family} matrices",
            mode="vectorised",
            ratio=ratio,
            error=error,
            note=f"{AUGMENTED} images, against a list of numbers for each",
        )
        for channels, side in ((1, 8), (3, 32)):
            images = torch.randn(AUGMENTED, channels, side, side, generator=rng).to(device)
            ratio = pairs(
                lambda: augmentation.apply(images, draws),  # noqa: B023
                lambda: one_by_one(images, matrices),  # noqa: B023
                count,
                device,
            )
            yield Row(
                bench="augmentation",
                shape=f"{family} {side}×{side}",
                mode="vectorised",
                ratio=ratio,
                error=_difference(augmentation.apply(images, draws), one_by_one(images, matrices)),
                note=f"{AUGMENTED} images, against a warp of each",
            )


def in_a_loop(family: str, values: Mapping[str, Tensor]) -> Tensor:
    """DSA's matrices [B, 2, 2] image by image, as a list of numbers that becomes a tensor."""
    if family == "scale":
        low, high = 1 / 1.2, 1.2
        x, y = (values[key] * (high - low) + low for key in ("x", "y"))
        rows = [[[x[i], 0.0], [0.0, y[i]]] for i in range(len(x))]
    else:
        angle = (values["u"] - 0.5) * 2 * 15 / 180 * math.pi
        rows = [
            [[torch.cos(angle[i]), torch.sin(-angle[i])], [torch.sin(angle[i]), torch.cos(angle[i])]]
            for i in range(len(angle))
        ]
    return torch.tensor(rows, dtype=torch.float32, device=next(iter(values.values())).device)


def one_by_one(images: Tensor, matrices: Tensor) -> Tensor:
    """Warps images [B, C, H, W] by matrices [B, 2, 2], one after another."""
    found = []
    for image, matrix in zip(images, pad(matrices, (0, 1)), strict=True):
        grid = affine_grid(matrix[None], [1, *image.shape], align_corners=True)
        found.append(grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True))
    return torch.cat(found)


def _expert(executor: AbstractExecutor, shape: Shape, count: int, tick: Tick) -> Iterator[Row]:
    """An expert's epoch with its snapshot and validation, against a loop with torch.optim.SGD and neither."""
    made = work(shape)
    with executor.open(made.context) as session:
        data = random_images(shape, EPOCH, session.device)
        nothing = LabelledImages(images=data.images[:1], targets=data.targets[:1])
        settings = TrainingSettings(epochs=1, lr=0.01, momentum=0.0, weight_decay=0.0, batch_size=256)
        tick(f"expert epoch, {shape.name}")
        ratio = pairs(
            lambda: list(session.train_experts(settings, data, nothing, [0], lambda position, epoch: None)),
            plain_epoch(made.context, made.plain.to(session.device), data, settings),
            count,
            session.device,
        )
    yield Row(
        bench="expert epoch", shape=shape.name, mode="one network", ratio=ratio, note=f"{EPOCH} images, batches of 256"
    )


def random_images(shape: Shape, count: int, device: torch.device) -> LabelledImages:
    """Labelled noise."""
    rng = torch.Generator().manual_seed(1)
    images = torch.randn(count, shape.channels, shape.side, shape.side, generator=rng)
    return LabelledImages(images=images.to(device), targets=(torch.arange(count) % CLASSES).to(device))


def plain_epoch(
    context: ExecutorContext, module: nn.Module, data: LabelledImages, settings: TrainingSettings
) -> Callable[[], object]:
    """One epoch of the plain loop, with the same augmentation."""
    rng = torch.Generator().manual_seed(0)

    def augment(images: Tensor) -> Tensor:
        b, c, h, w = images.shape
        return context.augmentation.apply(images, context.augmentation.draw((b, c, h, w), rng).to(images.device))

    return lambda: yardstick.train(
        module, data.images, data.targets, settings.epochs, settings.lr, settings.batch_size, augment, rng
    )


def _ensemble(executor: AbstractExecutor, shape: Shape, count: int, tick: Tick) -> Iterator[Row]:
    """Four experts at a time against one after another, where the executor can."""
    if not hasattr(executor, "together"):
        return
    made = work(shape)
    four: dict[str, Any] = {"together": 4}
    many, one = evolve(executor, **four), evolve(executor, **{**four, "together": 1})
    settings = TrainingSettings(epochs=1, lr=0.01, momentum=0.0, weight_decay=0.0, batch_size=256)
    with many.open(made.context) as together, one.open(made.context) as alone:
        data = random_images(shape, EPOCH, together.device)

        def train(session: Any) -> Callable[[], object]:
            return lambda: list(session.train_experts(settings, data, data, [0, 1, 2, 3], lambda at, epoch: None))

        tick(f"experts, {shape.name}, four at a time")
        ratio = pairs(train(together), train(alone), count, together.device)
    yield Row(bench="experts", shape=shape.name, mode="four at a time", ratio=ratio, note="against one after another")


def scaling(
    executor: AbstractExecutor, shape: Shape, steps: Sequence[int], repeats: int, tick: Tick = lambda words: None
) -> list[dict[str, Any]]:
    """Seconds and extra live bytes of one outer step for several N: no graph held, and the yardstick.

    Args:
        executor: whose session is measured; steps are not compiled.
        shape: of the work.
        steps: the Ns.
        repeats: the median of so many times is taken.
        tick: told what is going on.
    """
    plain, memory = modes(executor)["no graph held"]
    rows = []
    for count in steps:
        made = work(shape, steps=count, memory=memory)
        with plain.open(made.context) as session:
            there = made.to(session.device)
            sides: dict[str, Callable[[], object]] = {
                "ddfw": lambda: session.meta_gradient(there.problem, [there.segment]),  # noqa: B023
                "yardstick": there.yardstick(),
            }
            tick(f"N = {count}")
            for name, side in sides.items():
                size = live_bytes(side, session.device)
                times = sorted(seconds(side, session.device) for _ in range(repeats))
                rows.append({"who": name, "steps": count, "seconds": times[len(times) // 2], "bytes": size})
    return rows


def _device(executor: AbstractExecutor) -> torch.device:
    return torch.device(getattr(executor, "device", "cpu"))


def surroundings(executor: AbstractExecutor) -> dict[str, Any]:
    """Where figures come from: device and versions."""
    made = work(SHAPES["digits"])
    with executor.open(made.context) as session:
        device = session.describe()
    return {
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "executor": executor.name,
    }
