"""The conformance check of executors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.evaluation import EvaluationTask, ask_sets
from ddfw.contracts.executor import (
    AbstractExecutor,
    Evaluated,
    ExecutorContext,
    ExecutorSession,
    LabelledImages,
    Problem,
    Schedule,
    TrainedExpert,
    ask_classes,
)
from ddfw.contracts.settings import GradientSettings, TrainingSettings
from ddfw.contracts.trajectory import Segment
from ddfw.engine.evaluate import evaluate_network
from ddfw.engine.experts import train_expert
from ddfw.engine.inner import Network, build_module
from ddfw.engine.metagradient import meta_gradient
from ddfw.errors import DivergedError, OptionError
from ddfw.testing._common import Checked, generator, undisturbed
from ddfw.testing._component import checking
from ddfw.testing._fakes import Brighten, EndAndMiddle, TinyModel, real_images
from ddfw.testing._tensors import normal

SPEC = ImageSpec(channels=1, height=6, width=6, num_classes=3)
SETTINGS = TrainingSettings(epochs=2, lr=0.1, momentum=0.5, weight_decay=1e-3, batch_size=8)


def check_executor(executor: AbstractExecutor, *, seed: int = 0) -> None:
    """Checks an executor by comparing its results for a tiny float64 network with the engine's results on the CPU.

    Args:
        executor: the executor, with the options to check.
        seed: seed of the data and of the generators.

    Raises:
        ConformanceError: the executor breaks its contract; the text tells the first fault found.
        OptionError: this machine cannot do what the options ask for; a test may then be skipped.
    """
    with checking("executor", executor, AbstractExecutor, allow=(OptionError,)) as subject:
        case = _Case(subject=subject, executor=executor, seed=seed)
        with undisturbed(subject, "a session", ignore=("Python's",)), executor.open(case.context()) as session:
            wrong = f"device has to be a torch.device, got {session.device!r}"
            subject.require(isinstance(session.device, torch.device), wrong)
            for check in (case.check_description, case.check_experts, case.check_gradient, case.check_evaluation):
                check(session)
            case.check_description(session)
        with undisturbed(subject, "a session that ends with an exception"):
            subject.passes_on(executor.open(case.context()))


@frozen(kw_only=True)
class _Case:
    """The checks of one executor on one small run."""

    subject: Checked
    executor: AbstractExecutor
    seed: int

    def context(self) -> ExecutorContext:
        return ExecutorContext(
            model=TinyModel(),
            module=build_module(TinyModel(), SPEC),
            augmentation=Brighten(),
            loss=EndAndMiddle(),
            gradient=GradientSettings(),
            dtype=torch.float64,
        )

    def data(self, per_class: int, shift: int) -> LabelledImages:
        real = real_images(SPEC, per_class, torch.float64, self.seed + shift)
        return LabelledImages(images=real.images, targets=real.labels)

    def check_description(self, session: ExecutorSession) -> None:
        try:
            found = session.describe()
            json.dumps(found, allow_nan=False)
        except (TypeError, ValueError) as error:
            self.subject.fail(f"describe cannot be written as JSON ({error}); it goes into the manifest")
        self.subject.require(isinstance(found, dict) and found, "describe has to say something of the device")

    def check_experts(self, session: ExecutorSession) -> None:
        """Checks that experts equal the engine's, whatever other seeds are trained in the same call."""
        subject, context = self.subject, self.context()
        train, judge = self.data(8, 1), self.data(4, 2)
        there, judge_there = _to(train, session.device), _to(judge, session.device)
        told: list[tuple[int, int]] = []

        def ask(seeds: list[int]) -> dict[int, TrainedExpert]:
            found = session.train_experts(SETTINGS, there, judge_there, seeds, lambda *at: told.append(at))
            return {expert.seed: expert for expert in found}

        with subject.unchanged("train_experts changes the training images; work on copies", lambda: there):
            found = ask([3, 5])
        subject.require(sorted(found) == [3, 5], f"train_experts gives experts {sorted(found)} for the seeds 3 and 5")
        wrong = f"train_experts tells on_epoch {told}, expected (position in seeds, epochs done) once for each"
        subject.require(sorted(told) == [(p, e) for p in range(2) for e in range(1, SETTINGS.epochs + 1)], wrong)
        engine = partial(train_expert, context.model, Network(context.module), context.augmentation, SETTINGS)
        for seed, expert in found.items():
            wanted = engine(train, judge, seed, lambda epoch: None)
            self.require_close("train_experts", f"expert {seed}", expert.snapshots, wanted.snapshots, 1e-8)
            wrong = "train_experts has to give one accuracy and one loss per epoch"
            subject.require(len(expert.validation_accuracy) == len(expert.train_loss) == SETTINGS.epochs, wrong)
        alone = ask([5])[5]
        self.require_close("train_experts", "an expert beside others", found[5].snapshots, alone.snapshots, 1e-8)
        subject.require(ask([]) == {}, "train_experts gives experts where no seed was asked for")

    def problem(self, device: torch.device) -> tuple[Problem, list[Segment]]:
        """A problem with two segments of three steps each, whose batches overlap."""
        rng = generator(self.seed + 4)

        def schedule(*batches: list[int]) -> Schedule:
            draws = [Brighten().draw((len(rows), *SPEC.shape), rng) for rows in batches]
            return Schedule(
                batches=tuple(torch.tensor(rows, device=device) for rows in batches),
                draws=tuple(d.to(device) for d in draws),
            )

        problem = Problem(
            images=normal((4, *SPEC.shape), rng).to(device),
            targets=normal((4, SPEC.num_classes), rng).softmax(dim=1).to(device),
            step_size=torch.tensor(0.2, dtype=torch.float64, device=device),
            schedules=(schedule([0, 1], [2, 3], [0]), schedule([3, 1], [0, 2], [1, 2])),
        )
        theta = TinyModel().init(build_module(TinyModel(), SPEC), generator(self.seed)).double()
        starts = theta + 0.1 * normal((2, len(theta)), rng)
        targets = (starts + 0.1 * normal(starts.shape, rng)).to(device)
        segments = [
            Segment(start=start, target=target, expert=expert, start_epoch=0, target_epoch=2)
            for expert, (start, target) in enumerate(zip(starts.to(device), targets, strict=True))
        ]
        return problem, segments

    def check_gradient(self, session: ExecutorSession) -> None:
        """Checks that the meta-gradient equals the engine's and that the problem is not changed.

        It is computed twice, since a session may run other code after its first call.
        """
        context = self.context()
        problem, segments = self.problem(session.device)
        tensors = [problem.images, problem.targets, problem.step_size, *(s.start for s in segments)]
        engine = partial(meta_gradient, Network(context.module), context.augmentation, context.loss)
        wrong = "meta_gradient changes the problem or a segment; work on copies"
        for count, times, hint in ((2, 2, ""), (1, 1, " (one segment)")):
            here, segments_here = self.problem(_CPU)
            wanted = engine(evolve(here, schedules=here.schedules[:count]), segments_here[:count])
            asked = evolve(problem, schedules=problem.schedules[:count])
            for _ in range(times):
                with self.subject.unchanged(wrong, lambda: tensors):
                    found = session.meta_gradient(asked, segments[:count])
                for name in ("loss", "images", "targets", "step_size"):
                    pair = getattr(found, name), getattr(wanted, name)
                    self.require_close("meta_gradient", f"{name}{hint}", *pair, 1e-10)

    def check_evaluation(self, session: ExecutorSession) -> None:
        """Checks that the accuracy of network i depends only on seed, purpose and i."""
        context = self.context()
        engine = partial(evaluate_network, context.model, Network(context.module), context.augmentation, SETTINGS)
        train, judge = self.data(2, 5), self.data(10, 6)
        there, judge_there = _to(train, session.device), _to(judge, session.device)
        purposes: tuple[Literal["select", "eval"], ...] = ("eval", "select")
        for purpose in purposes:
            told: list[int] = []
            found = session.evaluate(SETTINGS, there, judge_there, self.seed, range(4), purpose, told.append)
            wrong = f"evaluate tells on_network {told} for 4 networks, expected 1 … 4"
            self.subject.require(sorted(told) == [1, 2, 3, 4], wrong)
            wanted = [engine(train, judge, self.seed, i, purpose) for i in range(4)]
            # On another device rounding may put an image between two classes into the other class.
            near = 1.5 / len(judge.targets)
            self.subject.require(
                len(found) == 4 and all(abs(a - b) <= near for a, b in zip(found, wanted, strict=True)),
                f"evaluate gives {list(found)} for purpose {purpose}, the engine {wanted}",
            )
            alone = session.evaluate(SETTINGS, there, judge_there, self.seed, range(2, 4), purpose, told.append)
            self.subject.require(
                list(alone) == list(found)[2:],
                "evaluate's network i depends on which others are trained; it is a function of (seed, purpose, i) "
                "alone",
            )
            again = ask_classes(session, SETTINGS, there, judge_there, self.seed, range(4), purpose, lambda done: None)
            self.check_classes(again, found, judge_there)
        self.check_sets(session, there, judge_there)

    def check_sets(self, session: ExecutorSession, train: LabelledImages, judge: LabelledImages) -> None:
        """Checks that several sets that are evaluated side by side have the accuracies of each by itself."""
        tasks = [
            EvaluationTask(
                settings=evolve(SETTINGS, lr=lr),
                train=train,
                test=judge,
                networks=range(2),
                purpose="eval",
                classes=True,
            )
            for lr in (SETTINGS.lr, SETTINGS.lr / 8)
        ]
        told: list[tuple[int, int]] = []
        found = list(ask_sets(session, tasks, self.seed, lambda *at: told.append(at)))
        positions = sorted(position for position, _ in found)
        self.subject.require(positions == [0, 1], f"evaluate_sets gives the sets {positions} of 0 and 1")
        wrong = f"evaluate_sets tells on_network {told}, expected (set, networks done) once for each network"
        self.subject.require(sorted(told) == [(p, n) for p in range(2) for n in (1, 2)], wrong)
        for position, evaluated in found:
            if isinstance(evaluated, DivergedError):
                self.subject.fail(f"evaluate_sets: set {position} diverges, and does not by itself ({evaluated})")
            settings = tasks[position].settings
            alone = session.evaluate(settings, train, judge, self.seed, range(2), "eval", lambda done: None)
            self.check_classes(evaluated, alone, judge)

    def check_classes(self, found: Evaluated, accuracies: Sequence[float], test: LabelledImages) -> None:
        """Checks that predicted classes, where a session gives some, are those behind the accuracies."""
        number = len(accuracies)
        self.subject.require(
            tuple(found.accuracies) == tuple(accuracies),
            f"evaluate_classes gives the accuracies {list(found.accuracies)}, evaluate {list(accuracies)}",
        )
        if (predicted := found.predicted) is None:
            return
        wanted = (number, len(test.targets))
        self.subject.require(
            tuple(predicted.shape) == wanted and not predicted.is_floating_point(),
            f"evaluate_classes predicts {tuple(predicted.shape)} in {predicted.dtype}, expected {wanted} integers",
        )
        right = [float((row.cpu() == test.targets.cpu()).double().mean()) for row in predicted]
        self.subject.require(
            all(abs(a - b) < 1e-9 for a, b in zip(right, accuracies, strict=True)),
            f"evaluate_classes predicts classes that are right in {right} of the images, its accuracies are "
            f"{list(accuracies)}",
        )

    def require_close(self, what: str, part: str, found: Tensor, wanted: Tensor, tolerance: float) -> None:
        here, reference = found.detach().cpu(), wanted.detach().cpu()  # both may be a session's own
        kinds = [f"{tuple(t.shape)} in {t.dtype}" for t in (here, reference)]
        self.subject.require(kinds[0] == kinds[1], f"{what}: {part} is {kinds[0]}, expected {kinds[1]}")
        error = float((here - reference).abs().max()) / (float(reference.abs().max()) or 1.0)
        self.subject.require(
            error <= tolerance,
            f"{what}: {part} differs from the engine's by {error:.3g} (relative, float64), allowed is {tolerance:g}; "
            "every executor gives the same numbers",
        )


_CPU = torch.device("cpu")


def _to(data: LabelledImages, device: torch.device) -> LabelledImages:
    return LabelledImages(images=data.images.to(device), targets=data.targets.to(device))
