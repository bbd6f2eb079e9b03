"""What a run will cost before it is started: seconds extrapolated from short measurements, and bytes.

Any executor's session will do: only the methods of the contract are called, on random data of the run's shapes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from attrs import define, evolve, field, frozen

from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.records import Baseline
from ddfw.engine.distill import batch_sizes
from ddfw.errors import ConfigError, option_errors_at
from ddfw.forecast.memory import Footprint, Hold, expected_hold, footprint, highest_bytes, sample_problem
from ddfw.pipeline.evaluation.baselines import asked_baselines
from ddfw.pipeline.evaluation.evaluator import cross_contexts

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorContext, ExecutorSession
    from ddfw.contracts.settings import EvalSettings, TrainingSettings
    from ddfw.pipeline.prepare import Plan

#: Opens a session.
Open = Callable[["ExecutorContext"], AbstractContextManager["ExecutorSession"]]
Clock = Callable[[], float]

#: A call that takes longer than this is measured once; seconds.
LONG = 1.0
#: Calls of large networks get as many images as take about so long.
AFFORDABLE = 0.5
#: Once so many seconds have gone by, every further call is measured once.
PATIENCE = 6.0
#: Short calls are repeated for so long.
_REPEAT = 0.1
#: Learning rate of networks that are only timed: too small to diverge.
_LR = 1e-6

STAGES = ("experts", "distill", "evaluate")
WORDS = {"experts": "experts", "distill": "distillation", "evaluate": "evaluation"}
NOTE = "extrapolated from short measurements on this machine as busy as it is now"


@frozen(kw_only=True)
class Prediction:
    """What a run is expected to cost.

    Args:
        seconds: {experts, distill, evaluate, total} as in a summary's `seconds`, None if they could not be predicted.
        memory: None likewise.
        held_steps: how many step graphs the run will hold, None likewise.
        reasons: why not, by `seconds` and `memory`.
    """

    seconds: Mapping[str, float] | None
    memory: Footprint | None
    held_steps: int | None = None
    reasons: Mapping[str, str] = field(factory=dict)

    def record(self) -> dict[str, Any]:
        """JSON-able; keys start with `predicted`."""
        found: dict[str, Any] = {
            "predicted_seconds": None if self.seconds is None else {k: round(v, 3) for k, v in self.seconds.items()},
            "predicted_seconds_note": self.reasons.get("seconds", NOTE),
            "predicted_held_steps": self.held_steps,
        }
        if self.memory is None:
            return {**found, "predicted_bytes": None, "predicted_bytes_note": self.reasons.get("memory", "")}
        parts = {name.replace(" ", "_"): size for name, size in self.memory.parts.items()}
        return {
            **found,
            "predicted_bytes": {**parts, "total": self.memory.total},
            "predicted_bytes_device": str(self.memory.device),
            "predicted_bytes_stage": self.memory.stage,
            "predicted_bytes_available": self.memory.available,
        }

    def lines(self) -> dict[str, str]:
        """The same for people."""
        found = {}
        if self.memory is None:
            found["peak memory"] = f"not predicted: {self.reasons.get('memory', '')}"
        else:
            kind = "peak memory" if self.memory.device.type == "cpu" else f"{self.memory.device} memory"
            found[kind] = memory_text(self.memory)
        found["time"] = (
            f"not predicted: {self.reasons.get('seconds', '')}" if self.seconds is None else time_text(self.seconds)
        )
        return found


def predict(plan: Plan, *, clock: Clock = time.perf_counter) -> Prediction:
    """Measures for a few seconds on the configured executor; nothing is written, and no global state is touched.

    Whatever goes wrong in measuring is a reason in the result, and no error.

    Args:
        plan: what was configured.
        clock: in seconds.

    Raises:
        ConfigError: the executor refuses its options here, as it would refuse the run.
    """
    executor, peak = plan.config.executor, highest_bytes()
    try:
        with option_errors_at("executor"), executor.assemble() as crew:
            if crew.size > 1:
                return _nothing(f"a crew of {crew.size} processes is not measured")
            with executor.open(plan.context()) as session:
                return _predicted(plan, session, executor.open, clock, peak)
    except ConfigError:
        raise
    except Exception as error:
        return _nothing(_one_line(error))


def _predicted(plan: Plan, session: ExecutorSession, reopen: Open, clock: Clock, peak: int | None) -> Prediction:
    reasons: dict[str, str] = {}
    seconds: Mapping[str, float] | None = None
    memory, held = None, None
    try:
        seconds = predict_seconds(plan, session, reopen=reopen, clock=clock)
    except Exception as error:
        reasons["seconds"] = _one_line(error)
    try:
        memory = footprint(plan, session, len(missing_experts(plan)), peak)
        held = expected_hold(plan, session).steps
    except Exception as error:
        reasons["memory"] = _one_line(error)
    return Prediction(seconds=seconds, memory=memory, held_steps=held, reasons=reasons)


def _nothing(reason: str) -> Prediction:
    return Prediction(seconds=None, memory=None, reasons={"seconds": reason, "memory": reason})


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def missing_experts(plan: Plan) -> list[int]:
    """Seeds of the experts that the run would train."""
    there = plan.expert_set.store.index()
    return [seed for seed in plan.expert_set.seeds if seed not in there]


def predict_seconds(
    plan: Plan, session: ExecutorSession, *, reopen: Open, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Seconds of each stage, and in total.

    Args:
        plan: what was configured.
        session: of its executor.
        reopen: opens further sessions: of other networks, and one that holds no step graphs.
        clock: in seconds.

    Raises:
        Exception: whatever the session raises.
    """
    watch = Stopwatch(clock=clock)
    config, missing = plan.config, len(missing_experts(plan))
    compiling = time_compiling(plan, session, clock)
    outer = time_outer(plan, session, reopen, watch)
    own = time_networks(plan, session, watch)
    expert = time_expert(plan, session, own, watch) if missing else 0.0
    others = []
    for context in cross_contexts(plan).values():
        with reopen(context) as other:
            others.append(time_networks(plan, other, watch, thorough=False))
    images, settings = plan.layout.num_images, config.eval
    validation = len(plan.splits.validation.labels)
    select_epochs = settings.select_epochs or settings.epochs
    selection = settings.select_networks * own.network(images, select_epochs, validation)
    found = {
        "experts": missing * expert,
        "distill": compiling + config.outer.steps * outer + selections(config.outer.steps, settings.every) * selection,
        "evaluate": _evaluation(plan, own, others),
    }
    return {**found, "total": sum(found.values())}


def selections(steps: int, every: int) -> int:
    """How often a run selects: before the first step, every so many steps, and after the last."""
    return 1 + steps // every + (steps % every > 0)


def _evaluation(plan: Plan, own: NetworkCost, others: list[NetworkCost]) -> float:
    """The final table, the baselines' learning rates and their teachers' labels included."""
    settings, splits = plan.config.eval, plan.splits
    test, validation = len(splits.test), len(splits.validation.labels)
    asked = [b for b in asked_baselines(settings.baselines) if b.selection != "all"]
    baselines = {b.name: baseline_images(plan, b) for b in asked}

    def table(net: NetworkCost) -> float:
        subjects = [plan.layout.num_images, *baselines.values()]
        total = settings.networks * sum(net.network(n, settings.epochs, test) for n in subjects)
        if (rates := len(settings.baseline_lrs)) > 1:
            epochs = settings.select_epochs or settings.epochs
            tries = sum(net.network(n, epochs, validation) for n in baselines.values())
            total += rates * settings.select_networks * tries
        return total

    labelled = sum(baselines[b.name] for b in asked if b.labels == "teacher")
    total = table(own) + labelled * len(plan.expert_set.seeds) * own.judged
    if "full_data" in settings.baselines:
        total += settings.networks * own.network(len(splits.train.labels), settings.full_epochs, test)
    return total + sum(table(net) for net in others)


def baseline_images(plan: Plan, baseline: Baseline) -> int:
    """How many real images a baseline gets."""
    spec, budget = plan.splits.spec, plan.config.budget
    return spec.num_classes * baseline.images_per_class(spec, budget, budget.floats(spec), plan.layout.images_per_class)


@define(kw_only=True)
class Stopwatch:
    """Times calls: the first one warms up, unless it is a long one; then the median of a few."""

    clock: Clock
    _began: float | None = None

    def __call__(self, work: Callable[[], object]) -> float:
        """Seconds of one call."""
        if self._began is None:
            self._began = self.clock()
        first = self._once(work)
        if first > LONG or self.clock() - self._began > PATIENCE:
            return first
        times = [self._once(work)]
        while sum(times) < _REPEAT and len(times) < 15:
            times.append(self._once(work))
        return statistics.median(times)

    def _once(self, work: Callable[[], object]) -> float:
        began = self.clock()
        work()
        return self.clock() - began


def time_compiling(plan: Plan, session: ExecutorSession, clock: Clock) -> float:
    """Seconds that compiling the student's step takes, once in a run; 0 where nothing is compiled."""
    if not session.describe().get("compiled"):
        return 0.0
    problem, segment = sample_problem(plan, min(3, plan.config.outer.syn_steps), session.device)
    began = clock()
    float(session.meta_gradient(problem, [segment]).loss)
    return clock() - began


def time_outer(plan: Plan, session: ExecutorSession, reopen: Open, watch: Stopwatch) -> float:
    """Seconds of one outer step, from students of three steps and of one."""
    outer = plan.config.outer
    sizes = batch_sizes(plan.layout.num_images, outer.batch_syn, outer.syn_steps)
    fullness = sum(sizes) / (len(sizes) * max(sizes))
    # The longer one first: a session that holds graphs decides on its first problem how many.
    step, fixed = _student(plan, session, watch)
    hold: Hold = expected_hold(plan, session)
    if 0 < hold.steps < outer.syn_steps:
        with reopen(evolve(plan.context(), held_steps=0)) as without:
            again, _ = _student(plan, without, watch)
        share = hold.steps / outer.syn_steps
        step = share * step + (1 - share) * again
    return outer.segments_per_step * (fixed + outer.syn_steps * step * fullness)


def _student(plan: Plan, session: ExecutorSession, watch: Stopwatch) -> tuple[float, float]:
    """Seconds of an inner step, forward and backward, and what a student costs besides."""
    many = min(3, plan.config.outer.syn_steps)

    def seconds(steps: int) -> float:
        problem, segment = sample_problem(plan, steps, session.device)
        # Reading the loss waits for a device that works on its own.
        return watch(lambda: float(session.meta_gradient(problem, [segment]).loss))

    longer = seconds(many)
    if many == 1 or longer > 2 * LONG:
        return longer / many, 0.0
    shorter = seconds(1)
    step = max(0.0, (longer - shorter) / (many - 1))
    return step, max(0.0, shorter - step)


@frozen(kw_only=True)
class NetworkCost:
    """Seconds of networks that are trained and judged.

    Args:
        fixed: of one network, whatever it is trained on.
        step: of a step of training without images.
        image: for each image of a step.
        judged: for each image that is classified.
        batch_size: images per step.
    """

    fixed: float
    step: float
    image: float
    judged: float
    batch_size: int

    def network(self, images: int, epochs: int, judged: int) -> float:
        """One network, trained on so many images and judged on others."""
        steps = -(-images // self.batch_size)
        return self.fixed + epochs * (steps * self.step + images * self.image) + judged * self.judged


def time_networks(plan: Plan, session: ExecutorSession, watch: Stopwatch, *, thorough: bool = True) -> NetworkCost:
    """Times fresh networks: on as many images as are learned, and thoroughly also on a full batch."""
    settings: EvalSettings = plan.config.eval
    batch = min(settings.batch_size, len(plan.splits.train.labels))
    few = min(plan.layout.num_images, batch)
    judge = min(16, len(plan.splits.test))

    def seconds(images: int, epochs: int, judged: int) -> float:
        training = settings.small_set(_LR, epochs)
        subject, other = (_random(plan, n, session.device) for n in (images, judged))
        return watch(
            lambda: session.evaluate(training, subject, other, settings.seed, range(1), "select", lambda done: None)
        )

    once = seconds(few, 1, judge)
    more = 3 if once > 0.05 else 21
    one = max(0.0, (seconds(few, more, judge) - once) / (more - 1))
    affordable = int(AFFORDABLE / max(one / few, 1e-9))
    many = min(max(4 * judge, 2 * affordable), 1024, len(plan.splits.test))
    judged = max(0.0, (seconds(few, 1, many) - once) / (many - judge)) if many > judge else 0.0
    fixed = max(0.0, once - one - judge * judged)
    full = min(batch, max(2 * few, affordable)) if few < batch else max(1, few // 4)
    step, image = 0.0, one / few
    if thorough and full != few:
        once = seconds(full, 1, judge)
        epoch = once - fixed - judge * judged
        if once <= LONG / 2:
            more = 3 if once > 0.05 else 11
            epoch = (seconds(full, more, judge) - once) / (more - 1)
        image = max(0.0, (epoch - one) / (full - few))
        step = max(0.0, one - few * image)
    return NetworkCost(fixed=fixed, step=step, image=image, judged=judged, batch_size=settings.batch_size)


def time_expert(plan: Plan, session: ExecutorSession, own: NetworkCost, watch: Stopwatch) -> float:
    """Seconds of one expert, from an epoch of one batch and one of three."""
    settings: TrainingSettings = evolve(plan.config.experts.training, epochs=1, lr=_LR)
    images = len(plan.splits.train.labels)
    batch = min(settings.batch_size, images)
    passes = 2 if settings.sharpness is not None else 1
    affordable = int(AFFORDABLE / max(passes * own.image, 1e-9))
    tried = min(batch, max(1, affordable))
    validation = _random(plan, 1, session.device)

    def seconds(batches: int) -> float:
        rows = torch.arange(batches * tried) % images
        train = LabelledImages(
            images=plan.space.encode(plan.splits.train.images[rows].to(session.device), plan.dtype),
            targets=plan.splits.train.labels[rows].to(session.device),
        )
        asked = evolve(settings, batch_size=tried)
        return watch(lambda: list(session.train_experts(asked, train, validation, [0], lambda p, e: None)))

    once = seconds(1)
    step = once if once > LONG else max(0.0, (seconds(3) - once) / 2)
    besides = max(0.0, once - step)
    epoch = besides + step * images / tried + len(plan.splits.validation.labels) * own.judged
    return plan.config.experts.epochs * epoch


def _random(plan: Plan, count: int, device: torch.device) -> LabelledImages:
    spec = plan.splits.spec
    images = torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(count), dtype=torch.float32)
    return LabelledImages(
        images=images.to(device, plan.dtype), targets=(torch.arange(count) % spec.num_classes).to(device)
    )


def time_text(seconds: Mapping[str, float]) -> str:
    """`about 12 min (experts 3 min, distillation 7 min, evaluation 2 min)`."""
    parts = ", ".join(f"{WORDS[stage]} {duration(seconds[stage])}" for stage in STAGES)
    return f"about {duration(seconds['total'])} ({parts}), {NOTE}"


def duration(seconds: float) -> str:
    """Two digits and a unit."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds / 86400)} d"


def memory_text(memory: Footprint) -> str:
    """`about 1.4 GB (data 0.6, step graphs 0.4, …) of 22 GB available`."""
    unit, size = ("GB", 1e9) if memory.total >= 1e9 else ("MB", 1e6)
    shown = sorted(memory.parts.items(), key=lambda part: -part[1])
    parts = ", ".join(f"{name} {_digits(b / size)}" for name, b in shown if b >= 0.01 * memory.total)
    there = "" if memory.available is None else f", {_digits(memory.available / 1e9)} GB available"
    when = {**WORDS, "loading": "loading"}[memory.stage]
    return f"about {_digits(memory.total / size)} {unit} in {when} ({parts}){there}"


def _digits(value: float) -> str:
    """Two significant digits, and no exponent."""
    if value < 0.05:
        return "0"
    return f"{value:.1f}" if value < 9.95 else f"{float(f'{value:.2g}') if value < 100 else round(value):.0f}"
