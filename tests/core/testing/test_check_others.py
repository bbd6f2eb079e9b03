"""The checks of the other eight kinds: a right component passes, each wrong one is told what it does wrong."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, final

import attrs
import pytest
import torch
from attrs import frozen
from torch import nn

from ddfw import (
    AbstractAugmentation,
    AbstractDataset,
    AbstractExecutor,
    AbstractLabels,
    AbstractMatchingLoss,
    AbstractModel,
    AbstractObserver,
    AbstractTrajectory,
    DataError,
    Draws,
    ObserverSession,
    ParamGroup,
    Segment,
    Split,
    Splits,
    option,
    testing,
)
from ddfw.contracts.executor import Evaluated
from ddfw.engine.evaluate import evaluate_network
from ddfw.engine.experts import train_expert
from ddfw.engine.inner import Network
from ddfw.engine.metagradient import meta_gradient
from ddfw.testing import ConformanceError


@frozen(kw_only=True)
class Labels(AbstractLabels):
    """Learned logits from the teachers."""

    name: ClassVar[str] = "mine"

    def floats_per_image(self, spec):
        return spec.num_classes

    def init(self, layout, images, teachers, rng):
        return {"y": teachers.logits(images).mean(dim=0)}

    def targets(self, params, index):
        return params["y"][index].softmax(dim=1)

    def param_groups(self, params):
        return (ParamGroup(keys=("y",), lr=1.0),)


@frozen(kw_only=True)
class Traj(AbstractTrajectory):
    """Neighbouring checkpoints."""

    name: ClassVar[str] = "mine"

    def prepare(self, experts):
        return [experts.snapshots(e, range(experts.num_epochs + 1)) for e in range(experts.num_experts)]

    def segment(self, trajectories, low, high, rng):
        expert = int(torch.randint(len(trajectories), (), generator=rng))
        first = int(-(-low // 1))
        epoch = first + int(torch.randint(int(-(-high // 1)) - first, (), generator=rng))
        start, target = trajectories[expert][epoch : epoch + 2]
        return Segment(start=start, target=target, expert=expert, start_epoch=epoch, target_epoch=epoch + 1)

    def stored_bytes(self, trajectories):
        return sum(t.numel() * t.element_size() for t in trajectories)


@frozen(kw_only=True)
class Loss(AbstractMatchingLoss):
    """Squared distance of the end."""

    name: ClassVar[str] = "mine"

    def loss(self, path, segment):
        return (path[-1] - segment.target).square().sum()


@frozen(kw_only=True)
class Model(AbstractModel):
    """A linear network."""

    name: ClassVar[str] = "mine"

    def build(self, spec):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(spec.floats_per_image, 4), nn.ReLU(), nn.Linear(4, spec.num_classes)
        )


@frozen(kw_only=True)
class Augment(AbstractAugmentation):
    """Random contrast."""

    name: ClassVar[str] = "mine"

    def draw(self, shape, rng):
        return Draws(values={"u": torch.rand(shape[0], generator=rng)})

    def apply(self, images, draws):
        return images * (draws.values["u"].to(images.dtype) + 0.5)[:, None, None, None]


@frozen(kw_only=True)
class Data(AbstractDataset):
    """Random images."""

    name: ClassVar[str] = "mine"

    def load(self, root):
        rng = torch.Generator().manual_seed(0)

        def split(count):
            images = torch.randint(0, 256, (count, 1, 6, 6), generator=rng, dtype=torch.uint8)
            return Split(images=images, labels=torch.arange(count) % 3)

        return Splits.carve(
            split(60),
            split(30),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=255.0,
            class_names=["a", "b", "c"],
            source="noise",
            licence="none",
        )


class Session:
    """The engine on the CPU."""

    device = torch.device("cpu")

    def __init__(self, context):
        self.context, self.network = context, Network(context.module)

    def describe(self):
        return {"type": "cpu"}

    def train_experts(self, settings, train, validation, seeds, on_epoch):
        c = self.context
        for p, seed in enumerate(seeds):
            yield train_expert(
                c.model, self.network, c.augmentation, settings, train, validation, seed, lambda e, p=p: on_epoch(p, e)
            )

    def meta_gradient(self, problem, segments):
        return meta_gradient(self.network, self.context.augmentation, self.context.loss, problem, segments)

    def evaluate(self, settings, subject, judge, seed, networks, purpose, on_network):
        c, found = self.context, []
        for done, i in enumerate(networks, start=1):
            found.append(
                evaluate_network(c.model, self.network, c.augmentation, settings, subject, judge, seed, i, purpose)
            )
            on_network(done)
        return tuple(found)


@frozen(kw_only=True)
class Executor(AbstractExecutor):
    """The engine on the CPU."""

    name: ClassVar[str] = "mine"

    @contextmanager
    def open(self, context):
        yield Session(context)


@frozen(kw_only=True)
class Observer(AbstractObserver):
    """Writes nothing."""

    name: ClassVar[str] = "mine"

    @contextmanager
    def open(self, run):
        yield ObserverSession()


RIGHT = {
    "labels": Labels,
    "traj": Traj,
    "loss": Loss,
    "model": Model,
    "augment": Augment,
    "data": Data,
    "executor": Executor,
    "observer": Observer,
}


def make(kind: str, **methods):
    """The right component of a kind with some methods replaced."""
    return final(frozen(kw_only=True)(type("Wrong", (RIGHT[kind],), {"__doc__": "Wrong.", **methods})))()


def check(kind: str, component) -> None:
    getattr(testing, f"check_{kind}")(component)


def refused(kind: str, *fragments: str, **methods) -> None:
    """One fault, and what its message has to say."""
    with pytest.raises(ConformanceError) as error:
        check(kind, make(kind, **methods))
    text = str(error.value)
    assert text.startswith(f"{kind} mine: "), text
    for fragment in fragments:
        assert re.search(fragment, text), text


@pytest.mark.parametrize("kind", RIGHT)
def test_a_right_component_passes(kind):
    """Broken: false alarms."""
    check(kind, make(kind))


@pytest.mark.parametrize("kind", RIGHT)
def test_each_option_needs_help_and_a_place_in_a_file(kind):
    """Broken: a component that cannot be listed or saved passes."""

    @final
    @frozen(kw_only=True)
    class Silent(RIGHT[kind]):
        """An option without help."""

        size: int = 3

    @final
    @frozen(kw_only=True)
    class Lost(RIGHT[kind]):
        """An option whose None does not come back."""

        size: int | None = option(3, help="a size")

    with pytest.raises(ConformanceError, match=f"{kind} mine: option size has no help"):
        check(kind, Silent())
    with pytest.raises(ConformanceError, match="comes back from its configuration file"):
        check(kind, Lost(size=None))
    with pytest.raises(ConformanceError, match="expected an instance of a subclass"):
        check(kind, object())


def test_labels_that_are_wrong():
    """Broken: each of these labels passes."""

    def init(noise):
        return lambda self, layout, images, teachers, rng: {
            "y": teachers.logits(images).mean(dim=0) + noise(layout.num_images, layout.spec.num_classes)
        }

    cache = {}

    def cached(self, params, index):
        return cache.setdefault(len(index), params["y"][index].softmax(dim=1))

    refused("labels", "init draws from torch's global generator", init=init(torch.rand))
    refused("labels", "understates its floats", floats_per_image=lambda self, spec: 1)
    refused("labels", "targets ignores the index", targets=lambda self, p, index: p["y"].softmax(dim=1))
    refused(
        "labels", "targets returns a detached", targets=lambda self, p, index: p["y"].detach()[index].softmax(dim=1)
    )
    refused("labels", "targets hard-codes a dtype", targets=lambda self, p, index: p["y"][index].softmax(dim=1).float())
    refused(
        "labels", "init hard-codes a dtype", init=lambda self, layout, i, t, rng: {"y": t.logits(i).mean(0).float()}
    )
    refused("labels", "hard-codes a device", targets=lambda self, p, index: p["y"].cpu()[index.cpu()].softmax(dim=1))
    refused("labels", "scrambles rows", targets=lambda self, p, index: p["y"][index].softmax(dim=1).flip(0))
    refused("labels", "keeps state between calls", targets=cached)
    refused("labels", "not probabilities", targets=lambda self, p, index: p["y"][index])
    refused(
        "labels",
        "scrambles rows: image 0 has the target",
        init=lambda self, layout, images, t, rng: {"y": t.logits(images).mean(dim=0).flip(0)},
    )


def test_hard_labels_of_other_classes():
    """Broken: fixed labels out of class order pass."""
    hard = {
        "floats_per_image": lambda self, spec: 0,
        "init": lambda self, layout, images, t, rng: {"c": layout.labels().flip(0), "m": torch.eye(3).int()},
        "targets": lambda self, p, index: torch.nn.functional.one_hot(p["c"][index], int(p["c"].max()) + 1),
        "param_groups": lambda self, p: (),
    }
    refused("labels", "scrambles rows", **hard)
    right = {**hard, "init": lambda self, layout, images, t, rng: {"c": layout.labels().to(images.device)}}
    check("labels", make("labels", **right))


def test_trajectories_that_are_wrong():
    """Broken: each of these sources passes."""

    def changed(**changes):
        def segment(self, trajectories, low, high, rng):
            found = Traj.segment(self, trajectories, low, high, rng)
            return attrs.evolve(found, **{k: change(found) for k, change in changes.items()})

        return segment

    calls = []

    def counting(self, trajectories, low, high, rng):
        calls.append(1)
        return attrs.evolve(Traj.segment(self, trajectories, low, high, rng), expert=len(calls) % 3)

    def own_generator(self, trajectories, low, high, rng):
        return Traj.segment(self, trajectories, low, high, torch.default_generator)

    def rounded(self, trajectories, low, high, rng):
        return Traj.segment(self, trajectories, low + 1, high + 1, rng)

    def mutating(self, experts):
        experts._checkpoints.mul_(2)
        return Traj.prepare(self, experts)

    def always_first(self, trajectories, low, high, rng):
        return Traj.segment(self, trajectories[:1], low, high, rng)

    def fixed(self, trajectories, low, high, rng):
        return Traj.segment(self, trajectories, low, low + 1, rng)

    def shifted(self, trajectories, low, high, rng):
        found = Traj.segment(self, trajectories, low, high, rng)
        return attrs.evolve(found, start=found.start + torch.zeros(found.start.shape, dtype=found.start.dtype))

    refused("traj", "segment draws from torch's global generator", segment=own_generator)
    refused("traj", "keeps state between calls", segment=counting)
    refused("traj", "hard-codes a dtype: target", segment=changed(target=lambda s: s.target.float()))
    refused("traj", "segment hard-codes a device", segment=shifted)
    refused("traj", "segment hard-codes a device", segment=changed(target=lambda s: s.target.cpu()))
    refused("traj", "outside the window", segment=changed(start_epoch=lambda s: s.start_epoch - 1))
    refused("traj", "outside the window|segment.* raised ValueError", segment=rounded)
    refused("traj", "the target lies later", segment=changed(target_epoch=lambda s: s.start_epoch))
    refused("traj", r"expected \[P\]", segment=changed(start=lambda s: s.start[:3]))
    refused("traj", "not finite", segment=changed(start=lambda s: s.start * float("nan")))
    refused("traj", "requires a gradient", segment=changed(start=lambda s: s.start.clone().requires_grad_()))
    refused("traj", "draws only the experts", segment=always_first)
    refused("traj", "always starts at the same epoch", segment=fixed)
    refused("traj", "changes the experts' checkpoints", prepare=mutating)
    refused("traj", "stored_bytes says 0", stored_bytes=lambda self, trajectories: 0)
    refused("traj", "stored_bytes says 1000000", stored_bytes=lambda self, trajectories: 10**6)
    refused("traj", "latest_high is 9", latest_high=lambda self, num_epochs: num_epochs + 3)


def test_losses_that_are_wrong():
    """Broken: each of these losses passes."""
    seen = []

    def counting(self, path, segment):
        seen.append(1)
        return Loss.loss(self, path, segment) + len(seen)

    def noisy(self, path, segment):
        return Loss.loss(self, path, segment) * torch.rand(())

    def far(self, path, segment):
        return Loss.loss(self, path, segment) / (path[-1] - segment.start).detach().norm()

    def in_place(self, path, segment):
        segment.target.add_(1)
        return Loss.loss(self, path, segment)

    refused("loss", "loss draws from torch's global generator", loss=noisy)
    refused("loss", "keeps state between calls", loss=counting)
    refused("loss", "returns a detached", loss=lambda self, path, s: Loss.loss(self, path, s).detach())
    refused("loss", "returns a detached", loss=lambda self, path, s: 0 * Loss.loss(self, path, s))
    refused("loss", "gradient of loss with respect to row .* is wrong", loss=far)
    refused("loss", "hard-codes a dtype", loss=lambda self, path, s: Loss.loss(self, path, s).float())
    refused(
        "loss",
        "hard-codes a device",
        loss=lambda self, path, s: (path[-1] * torch.ones(len(path[-1]), dtype=path[-1].dtype)).square().sum(),
    )
    refused("loss", "hard-codes a device", loss=lambda self, path, s: Loss.loss(self, path, s).cpu())
    refused("loss", "has to return a scalar", loss=lambda self, path, s: path[-1] - s.target)
    refused("loss", "has to return a scalar floating tensor, got float", loss=lambda self, path, s: 1.0)
    refused("loss", "changes the path or the segment|keeps state", loss=in_place)
    refused("loss", "the path is a Sequence", loss=lambda self, path, s: torch.stack(path).square().sum())
    refused("loss", "inf|nan", loss=lambda self, path, s: 1 / (path[-1] - s.target).norm())
    check("loss", make("loss", loss=lambda self, path, s: torch.stack(list(path[1:])).square().sum()))


class Stateful(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self, spec, **how):
        super().__init__()
        self.linear = nn.Linear(spec.floats_per_image, spec.num_classes)
        self.how = how
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images):
        found = self.linear(images.flatten(1))
        if self.how.get("count"):
            self.calls += 1
            found = found + self.calls.to(found)
        if self.how.get("noise"):
            found = found + torch.rand_like(found)
        if self.how.get("detach"):
            found = self.linear(images.detach().flatten(1))
        if self.how.get("half"):
            found = found + found.detach() * found
        if self.how.get("float"):
            found = found.float()
        if self.how.get("cpu"):
            found = found + self.calls.to(found.dtype)
        return found[:, : self.how.get("classes")] if "classes" in self.how else found.square() / 2


def test_networks_that_are_wrong():
    """Broken: each of these networks passes."""

    def build(**how):
        return lambda self, spec: Stateful(spec, **how)

    def with_layer(*layers):
        return lambda self, spec: nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(spec.floats_per_image, spec.num_classes)
        )

    def own_values(self, module, rng):
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    def refuse(self, spec):
        raise testing._model.OptionError("at least 64×64")

    check("model", make("model", build=build()))
    refused(
        "model",
        "init draws from torch's global generator",
        init=lambda self, m, rng: torch.rand(Network(m).num_parameters),
    )
    refused("model", "the same θ for another seed", init=own_values)
    refused(
        "model",
        "cannot be replayed.*running statistics",
        build=lambda self, s: nn.Sequential(nn.BatchNorm2d(s.channels)),
    )
    refused("model", "cannot be replayed.*Dropout", build=with_layer(nn.Dropout(0.5)))
    refused("model", "keeps state between calls", build=build(count=True))
    refused("model", "the network draws from torch's global generator", build=build(noise=True))
    refused("model", "returns a detached", build=build(detach=True))
    refused("model", "the second derivative of the network is wrong", build=build(half=True))
    refused("model", "hard-codes a dtype", build=build(float=True))
    refused("model", "hard-codes a device", build=build(cpu=True))
    refused("model", r"expected \(3, ", build=build(classes=1))
    refused("model", r"expected \[P\]", init=lambda self, m, rng: torch.rand(3, generator=rng))
    refused("model", "expected float32", init=lambda self, m, rng: AbstractModel.init(self, m, rng).double())
    refused("model", "fits none of the image shapes tried.*64×64", build=refuse)
    mixed = {"init": lambda self, m, rng: AbstractModel.init(self, m, rng) + own_values(self, m, rng)}
    refused("model", "init depends on the module's own values", **mixed)


def test_augmentations_that_are_wrong():
    """Broken: each of these augmentations passes."""
    cache = {}

    def cached(self, images, draws):
        return cache.setdefault((images.dtype, images.shape), Augment.apply(self, images, draws))

    def unseeded(self, shape, rng):
        return Draws(values={"u": torch.rand(shape[0])})

    def noisy(self, images, draws):
        return Augment.apply(self, images, draws) + torch.rand_like(images)

    def own(self, images, draws):
        return images * draws.values["u"].to(images.dtype)[:, None, None, None].cpu()

    refused("augment", "draw draws from torch's global generator", draw=unseeded)
    refused("augment", "apply draws from torch's global generator", apply=noisy)
    refused("augment", "keeps state between calls", apply=cached)
    refused("augment", "returns a detached", apply=lambda self, x, d: Augment.apply(self, x.detach(), d))
    refused("augment", "hard-codes a dtype", apply=lambda self, x, d: Augment.apply(self, x, d).float())
    refused("augment", "hard-codes a device", apply=own)
    refused("augment", "mixes images", apply=lambda self, x, d: Augment.apply(self, x.flip(0), d))
    refused("augment", "mixes images", apply=lambda self, x, d: x - x.mean(dim=0))
    refused("augment", "in place", apply=lambda self, x, d: x.detach().add_(1) if not x.requires_grad else x)
    refused("augment", "one row per image", draw=lambda self, s, rng: Draws(values={"u": torch.rand(1, generator=rng)}))
    refused("augment", "apply gives", apply=lambda self, x, d: x[:, :, 1:])
    refused("augment", "the gradient of apply", apply=lambda self, x, d: x + x.detach() * x)


def test_data_sets_that_are_wrong():
    """Broken: each of these data sets passes."""

    def changed(change):
        def load(self, root):
            splits = Data.load(self, root)
            return attrs.evolve(splits, **change(splits))

        return load

    def reading(self, root):
        splits = Data.load(self, root)
        splits.test.read()
        return splits

    def shuffled(self, root):
        splits = Data.load(self, root)
        return attrs.evolve(splits, max_value=255.0 + float(torch.rand(())))

    def missing(self, root):
        raise DataError("no file at /nowhere")

    def lacking(splits):
        kept = splits.validation.labels > 0
        return {"validation": Split(images=splits.validation.images[kept], labels=splits.validation.labels[kept])}

    refused("data", "load reads the test split", load=reading)
    refused("data", "load draws from torch's global generator", load=shuffled)
    refused("data", "no file at /nowhere.*pass the data root", load=missing)
    refused("data", "names no licence", load=changed(lambda s: {"licence": " "}))
    refused("data", "class_names", load=changed(lambda s: {"class_names": ("a", "b")}))
    refused("data", "the validation split has no image of class", load=changed(lacking))
    refused("data", "pixels lie in", load=changed(lambda s: {"max_value": 1.0}))
    refused("data", "splits have to be disjoint", load=changed(lambda s: {"validation": s.train}))
    refused(
        "data",
        "the same validation split for another split_seed",
        load=lambda self, root: Data.load(attrs.evolve(self, split_seed=0), root),
    )
    refused(
        "data",
        "labels are torch.int32",
        load=changed(lambda s: {"train": Split(images=s.train.images, labels=s.train.labels.int())}),
    )


def opened(**methods):
    """An executor's `open` whose session has some methods replaced."""

    @contextmanager
    def open_(self, context):
        yield type("Other", (Session,), methods)(context)

    return open_


def test_executors_that_are_wrong():
    """Broken: each of these executors passes."""

    @contextmanager
    def threads(self, context):
        yield Session(context)
        torch.set_num_threads(torch.get_num_threads() + 1)

    @contextmanager
    def no_finally(self, context):
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        with torch.enable_grad():
            yield Session(context)
        torch.set_grad_enabled(before)

    @contextmanager
    def swallowing(self, context):
        with suppress(Exception):
            yield Session(context)

    def half(self, problem, segments):
        found = Session.meta_gradient(self, problem, segments)
        return attrs.evolve(found, images=found.images / 2)

    def by_position(self, settings, train, validation, seeds, on_epoch):
        shifted = [s + p for p, s in enumerate(seeds)]
        trained = Session.train_experts(self, settings, train, validation, shifted, on_epoch)
        for seed, expert in zip(seeds, trained, strict=True):
            yield attrs.evolve(expert, seed=seed)

    def from_zero(self, settings, subject, judge, seed, networks, purpose, on_network):
        return Session.evaluate(
            self, settings, subject, judge, seed + networks.start, range(len(networks)), purpose, on_network
        )

    def silent(self, settings, train, validation, seeds, on_epoch):
        return Session.train_experts(self, settings, train, validation, seeds, lambda p, e: None)

    def in_place(self, problem, segments):
        found = Session.meta_gradient(self, problem, segments)
        problem.step_size.mul_(0.5)
        return found

    refused("executor", "changes the global number of threads", open=threads)
    refused("executor", "changes the global gradient mode", open=no_finally)
    refused("executor", "open swallows an exception", open=swallowing)
    refused("executor", "images differs from the engine's by 0.5", open=opened(meta_gradient=half))
    refused("executor", "expert 5 differs", open=opened(train_experts=by_position))
    refused("executor", "on_epoch", open=opened(train_experts=silent))
    refused("executor", "network i depends on which others|evaluate gives", open=opened(evaluate=from_zero))
    refused("executor", "changes the problem", open=opened(meta_gradient=in_place))

    def classes(predicted, shift=0.0):
        def evaluate_classes(self, settings, subject, judge, seed, networks, purpose, on_network):
            found = Session.evaluate(self, settings, subject, judge, seed, networks, purpose, on_network)
            return Evaluated(accuracies=tuple(a + shift for a in found), predicted=predicted(judge.targets, len(found)))

        return opened(evaluate_classes=evaluate_classes)

    refused("executor", "are right in", open=classes(lambda labels, n: labels.expand(n, -1)))
    refused("executor", r"predicts \(4,\)", open=classes(lambda labels, n: labels[:n]))
    refused("executor", "evaluate_classes gives the accuracies", open=classes(lambda labels, n: None, shift=0.1))
    refused("executor", "cannot be written as JSON", open=opened(describe=lambda self: {"device": self.device}))


def watching(**methods):
    """An observer's `open` whose session has some methods."""

    @contextmanager
    def open_(self, run):
        session = type("Watching", (ObserverSession,), methods)()
        session.run = run
        yield session

    return open_


def test_observers_that_are_wrong():
    """Broken: each of these observers passes."""

    def write(path):
        return lambda self, report: path(self.run).write_text("x") and None

    @contextmanager
    def swallowing(self, run):
        with suppress(Exception):
            yield ObserverSession()

    @contextmanager
    def nothing(self, run):
        yield None

    def crash(self, report):
        raise KeyError("step")

    check("observer", make("observer", open=watching(step_finished=write(lambda run: run / "mine.txt"))))
    refused("observer", "evaluated raised KeyError", open=watching(evaluated=crash))
    refused("observer", "step_finished returns 3", open=watching(step_finished=lambda self, report: 3))
    refused("observer", "writes outside its run", open=watching(run_started=write(lambda run: Path("mine.txt"))))
    refused("observer", "writes outside its run", open=watching(run_started=write(lambda run: run.parent / "x")))
    refused("observer", "not its own", open=watching(run_started=write(lambda run: run / "config.toml")))
    refused("observer", "draws from torch's", open=watching(run_finished=lambda self, r: torch.rand(()) and None))
    refused("observer", "standard output", open=watching(run_finished=lambda self, r: sys.stdout.write("hi") and None))
    refused("observer", "open swallows an exception", open=swallowing)
    refused("observer", "has to give an ObserverSession", open=nothing)
