"""Sections on what is computed: the executor's contract, the augmentation, arithmetic, and a capture that fails."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from attrs import evolve, fields
from torch import Tensor

from ddfw import MetaGradient, component
from ddfw.engine.inner import EagerSteps, Network
from ddfw.engine.metagradient import meta_gradient
from ddfw.testing import check_executor
from ddfw_plugins.augmentations.dsa import FAMILIES
from ddfw_plugins.commands.bench.gpu.cases import Cases
from ddfw_plugins.commands.bench.gpu.stage import CPU, PLAIN, Figures, relative_error
from ddfw_plugins.commands.bench.work import BenchWork
from ddfw_plugins.commands.bench.yardstick import Plain, plain_settings
from ddfw_plugins.executors.cuda import ARITHMETIC, Cuda
from ddfw_plugins.executors.graphed import GraphedSteps

UNCOMPILED = {"compile": False, "graphs": False}
#: How often something is computed to see whether it has the same bits each time.
REPEATS = 4
#: Inner steps of a comparison of numbers: more of them would show chaos, not arithmetic.
FEW_STEPS = 5
#: Images of a comparison of the augmentation.
AUGMENTED = 100


def machine(cases: Cases) -> None:
    """The GPU, the versions, and the options that the executor has."""

    def look() -> Figures:
        found: Figures = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "options": {f.name: f.default for f in fields(Cuda)},
        }
        if cases.stage.pretend:
            return {"gpu": "none, pretended", **found}
        gpu = torch.cuda.get_device_properties(cases.stage.device)
        return {
            "gpu": gpu.name,
            "gpu_gb": gpu.total_memory / 2**30,
            "multiprocessors": gpu.multi_processor_count,
            "capability": f"{gpu.major}.{gpu.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
            "architectures": " ".join(torch.cuda.get_arch_list()),
            **found,
        }

    cases.case("machine", look)


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown: there is no nvidia-smi"
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout.strip()


def contract(cases: Cases) -> None:
    """Whether the executor runs at all, with the numbers of the CPU: its contract in float64, to 1e-10."""
    ways: dict[str, Figures] = {
        "eager": {},
        "CUDA graphs": {"graphs": True},
        "three at a time": {"together": 3},
        "three at a time, channels first": {"together": 3, "channels_last": False},
        "asked for bf16": {"training": "bf16", "gradient": "bf16", "graphs": True},
        "deterministic": {"deterministic": True, "graphs": True},
    }
    for title, options in ways.items():
        _check(cases, title, {**UNCOMPILED, **options})


def contract_compiled(cases: Cases) -> None:
    """The contract with compiled steps, as graphs and without."""
    _check(cases, "compiled, CUDA graphs", {"compile": True, "graphs": True})
    _check(cases, "compiled", {"compile": True, "graphs": False}, needs=30)


def _check(cases: Cases, title: str, options: Figures, needs: float = 3.0) -> None:
    def look() -> Figures:
        check_executor(cases.stage.executor(**options))
        return {"kept": True}

    cases.case(title, look, needs=needs, **options)


def augmentation(cases: Cases) -> None:
    """Each family of DSA against the CPU in float64, both ways, in both layouts, and whether it repeats to the bit."""
    rng = torch.Generator().manual_seed(0)
    number = 8 if cases.stage.pretend else AUGMENTED
    images, cotangent = (torch.randn(number, 3, 32, 32, generator=rng, dtype=torch.float64) for _ in range(2))
    layouts = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
    for family in FAMILIES:
        dsa = component("augment", "dsa", families=(family,))
        draws = dsa.draw(tuple(images.shape), rng)

        def both(
            device: torch.device, dtype: torch.dtype, layout: torch.memory_format, dsa: Any = dsa, draws: Any = draws
        ) -> tuple[Tensor, Tensor]:
            given = images.to(device, dtype).contiguous(memory_format=layout).requires_grad_()
            made = dsa.apply(given, draws.to(device))
            (back,) = torch.autograd.grad(made, given, cotangent.to(device, dtype))
            return made.detach(), back

        wanted = both(CPU, torch.float64, torch.contiguous_format)
        for name, layout in layouts.items():
            for dtype in (torch.float64, torch.float32):
                kind = str(dtype).removeprefix("torch.")
                call = partial(both, cases.stage.device, dtype, layout)
                cases.case(f"{family}, {name}, {kind}", partial(_compared, cases, call, wanted), family=family)


def _compared(cases: Cases, call: Callable[[], tuple[Tensor, Tensor]], wanted: tuple[Tensor, Tensor]) -> Figures:
    found = [call() for _ in range(REPEATS)]
    return {
        "value_error": relative_error(found[0][0], wanted[0]),
        "gradient_error": relative_error(found[0][1], wanted[1]),
        "same_bits": all(torch.equal(found[0][1], other[1]) for other in found),
        "stride": found[0][0].stride(),
        "ms": cases.stage.timed(call)["ms"],
    }


def arithmetic(cases: Cases) -> None:
    """The meta-gradient's error against float64 on the CPU, for each arithmetic, and whether it repeats to the bit."""
    stage = cases.stage
    here = stage.work("cifar-ipc1", steps=FEW_STEPS, device=CPU)
    there = stage.work("cifar-ipc1", steps=FEW_STEPS)
    wanted = cases.guarded("float64 on the CPU", {}, lambda: _gradient_on_cpu(_doubled(here)))
    if wanted is None:
        return
    ways: dict[str, Figures] = {"eager": {}, "CUDA graphs": {"graphs": True}, "deterministic": {"deterministic": True}}
    for way, more in ways.items():
        for name in ARITHMETIC:
            chosen = {**UNCOMPILED, "gradient": name, **more}
            cases.case(f"{name}, {way}", partial(_errors, cases, there, wanted, chosen), **chosen)
    for how in PLAIN:
        cases.case(f"plain loop, {how}", partial(_plain_errors, there, wanted, how), plain=how)
    for name in ARITHMETIC:
        chosen = {"gradient": name, "compile": True, "graphs": True}
        cases.case(f"{name}, compiled", partial(_errors, cases, there, wanted, chosen), needs=40, **chosen)


def _errors(cases: Cases, work: BenchWork, wanted: MetaGradient, options: Figures) -> Figures:
    with cases.stage.open(work.context, **options) as session:
        found = [session.meta_gradient(work.problem, [work.segment]) for _ in range(REPEATS)]
    return {
        "images_error": relative_error(found[0].images, wanted.images),
        "step_size_error": relative_error(found[0].step_size, wanted.step_size),
        "same_bits": all(torch.equal(found[0].images, other.images) for other in found),
    }


def _plain_errors(work: BenchWork, wanted: MetaGradient, how: Plain) -> Figures:
    with plain_settings(how):
        found = work.plain_gradient()
    images, size = found.images, found.step_size
    return {
        "images_error": relative_error(images, wanted.images),
        "step_size_error": relative_error(size, wanted.step_size),
    }


def _doubled(work: BenchWork) -> BenchWork:
    """The same work, its float32 numbers in float64."""
    problem, segment = work.problem, work.segment
    return evolve(
        work,
        problem=evolve(
            problem,
            images=problem.images.double(),
            targets=problem.targets.double(),
            step_size=problem.step_size.double(),
        ),
        segment=evolve(segment, start=segment.start.double(), target=segment.target.double()),
    )


def _gradient_on_cpu(work: BenchWork) -> MetaGradient:
    context = work.context
    network = Network(context.module)
    return meta_gradient(network, context.augmentation, context.loss, work.problem, [work.segment])


class _Synchronising(EagerSteps):
    """Steps that read a number from the device, which no capture allows."""

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        found = super().gradient(theta, images, targets)
        float(found.sum())
        return found


def capture(cases: Cases) -> None:
    """What a capture that fails leaves behind: right numbers, the ordinary stream, and a next capture that works."""
    stage = cases.stage
    work = stage.work("digits", steps=3)
    network = Network(work.context.module.to(stage.device))
    context = work.context

    def gradient(steps: GraphedSteps | None) -> MetaGradient:
        return meta_gradient(network, context.augmentation, context.loss, work.problem, [work.segment], steps=steps)

    def failed() -> Figures:
        wanted, told, before = gradient(None), list[str](), stage.allocated()
        steps = GraphedSteps(_Synchronising(network), say=told.append)
        found = {
            "error": relative_error(gradient(steps).images, wanted.images),
            "captured": steps.captured,
            "told": told,
            "on_default_stream": stage.on_default_stream(),
        }
        del steps
        return {**found, "bytes_kept": stage.allocated() - before}

    def next_one() -> Figures:
        wanted = gradient(None)
        steps = GraphedSteps(EagerSteps(network), say=lambda text: None)
        found = gradient(steps)
        return {"error": relative_error(found.images, wanted.images), "captured": steps.captured}

    cases.case("a step that waits for the device", failed)
    cases.case("the capture after it", next_one)
