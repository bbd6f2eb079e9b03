"""The measurements of `ddfw bench`.

Every row is a ratio of ddfw to the plain loop on the same work; below 1 ddfw is faster, or takes less memory.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from attrs import asdict, evolve, frozen
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from ddfw import AbstractExecutor, LabelledImages, TrainingSettings, component
from ddfw.contracts.executor import ExecutorSession
from ddfw.engine.budget import peak_bytes
from ddfw_plugins.commands.bench.shapes import BENCH_GROUPS, BENCH_SHAPES, BenchShape
from ddfw_plugins.commands.bench.timing import TimeRatio, time_pairs
from ddfw_plugins.commands.bench.work import NUM_CLASSES, BenchWork, bench_work
from ddfw_plugins.commands.bench.yardstick import plain_training

BENCH_SCHEMA = 1
Call = Callable[[], Any]
#: A `gradient.memory` (bytes) so large that the graphs of all inner steps are held.
HOLD_ALL = 2**62
#: Number of inner steps N in the comparison of memory.
MEMORY_STEPS = 80
#: Number of images in the comparison of augmentations, and in the training set of experts.
AUGMENTED, TRAINED = 500, 1_000
#: Settings of the one epoch for which experts are trained.
EPOCH = TrainingSettings(epochs=1, lr=0.01, momentum=0.0, weight_decay=0.0, batch_size=256)
#: Largest ratios that are promised on a CPU, by (bench, shape, mode).
BOUNDS: Mapping[tuple[str, str, str], float] = {
    **{("outer step", shape, "all graphs held"): 0.85 for shape in BENCH_SHAPES},
    **{("outer step", shape, "no graph held"): 1.05 for shape in BENCH_SHAPES},
    ("outer step", "digits", "compiled"): 0.6,
    ("outer step", "cifar-ipc1", "compiled"): 0.9,
    ("memory", "cifar-ipc1", "no graph held"): 1 / 8,
    **{
        ("augmentation", f"{family} {what}", "vectorised"): 1 / 50
        for family in ("scale", "rotate")
        for what in ("matrices", "8×8", "32×32")
    },
    ("expert epoch", "cifar-ipc1", "one network"): 1.05,
}


@frozen(kw_only=True)
class BenchRow:
    """One line of the table.

    Args:
        bench: what is measured, such as "outer step".
        shape: name of the size of the work.
        mode: the way in which ddfw does the work, such as "compiled".
        ratio: ratio of times, None if bytes are compared.
        bytes: peak memory that ddfw adds, and that the plain loop adds; None if times are compared.
        bound: largest ratio that is promised, None if nothing is promised.
        error: the largest difference between both sides' results, relative to the plain one's largest value, in the
            measured precision; None where the results are not the same thing.
        note: a remark on the measurement, "" for none.
    """

    bench: str
    shape: str
    mode: str
    bound: float | None = None
    error: float | None = None
    note: str = ""
    ratio: TimeRatio | None = None
    bytes: tuple[int, int] | None = None

    @property
    def value(self) -> float:
        """The ratio of times or of bytes."""
        if self.ratio is not None:
            return self.ratio.median
        assert self.bytes is not None
        return self.bytes[0] / self.bytes[1]

    @property
    def kept(self) -> bool | None:
        """Whether the ratio is within its bound, None without a bound."""
        return None if self.bound is None else self.value <= self.bound

    def record(self) -> dict[str, Any]:
        """The row as a JSON-able dictionary."""
        return {**asdict(self), "value": self.value, "kept": self.kept}


@frozen(kw_only=True)
class Benchmarks:
    """The measurements of one executor, a method for each of `BENCH_GROUPS`.

    Args:
        executor: the executor to measure; its compiled variants are measured, too, if it has them.
        device: the device on which the executor computes.
        shapes: the sizes in which outer steps are measured.
        pairs: number of pairs of timings for each ratio.
        tick: called before each measurement with its name.
    """

    executor: AbstractExecutor
    device: torch.device
    shapes: Sequence[BenchShape] = tuple(BENCH_SHAPES.values())
    pairs: int
    tick: Callable[[str], None] = lambda words: None

    def rows(self, groups: Sequence[str]) -> Iterator[BenchRow]:
        """Measures some of `BENCH_GROUPS`, and yields each row as soon as it is measured."""
        methods = (self.outer, self.memory, self.augment, self.expert, self.ensemble, self.workers)
        for group, method in zip(BENCH_GROUPS, methods, strict=True):
            for row in method() if group in groups else ():
                bound = BOUNDS.get((row.bench, row.shape, row.mode))
                yield evolve(row, bound=bound if self.device.type == "cpu" else None)

    def outer(self) -> Iterator[BenchRow]:
        """Times of the meta-gradient of one outer step, in every mode of the executor."""
        for shape in self.shapes:
            for mode, (variant, memory) in executor_modes(self.executor).items():
                work = bench_work(shape, memory=memory, device=self.device)
                with variant.open(work.context) as session:
                    row = self._timed(
                        ("outer step", shape.name, mode),
                        lambda: session.meta_gradient(work.problem, [work.segment]).images,  # noqa: B023
                        lambda: work.plain_gradient().images,  # noqa: B023
                    )
                    held = session.describe().get("held_steps")
                    yield evolve(row, note=f"{held} held" if held else "")

    def memory(self) -> Iterator[BenchRow]:
        """Peak memory that the meta-gradient of one outer step with N = 80 adds."""
        # On a CPU, memory is counted at each dispatched operation; operations of compiled steps are not dispatched.
        wanted = ("no graph held", "compiled") if self.device.type == "cuda" else ("no graph held",)
        modes = executor_modes(self.executor)
        for mode in (mode for mode in wanted if mode in modes):
            variant, memory = modes[mode]
            work = bench_work(BENCH_SHAPES["cifar-ipc1"], steps=MEMORY_STEPS, memory=memory, device=self.device)
            self.tick(f"memory, cifar-ipc1, {mode}")
            with variant.open(work.context) as session:
                ours = partial(session.meta_gradient, work.problem, [work.segment])
                ours()  # the first call also makes what is kept for later calls, which is not counted
                size = live_bytes(ours, self.device), live_bytes(work.plain_gradient, self.device)
            note = f"N = {MEMORY_STEPS}, extra peak"
            yield BenchRow(bench="memory", shape="cifar-ipc1", mode=mode, bytes=size, note=note)

    def augment(self) -> Iterator[BenchRow]:
        """Times of the matrices of the augmentation DSA, and of its warps, against loops over images."""
        rng = torch.Generator().manual_seed(0)
        for family in ("scale", "rotate"):
            augmentation = component("augment", "dsa", families=(family,))
            draws = augmentation.draw((AUGMENTED, 3, 32, 32), rng).to(self.device)
            make = augmentation.scales if family == "scale" else augmentation.rotations
            matrices = make(draws.values)
            yield self._timed(
                ("augmentation", f"{family} matrices", "vectorised"),
                lambda: make(draws.values),  # noqa: B023
                lambda: matrices_in_a_loop(family, draws.values),  # noqa: B023
                f"{AUGMENTED} images, against a list of numbers for each",
            )
            for channels, side in ((1, 8), (3, 32)):
                images = torch.randn(AUGMENTED, channels, side, side, generator=rng).to(self.device)
                yield self._timed(
                    ("augmentation", f"{family} {side}×{side}", "vectorised"),
                    lambda: augmentation.apply(images, draws),  # noqa: B023
                    lambda: warps_in_a_loop(images, matrices),  # noqa: B023
                    f"{AUGMENTED} images, against a warp of each",
                )

    def expert(self) -> Iterator[BenchRow]:
        """Time of an expert's epoch with snapshot and validation, against torch.optim.SGD in a loop without them."""
        work, data = self._training("cifar-ipc1")
        one = LabelledImages(images=data.images[:1], targets=data.targets[:1])
        rng = torch.Generator().manual_seed(0)

        def augment(images: Tensor) -> Tensor:
            b, c, h, w = images.shape
            augmentation = work.context.augmentation
            return augmentation.apply(images, augmentation.draw((b, c, h, w), rng).to(images.device))

        def plain() -> None:
            plain_training(work.plain, data.images, data.targets, 1, EPOCH.lr, EPOCH.batch_size, augment, rng)

        with self.executor.open(work.context) as session:
            threads = session.describe().get("network_threads")
            yield self._timed(
                ("expert epoch", "cifar-ipc1", "one network"),
                lambda: list(session.train_experts(EPOCH, data, one, [0], lambda position, epoch: None)),
                plain if threads is None else with_threads(int(str(threads)), plain),
                f"{TRAINED} images, batches of {EPOCH.batch_size}",
                compared=False,
            )

    def ensemble(self) -> Iterator[BenchRow]:
        """Time of four experts trained at once against one after another; no row if the executor cannot do so."""
        if not hasattr(self.executor, "together"):
            return
        work, data = self._training("digits")
        options: list[dict[str, Any]] = [{"together": 4}, {"together": 1}]
        many, one = (evolve(self.executor, **changed) for changed in options)

        def train(session: ExecutorSession) -> Call:
            return lambda: list(session.train_experts(EPOCH, data, data, [0, 1, 2, 3], lambda position, epoch: None))

        with many.open(work.context) as together, one.open(work.context) as alone:
            names = ("experts", "digits", "four at a time")
            yield self._timed(names, train(together), train(alone), "against one after another", compared=False)

    def workers(self) -> Iterator[BenchRow]:
        """Time of experts and of evaluations in two worker processes against one after another, and that they agree."""
        if not hasattr(self.executor, "workers"):
            return
        work, data = self._training("cifar-ipc1")
        options: list[dict[str, Any]] = [{"workers": 2}, {"workers": 1}]
        two, one = (evolve(self.executor, **changed) for changed in options)
        small = LabelledImages(images=data.images[:100], targets=data.targets[:100])
        longer = evolve(EPOCH, epochs=4)

        def experts(session: ExecutorSession) -> Call:
            def train() -> Tensor:
                found = session.train_experts(EPOCH, data, small, [0, 1, 2, 3], lambda position, epoch: None)
                return torch.stack([one.snapshots[-1] for one in sorted(found, key=lambda one: one.seed)])

            return train

        def evaluations(session: ExecutorSession) -> Call:
            def judge() -> Tensor:
                found = session.evaluate(longer, small, data, 0, range(4), "eval", lambda done: None)
                return torch.tensor(found, dtype=torch.float64)

            return judge

        with two.open(work.context) as shared, one.open(work.context) as alone:
            for bench, made in (("experts", experts), ("evaluations", evaluations)):
                names = (bench, "cifar-ipc1", "two workers")
                yield self._timed(names, made(shared), made(alone), "four networks, workers started before")

    def _training(self, name: str) -> tuple[BenchWork, LabelledImages]:
        """The network of a shape, and labelled random images to train it on."""
        shape, rng = BENCH_SHAPES[name], torch.Generator().manual_seed(1)
        images = torch.randn(TRAINED, shape.channels, shape.side, shape.side, generator=rng)
        labels = torch.arange(TRAINED) % NUM_CLASSES
        data = LabelledImages(images=images.to(self.device), targets=labels.to(self.device))
        return bench_work(shape, device=self.device), data

    def _timed(
        self, names: tuple[str, str, str], ours: Call, plain: Call, note: str = "", *, compared: bool = True
    ) -> BenchRow:
        """Times both sides; if `compared`, also records how far the tensors that they return differ."""
        self.tick(", ".join(names))
        error = None
        if compared:
            found, wanted = ours(), plain()
            error = float((found - wanted).abs().max() / wanted.abs().max())
        ratio = time_pairs(ours, plain, self.pairs, self.device)
        bench, shape, mode = names
        return BenchRow(bench=bench, shape=shape, mode=mode, ratio=ratio, error=error, note=note)


def with_threads(number: int, work: Call) -> Call:
    """The same work, done with so many threads of PyTorch."""

    def inner() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(number)
        try:
            return work()
        finally:
            torch.set_num_threads(before)

    return inner


def executor_modes(executor: AbstractExecutor) -> dict[str, tuple[AbstractExecutor, int]]:
    """The modes in which an executor can compute an outer step: for each a variant and `gradient.memory` in bytes."""
    ways = {name for name in ("compile", "graphs") if hasattr(executor, name)}

    def variant(on: set[str]) -> AbstractExecutor:
        chosen: dict[str, Any] = {name: name in on for name in ways}
        return evolve(executor, **chosen)

    found = {"all graphs held": (variant(set()), HOLD_ALL), "no graph held": (variant(set()), 0)}
    names = {"compiled": {"compile"}, "CUDA graphs": {"graphs"}, "compiled, CUDA graphs": {"compile", "graphs"}}
    return found | {name: (variant(on), 0) for name, on in names.items() if on <= ways}


def live_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Peak bytes that `work` allocates on top of what is allocated: by tensors on a CPU, by the allocator on a GPU."""
    if device.type != "cuda":
        return peak_bytes(work)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def matrices_in_a_loop(family: str, values: Mapping[str, Tensor]) -> Tensor:
    """DSA's matrices [B, 2, 2] float32, made image by image as lists of numbers, as in published code.

    Args:
        family: "scale" or "rotate".
        values: the random draws, each [B] in [0, 1): `x` and `y` for "scale", `u` for "rotate".
    """
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


def warps_in_a_loop(images: Tensor, matrices: Tensor) -> Tensor:
    """Warps images [B, C, H, W] by matrices [B, 2, 2], one after another."""
    found = []
    for image, matrix in zip(images, pad(matrices, (0, 1)), strict=True):
        grid = affine_grid(matrix[None], [1, *image.shape], align_corners=True)
        found.append(grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True))
    return torch.cat(found)


def machine(executor: AbstractExecutor) -> tuple[torch.device, dict[str, Any]]:
    """An executor's device, and a JSON-able record of device, versions and processor for the report."""
    with executor.open(bench_work(BENCH_SHAPES["digits"]).context) as session:
        device, described = session.device, session.describe()
    return device, {
        "device": described,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "executor": executor.name,
    }
