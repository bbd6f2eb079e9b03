"""Where the preset's sections run: on a GPU, or on the CPU with a stand-in for whatever only CUDA has."""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, final

import torch
from attrs import asdict, evolve, frozen
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ddfw import AbstractExecutor, ExecutorContext, option
from ddfw.contracts.executor import ExecutorSession
from ddfw.engine.budget import StepBudget, peak_bytes
from ddfw.engine.inner import EagerSteps
from ddfw_plugins.commands.bench.shapes import GPU_SHAPES, BenchShape
from ddfw_plugins.commands.bench.work import BenchWork, bench_work
from ddfw_plugins.commands.bench.yardstick import Plain
from ddfw_plugins.executors.cuda import Cuda, CudaSession
from ddfw_plugins.executors.graphed import GraphedSteps

Figures = dict[str, Any]
CPU = torch.device("cpu")
#: How the plain loop is timed; the first is the reference.
PLAIN: tuple[Plain, ...] = ("defaults", "ieee", "benchmark")
#: Timings of one case: so many, or as many as fit this many seconds, but one at least.
TIMINGS, TIMING_SECONDS = 15, 2.0
#: So many kernels that take longest are named.
NAMED = 5


@frozen(kw_only=True)
class Stage:
    """A device with everything that is measured on it.

    Args:
        base: the executor `cuda` with the user's options; each case changes some of them.
        pretend: whether the CPU stands in for the GPU and all work is tiny.
    """

    base: Cuda
    pretend: bool

    @property
    def device(self) -> torch.device:
        """The GPU, or the CPU that stands in for it."""
        return CPU if self.pretend else torch.device(self.base.device)

    def executor(self, **options: Any) -> AbstractExecutor:
        """The executor with other options, or its stand-in."""
        changed = evolve(self.base, **options)
        return PretendedCuda(options=json.dumps(asdict(changed))) if self.pretend else changed

    def open(self, context: ExecutorContext, **options: Any) -> AbstractContextManager[ExecutorSession]:
        """A session of the executor with other options."""
        return self.executor(**options).open(context)

    def shape(self, name: str) -> BenchShape:
        """A size of work; with `pretend` a tiny one of the same form."""
        shape = GPU_SHAPES[name]
        if not self.pretend:
            return shape
        classes, batch = min(shape.num_classes, 10), shape.batch and 4
        return evolve(shape, width=4, side=8, depth=2, images=10, steps=2, num_classes=classes, batch=batch)

    def work(self, name: str, batch: int | None = None, **changed: Any) -> BenchWork:
        """The work of an outer step of a size, on the device unless `device` says otherwise.

        Args:
            name: the size.
            batch: images of each inner step, 0 for all; None for the number of the size.
            changed: further arguments of `bench_work`.
        """
        shape = self.shape(name)
        shape = shape if batch is None else evolve(shape, batch=batch)
        return bench_work(shape, **{"device": self.device, **changed})

    def wait(self) -> None:
        """Waits until the device has done everything."""
        if not self.pretend:
            torch.cuda.synchronize(self.device)

    def usable(self) -> bool:
        """Frees memory that nobody uses, and says whether the device still computes, on its ordinary stream."""
        gc.collect()
        try:
            if not self.pretend:
                torch.cuda.empty_cache()
            right = float(torch.ones(2, device=self.device).sum()) == 2
        except Exception:  # after some errors every call of CUDA fails
            return False
        return right and self.on_default_stream()

    def on_default_stream(self) -> bool:
        """Whether PyTorch's current stream is the device's default stream."""
        return self.pretend or torch.cuda.current_stream(self.device) == torch.cuda.default_stream(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of one call."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def timed(self, work: Callable[[], object]) -> Figures:
        """Seconds of the first call, and the median milliseconds of those after the second."""
        first, second = self.seconds(work), self.seconds(work)
        count = 1 if self.pretend else max(1, min(TIMINGS, int(TIMING_SECONDS / max(second, 1e-6))))
        times = [self.seconds(work) for _ in range(count)]
        return {"ms": 1e3 * statistics.median(times), "first_s": first}

    def kernels(self, work: Callable[[], object]) -> Figures:
        """How many kernels one call launches, how long the device is busy, and the kernels that take longest.

        Where the profiler fails, as it does without the rights to read the GPU's counters, its words instead.
        """
        wanted = "CPU" if self.pretend else "CUDA"
        try:
            self.wait()
            with profile(activities=[getattr(ProfilerActivity, wanted)], acc_events=True) as record:
                work()
                self.wait()
            events = [event for event in record.events() or () if event.device_type.name == wanted]
        except Exception as error:
            return {"profiler": f"{type(error).__name__}: {error}"}
        busy = Counter[str]()
        for event in events:
            busy[event.name[:48]] += event.self_cpu_time_total if self.pretend else event.device_time_total
        longest = {name: time / 1e3 for name, time in busy.most_common(NAMED)}
        return {"kernels": len(events), "busy_ms": sum(busy.values()) / 1e3, "longest_ms": longest}

    def peak(self, work: Callable[[], object]) -> Figures:
        """Megabytes of tensors that are live at most during a call, and that PyTorch has taken from the device."""
        if self.pretend:
            return {"peak_mb": peak_bytes(work) / 2**20, "reserved_mb": None}
        gc.collect()  # or graphs of the case before would count
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        peak, reserved = (f(self.device) for f in (torch.cuda.max_memory_allocated, torch.cuda.max_memory_reserved))
        return {"peak_mb": peak / 2**20, "reserved_mb": reserved / 2**20}

    def allocated(self) -> int:
        """Bytes of the tensors that are live on the device, after those that nobody reaches were freed."""
        gc.collect()
        self.wait()
        return 0 if self.pretend else torch.cuda.memory_allocated(self.device)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference over the norm of what is wanted, in float64 on the CPU."""
    reference = wanted.detach().double().cpu()
    return float((found.detach().double().cpu() - reference).norm() / reference.norm())


class PretendedSession(CudaSession):
    """A session of the executor `cuda` on the CPU: uncompiled, and what is captured is called again.

    Args:
        context: the parts of the run.
        options: the executor's options.
    """

    def __init__(self, context: ExecutorContext, options: Cuda) -> None:
        super().__init__(context, evolve(options, compile=False, graphs=False), CPU)
        if options.compile or options.graphs:
            student = self._student or self._network
            self._steps = GraphedSteps(EagerSteps(student), capture=lambda function, inputs: function)
            self._budget = StepBudget(held_steps=0)

    def describe(self) -> dict[str, object]:
        """As the other executors' sessions; nothing is asked of a GPU."""
        return {"type": "cpu", "gpu": "none, pretended", "gpu_bytes": 0, **super(CudaSession, self).describe()}


@final
@frozen(kw_only=True)
class PretendedCuda(AbstractExecutor):
    """Runs the code of the executor `cuda` on the CPU."""

    name: ClassVar[str] = "cuda"
    options: str = option("{}", help="the options of the executor `cuda`, as JSON")

    @property
    def experts_at_once(self) -> int:
        """The option `together`."""
        return Cuda(**json.loads(self.options)).together

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[PretendedSession]:
        """A session on the CPU."""
        yield PretendedSession(context, Cuda(**json.loads(self.options)))
