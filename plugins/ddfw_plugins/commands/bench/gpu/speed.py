"""Sections on speed and memory: outer steps, experts, evaluations, and a large problem's peak."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from ddfw import LabelledImages, TrainingSettings
from ddfw_plugins.commands.bench.gpu.cases import Cases
from ddfw_plugins.commands.bench.gpu.numbers import UNCOMPILED
from ddfw_plugins.commands.bench.gpu.stage import PLAIN, Figures, Stage
from ddfw_plugins.commands.bench.suite import HOLD_ALL
from ddfw_plugins.commands.bench.work import BenchWork
from ddfw_plugins.commands.bench.yardstick import Plain, plain_settings

#: The arithmetic of meta-gradients in which the other options are compared.
FASTER = {"gradient": "tf32"}
#: Seconds that compiling the two functions of a step takes about.
COMPILING = 45.0
#: Images of the training set of experts; images and epochs of an expert as published, for figures in experts.
TRAINED, PUBLISHED_IMAGES, PUBLISHED_EPOCHS = 10_240, 50_000, 50
#: Images of each step of training.
BATCH = 256
#: Networks and epochs of an evaluation on ten images.
NETWORKS, EPOCHS = 16, 100


def outer_ipc1(cases: Cases) -> None:
    """An outer step of CIFAR-10 with one image per class: ddfw's ways against the plain loop."""
    outer(cases, "cifar-ipc1")


def outer_ipc10(cases: Cases) -> None:
    """The same with ten images per class, and with Inductor's choice of layouts switched off."""
    outer(cases, "cifar-ipc10", layouts=True)


def outer_ipc50(cases: Cases) -> None:
    """The same with fifty images per class."""
    outer(cases, "cifar-ipc50")


def outer(cases: Cases, shape: str, layouts: bool = False) -> None:
    """Times one outer step in each way; `ratio` is to the plain loop with PyTorch's defaults."""
    work = cases.stage.work(shape)
    reference: float | None = None
    for how in PLAIN:
        found = cases.case(f"plain loop, {how}", partial(_plain, cases.stage, work, how), needs=3, plain=how)
        reference = found.get("ms") if how == "defaults" else reference
    for title, options in _ways():
        _ddfw(cases, shape, title, options, reference)
    if layouts:
        options = {**FASTER, "compile": True, "graphs": True}
        _ddfw(cases, shape, "compiled, CUDA graphs, layouts as given", options, reference, without_layouts)


def _ways() -> Iterator[tuple[str, Figures]]:
    """The ways to compute an outer step, those first that the defaults depend on most."""
    for compile in (False, True):
        for name in ("tf32", "float32", "bf16"):
            title = f"{name}, compiled, CUDA graphs" if compile else f"{name}, CUDA graphs"
            yield title, {"gradient": name, "compile": compile, "graphs": True}
    yield "eager, all graphs held", {**FASTER, **UNCOMPILED, "memory": HOLD_ALL}
    yield "eager, no graph held", {**FASTER, **UNCOMPILED, "memory": 0}
    yield "deterministic, CUDA graphs", {**FASTER, "deterministic": True, "compile": False, "graphs": True}
    yield "compiled", {**FASTER, "compile": True, "graphs": False}


def _ddfw(
    cases: Cases,
    shape: str,
    title: str,
    options: Figures,
    reference: float | None,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    stage, chosen = cases.stage, dict(options)
    work = stage.work(shape, memory=chosen.pop("memory", 0))

    def look() -> Figures:
        with around(), stage.open(work.context, **chosen) as session:
            call = partial(session.meta_gradient, work.problem, [work.segment])
            found = {**stage.timed(call), **stage.peak(call), **stage.kernels(call)}
            about = session.describe()
        ratio = found["ms"] / reference if reference else None
        happened = {key: about.get(key) for key in ("compiled", "graphs", "held_steps")}
        return {"ratio": ratio, **found, "session": happened}

    cases.case(title, look, needs=COMPILING if options["compile"] else 3, **options)


def _plain(stage: Stage, work: BenchWork, how: Plain) -> Figures:
    with plain_settings(how):
        return {
            **stage.timed(work.plain_gradient),
            **stage.peak(work.plain_gradient),
            **stage.kernels(work.plain_gradient),
        }


def without_layouts() -> AbstractContextManager[object]:
    """Inductor leaves the layouts of convolutions as they are inside the block."""
    from torch._inductor import config

    return config.patch(layout_optimization=False)  # type: ignore[no-any-return]


def experts(cases: Cases) -> None:
    """Images per second of the training of experts, by arithmetic, layout and number at a time."""
    stage = cases.stage
    work = stage.work("cifar-ipc1")
    data = random_images(work, 64 if stage.pretend else TRAINED, stage.device)
    judge = LabelledImages(images=data.images[:64], targets=data.targets[:64])
    settings = TrainingSettings(epochs=1, lr=0.01, momentum=0.0, weight_decay=0.0, batch_size=BATCH)

    def look(together: int, options: Figures) -> Figures:
        with stage.open(work.context, **UNCOMPILED, **options) as session:
            seeds = list(range(together))
            found = stage.timed(lambda: list(session.train_experts(settings, data, judge, seeds, lambda *at: None)))
        rate = 1e3 * len(data.images) * together / found["ms"]
        hour = 3600 * rate / (PUBLISHED_IMAGES * PUBLISHED_EPOCHS)
        return {"images_per_s": rate, "experts_per_hour": hour, "ms": found["ms"]}

    every = [(training, last) for training in ("tf32", "bf16", "float32") for last in (True, False)]
    for together in (1, 4) if stage.pretend else (1, 4, 16):
        for training, last in every if together == 1 else every[:3]:
            options: Figures = {"training": training, "channels_last": last, "together": together}
            title = f"{training}, channels {'last' if last else 'first'}, {together} at a time"
            cases.case(title, partial(look, together, options), needs=2, **options)


def evaluations(cases: Cases) -> None:
    """Steps per second of evaluation networks on ten images, by the number at a time."""
    stage = cases.stage
    work = stage.work("cifar-ipc1")
    few = random_images(work, 10, stage.device)
    epochs, number = (2, 4) if stage.pretend else (EPOCHS, NETWORKS)
    settings = TrainingSettings(epochs=epochs, lr=0.01, momentum=0.9, weight_decay=5e-4, batch_size=BATCH)

    def look(together: int) -> Figures:
        with stage.open(work.context, **UNCOMPILED, together=together) as session:
            seconds = [
                stage.seconds(lambda: session.evaluate(settings, few, few, 0, range(number), "eval", lambda done: None))
                for _ in range(2)
            ]
        steps = number * epochs / seconds[1]
        return {"steps_per_s": steps, "networks_of_1000_steps_per_minute": 60 * steps / 1000, "first_s": seconds[0]}

    for together in (1, 4) if stage.pretend else (1, 4, 16):
        title = f"{together} at a time"
        cases.case(title, partial(look, together), needs=8, together=together, networks=number, epochs=epochs)


def memory(cases: Cases) -> None:
    """Peak memory of an outer step of CIFAR-100 with 50 images per class and N = 80, and memory given back after it."""
    stage, shape = cases.stage, cases.stage.shape("cifar100-ipc50")
    for batch, title in ((shape.batch, "a published batch"), (0, "all images in each step")):
        for way, chosen in (("CUDA graphs", {"compile": False, "graphs": True}), ("eager", UNCOMPILED)):
            given = {"images": shape.images, "batch": batch or shape.images, "steps": shape.steps}
            look = partial(_peak, stage, batch, {**FASTER, **chosen})
            cases.case(f"{title}, {way}", look, needs=10 if batch else 15, **given, **FASTER, **chosen)


def _peak(stage: Stage, batch: int, options: Figures) -> Figures:
    before = stage.allocated()
    work = stage.work("cifar100-ipc50", memory=0, batch=batch)
    with stage.open(work.context, **options) as session:
        found = stage.peak(partial(session.meta_gradient, work.problem, [work.segment]))
    del work, session
    return {**found, "bytes_kept": stage.allocated() - before}


def random_images(work: BenchWork, number: int, device: torch.device) -> LabelledImages:
    """Random images [number, C, H, W] of a work's size with classes as labels, the same each time."""
    size, classes = work.problem.images.shape[1:], work.problem.targets.shape[1]
    images = torch.randn(number, *size, generator=torch.Generator().manual_seed(1))
    return LabelledImages(images=images.to(device), targets=(torch.arange(number) % classes).to(device))
