"""Plugins that break their word, as source texts: while they are imported, in a hook, by a class, and during a run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import attrs

HEAD = """
import sys, time
from contextlib import contextmanager
from typing import ClassVar, final
import torch
from attrs import frozen
from torch import nn
from ddfw import (AbstractAugmentation, AbstractDataset, AbstractExecutor, AbstractLabels, AbstractMatchingLoss,
    AbstractModel, AbstractObserver, AbstractParameterization, AbstractTrajectory, Draws, Layout, MetaGradient,
    ObserverSession, OptionError, ParamGroup, Segment, Split, Splits, component, hookimpl, option)

CALLS = []
"""

#: A working component of each kind; a case adds methods, which replace these.
COMPONENTS = {
    "param": """
class Mine(AbstractParameterization):
    def layout(self, spec, budget, label_floats_per_image):
        return Layout.largest(spec, budget, spec.floats_per_image, label_floats_per_image)
    def init(self, layout, real, rng):
        return {"x": real.images[real.pick(layout.samples_per_class, rng)]}
    def decode(self, params, index):
        return params["x"][index]
    def param_groups(self, params):
        return (ParamGroup(keys=("x",), lr=1.0),)
""",
    "labels": """
class Mine(AbstractLabels):
    def floats_per_image(self, spec):
        return spec.num_classes
    def init(self, layout, images, teachers, rng):
        return {"y": 5.0 * nn.functional.one_hot(layout.labels(), layout.spec.num_classes).to(images.dtype)}
    def targets(self, params, index, dtype=None):
        return params["y"][index].softmax(dim=1)
    def param_groups(self, params):
        return (ParamGroup(keys=("y",), lr=0.1),)
""",
    "traj": """
class Mine(AbstractTrajectory):
    def prepare(self, experts):
        return experts
    def segment(self, trajectories, low, high, rng):
        points = trajectories.snapshots(0, [0, 1])
        return Segment(start=points[0], target=points[1], expert=0, start_epoch=0, target_epoch=1)
    def stored_bytes(self, trajectories):
        return 4
""",
    "loss": """
class Mine(AbstractMatchingLoss):
    def loss(self, path, segment):
        return (path[-1] - segment.target).square().sum() / (segment.start - segment.target).square().sum()
""",
    "data": """
class Mine(AbstractDataset):
    def load(self, root):
        return Splits.carve(self._images(20), self._images(5), validation_fraction=self.validation,
            split_seed=self.split_seed, max_value=1.0, class_names=["a", "b"], source="here", licence="none")
    def _images(self, n):
        labels = torch.arange(2).repeat(n)
        noise = torch.rand((2 * n, 1, 8, 8), generator=torch.Generator().manual_seed(n))
        return Split(images=(noise + labels[:, None, None, None]) / 2, labels=labels)
""",
    "model": """
class Net(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.last = nn.Linear(inputs, outputs)
    def forward(self, images):
        return self.last(images.flatten(1))
@final
@frozen(kw_only=True)
class Mine(AbstractModel):
    def build(self, spec):
        return Net(spec.floats_per_image, spec.num_classes)
""",
    "augment": """
class Mine(AbstractAugmentation):
    def draw(self, shape, rng):
        return Draws(values={"shift": torch.rand(shape[0], generator=rng)})
    def apply(self, images, draws):
        return images + draws.values["shift"].to(images.dtype)[:, None, None, None]
""",
    "executor": """
class Session:
    def __init__(self, inner):
        self.inner = inner
    def __getattr__(self, name):
        return getattr(self.inner, name)
@final
@frozen(kw_only=True)
class Mine(AbstractExecutor):
    @contextmanager
    def open(self, context):
        with component("executor", "cpu", threads=1).open(context) as session:
            yield Session(session)
""",
    "observer": """
class Session(ObserverSession):
    pass
@final
@frozen(kw_only=True)
class Mine(AbstractObserver):
    @contextmanager
    def open(self, run):
        yield Session()
""",
}
HOOKS = {
    "param": "parameterizations",
    "labels": "labels",
    "traj": "trajectories",
    "loss": "losses",
    "data": "datasets",
    "model": "models",
    "augment": "augmentations",
    "executor": "executors",
    "observer": "observers",
}


@attrs.frozen
class Broken:
    """A broken plugin.

    Args:
        title: what is wrong; the test's id.
        stage: `import`, `hook`, `contract` or `run`.
        kind: the kind of component that it offers.
        source: its text.
        words: what the error of every use has to say beside the plugin's name.
        disabled: whether a use goes on without it: an observer is disabled with a warning, and the run finishes.
        kills: whether the process that imports it would end or hang.
    """

    title: str
    stage: str
    kind: str
    source: str
    words: Sequence[str] = ()
    disabled: bool = False
    kills: bool = False

    @property
    def module(self) -> str:
        return self.title.replace(" ", "_").replace("-", "_")


def _hook(kind: str, body: str = "return [Mine]") -> str:
    return f"\n@hookimpl\ndef ddfw_register_{HOOKS[kind]}():\n    {body}\n"


def _mine(kind: str, methods: str = "", name: str = "mine", decorators: str = "@final\n@frozen(kw_only=True)\n") -> str:
    """The working component of a kind, in which `methods` are replaced."""
    text = COMPONENTS[kind]
    if "@frozen" not in text:
        text = text.replace("class Mine", f"{decorators}class Mine")
    label = f'    name: ClassVar[str] = "{name}"\n'
    return HEAD + text + label + textwrap.indent(textwrap.dedent(methods), "    ")


def run_time(kind: str, method: str, title: str, methods: str, *words: str, **facts: bool) -> Broken:
    """A plugin of which one method goes wrong while a run calls it."""
    source = _mine(kind, methods) + _hook(kind)
    return Broken(f"{kind} {title}", "run", kind, source, (f"({kind} mine)", method, *words), **facts)


def session(title: str, method: str, body: str, *words: str) -> Broken:
    """An executor of which one method of the session goes wrong."""
    text = COMPONENTS["executor"].replace(
        "    def __getattr__", f"{textwrap.indent(body, '    ')}\n    def __getattr__"
    )
    source = HEAD + text + '    name: ClassVar[str] = "mine"\n' + _hook("executor")
    return Broken(f"executor {title}", "run", "executor", source, ("(executor mine)", method, *words))


def observing(title: str, body: str, *words: str) -> Broken:
    """An observer of which a method goes wrong."""
    text = COMPONENTS["observer"].replace("    pass", textwrap.indent(body, "    "))
    source = HEAD + text + '    name: ClassVar[str] = "mine"\n' + _hook("observer")
    return Broken(f"observer {title}", "run", "observer", source, ("observer mine", *words), disabled=True)


def at_import(title: str, text: str, *words: str, kills: bool = False) -> Broken:
    """A plugin that goes wrong while it is imported."""
    return Broken(f"import {title}", "import", "loss", text + _mine("loss") + _hook("loss"), words, kills=kills)


def in_hook(kind: str, title: str, body: str, *words: str, kills: bool = False) -> Broken:
    """A plugin of which the hook goes wrong."""
    return Broken(f"hook {title}", "hook", kind, _mine(kind) + _hook(kind, body), words, kills=kills)


def by_class(title: str, kind: str, source: str, *words: str) -> Broken:
    """A plugin whose class is no component."""
    return Broken(f"class {title}", "contract", kind, HEAD + source + _hook(kind), words)


NAME = '    name: ClassVar[str] = "mine"\n'
FROZEN = "@final\n@frozen(kw_only=True)\n"
LOSS = "    def loss(self, path, segment):\n        return path[-1].sum()\n"

BROKEN = (
    at_import("raises", "raise RuntimeError('no accelerator')\n", "no accelerator"),
    at_import("misses a module", "import a_module_that_nobody_has\n", "a_module_that_nobody_has"),
    at_import("is no Python", "def (\n", "SyntaxError"),
    at_import("calls sys.exit", "import sys\nsys.exit(0)\n", "SystemExit"),
    at_import("raises a BaseException", "class Stop(BaseException): ...\nraise Stop('enough')\n", "Stop", "enough"),
    at_import("overflows the stack", "def f(): return f()\nf()\n", "RecursionError"),
    at_import("raises an error without words", "class E(Exception):\n def __str__(self): raise E\nraise E\n", "E"),
    at_import("ends the process", "import os\nos._exit(0)\n", "ended the process", kills=True),
    at_import("kills the process", "import os\nos.kill(os.getpid(), 9)\n", "ended the process", kills=True),
    at_import("hangs", "import time\ntime.sleep(1000)\n", "did not answer", kills=True),
    Broken("import offers nothing", "import", "loss", "x = 1\n", ("offers no hook",)),
    Broken(
        "import forgets the marker",
        "import",
        "loss",
        _mine("loss") + "\ndef ddfw_register_losses():\n    return [Mine]\n",
        ("ddfw_register_losses", "@hookimpl"),
    ),
    Broken(
        "import misspells the hook",
        "import",
        "loss",
        _mine("loss") + _hook("loss").replace("losses", "loses"),
        ("ddfw_register_loses", "ddfw_register_losses"),
    ),
    Broken(
        "import needs a newer ddfw", "import", "loss", "DDFW_HOOK_API = 99\n" + _mine("loss") + _hook("loss"), ("99",)
    ),
    Broken(
        "import has a default in the hook",
        "import",
        "loss",
        _mine("loss") + _hook("loss").replace("losses()", "losses(more=1)"),
        ("'more'",),
    ),
    in_hook("param", "raises", "raise ValueError('not today')", "not today"),
    in_hook("traj", "calls sys.exit", "sys.exit(4)", "SystemExit"),
    in_hook("labels", "returns None", "return None", "ddfw_register_labels", "None"),
    in_hook("model", "returns a class", "return Mine", "ddfw_register_models", "list of classes"),
    in_hook("data", "returns an instance", "return [Mine()]", "not a class"),
    in_hook("augment", "ends the process", "import os; os._exit(7)", "ended the process", kills=True),
    in_hook("executor", "hangs", "time.sleep(1000)", "did not answer", kills=True),
    in_hook("observer", "returns a broken iterator", "return (1 / 0 for _ in 'x')", "ZeroDivisionError"),
    by_class(
        "of another kind",
        "loss",
        f"{FROZEN}class Mine(AbstractModel):\n{NAME}    def build(self, spec): ...\n",
        "AbstractMatchingLoss",
    ),
    by_class("of no kind", "param", f"{FROZEN}class Mine:\n{NAME}", "AbstractParameterization"),
    by_class(
        "whose name is a number",
        "loss",
        f"{FROZEN}class Mine(AbstractMatchingLoss):\n    name: ClassVar[int] = 3\n{LOSS}",
        "name",
    ),
    by_class("without attrs", "loss", f"class Mine(AbstractMatchingLoss):\n{NAME}{LOSS}", "attrs"),
    by_class("without its methods", "traj", f"{FROZEN}class Mine(AbstractTrajectory):\n{NAME}", "segment"),
    by_class("without a name", "loss", f"{FROZEN}class Mine(AbstractMatchingLoss):\n{LOSS}", "name"),
    by_class(
        "with a loud name", "loss", f'{FROZEN}class Mine(AbstractMatchingLoss):\n    name = "Mine"\n{LOSS}', "Mine"
    ),
    by_class(
        "with an unknown annotation",
        "loss",
        f'{FROZEN}class Mine(AbstractMatchingLoss):\n{NAME}    p: "Nowhere" = option(1.0, help="p")\n{LOSS}',
        "Nowhere",
    ),
    by_class(
        "whose default raises",
        "loss",
        f"def bad(): raise OSError('gone')\n{FROZEN}class Mine(AbstractMatchingLoss):\n{NAME}"
        f'    p: float = __import__("attrs").field(factory=bad)\n{LOSS}',
        "gone",
    ),
    by_class(
        "that cannot be made",
        "loss",
        f"{FROZEN}class Mine(AbstractMatchingLoss):\n{NAME}{LOSS}"
        "    def __attrs_post_init__(self):\n        sys.exit(0)\n",
        "SystemExit",
    ),
    # --- while a run calls it ---
    run_time(
        "param", "layout", "layout with another signature", "def layout(self, spec):\n    return None", "TypeError"
    ),
    run_time("param", "layout", "layout returns None", "def layout(self, *all): ...", "Layout"),
    run_time("param", "init", "init returns None", "def init(self, layout, real, rng): ...", "named tensors"),
    run_time(
        "param",
        "init",
        "init changes the training images",
        "def init(self, layout, real, rng):\n    x = real.images.mul_(0.5)\n    return {'x': x[real.pick(1, rng)]}",
        "real.images",
        "in place",
    ),
    run_time(
        "param",
        "init",
        "init gives float64",
        "def init(self, layout, real, rng):\n    return {'x': real.images[real.pick(1, rng)].double()}",
        "float64",
    ),
    run_time(
        "param",
        "init",
        "init gives another number of floats",
        "def init(self, layout, real, rng):\n    return {'x': real.images[:3]}",
        "floats",
    ),
    run_time(
        "param", "decode", "decode raises", "def decode(self, params, index):\n    return params['nothing']", "KeyError"
    ),
    run_time(
        "param", "decode", "decode calls sys.exit", "def decode(self, params, index):\n    sys.exit(0)", "SystemExit"
    ),
    run_time(
        "param",
        "decode",
        "decode raises a BaseException in the third call",
        "def decode(self, params, index):\n    CALLS.append(1)\n    if len(CALLS) > 3: raise BaseException('now')\n"
        "    return params['x'][index]",
        "BaseException",
    ),
    run_time(
        "param",
        "decode",
        "decode detaches",
        "def decode(self, params, index):\n    return params['x'].detach()[index]",
        "depend",
    ),
    run_time(
        "param",
        "decode",
        "decode changes its parameters",
        "def decode(self, params, index):\n    params['x'].detach().mul_(0.9)\n    return params['x'][index]",
        "in place",
    ),
    run_time(
        "param",
        "decode",
        "decode changes its index",
        "def decode(self, params, index):\n    index.zero_()\n    return params['x'][index]",
        "index",
        "in place",
    ),
    run_time(
        "param",
        "decode",
        "decode changes its shape in the run",
        "def decode(self, params, index):\n    CALLS.append(1)\n    x = params['x'][index]\n"
        "    return x if len(CALLS) < 4 else x[:, :, 1:]",
        "[10, 1, 7, 8]",
    ),
    run_time(
        "param",
        "decode",
        "decode returns too few images",
        "def decode(self, params, index):\n    return params['x'][index][1:]",
        "images",
    ),
    run_time(
        "param",
        "decode",
        "decode changes the training images that init was given",
        "def init(self, layout, real, rng):\n    CALLS.append(real.images)\n"
        "    return {'x': real.images[real.pick(1, rng)]}\n"
        "def decode(self, params, index):\n    CALLS[0].add_(1)\n    return params['x'][index]",
        "real.images",
    ),
    run_time("param", "param_groups", "param_groups returns None", "def param_groups(self, params): ...", "ParamGroup"),
    run_time(
        "param",
        "param_groups",
        "param_groups names nothing",
        "def param_groups(self, params):\n    return (ParamGroup(keys=('z',), lr=1.0),)",
        "'z'",
    ),
    run_time(
        "param", "penalty", "penalty is no scalar", "def penalty(self, params):\n    return params['x']", "scalar"
    ),
    run_time("param", "direction", "direction returns None", "def direction(self, params, gradients): ...", "mapping"),
    run_time(
        "param",
        "stored_floats",
        "stored_floats returns text",
        "def stored_floats(self, params):\n    return '640'",
        "whole number",
    ),
    run_time(
        "labels",
        "floats_per_image",
        "floats_per_image returns None",
        "def floats_per_image(self, spec): ...",
        "whole number",
    ),
    run_time("labels", "init", "init raises", "def init(self, *all):\n    raise KeyError('teacher')", "KeyError"),
    run_time(
        "labels",
        "targets",
        "targets are no probabilities",
        "def targets(self, params, index, dtype=None):\n    return params['y'][index]",
        "probabilities",
    ),
    run_time(
        "labels",
        "targets",
        "targets stop being probabilities",
        "def targets(self, params, index, dtype=None):\n    CALLS.append(1)\n"
        "    return params['y'][index].softmax(dim=1) * (1 if len(CALLS) < 4 else 2)",
        "probabilities",
    ),
    run_time(
        "labels",
        "targets",
        "targets have another number of classes",
        "def targets(self, params, index, dtype=None):\n    return params['y'][index][:, :3].softmax(dim=1)",
        "(10, 3)",
    ),
    run_time(
        "labels",
        "targets",
        "targets are detached",
        "def targets(self, params, index, dtype=None):\n    return params['y'].detach()[index].softmax(dim=1)",
        "depend",
    ),
    run_time(
        "labels",
        "param_groups",
        "param_groups asks for another optimiser",
        "def param_groups(self, params):\n    return (ParamGroup(keys=('y',), lr=1.0, optimiser='lion'),)",
        "lion",
    ),
    run_time("traj", "prepare", "prepare has another signature", "def prepare(self):\n    return 1", "TypeError"),
    run_time(
        "traj",
        "segment",
        "segment has another signature",
        "def segment(self, trajectories):\n    return 1",
        "TypeError",
    ),
    run_time("traj", "segment", "segment returns a tuple", "def segment(self, *all):\n    return (1, 2)", "Segment"),
    run_time(
        "traj",
        "segment",
        "segment of another length",
        "def segment(self, trajectories, low, high, rng):\n    p = trajectories.snapshots(0, [0, 1])[:, 1:]\n"
        "    return Segment(start=p[0], target=p[1], expert=0, start_epoch=0, target_epoch=1)",
        "parameters",
    ),
    run_time(
        "traj",
        "segment",
        "segment leaves the window",
        "def segment(self, trajectories, low, high, rng):\n    p = trajectories.snapshots(0, [0, 1])\n"
        "    return Segment(start=p[0], target=p[1], expert=0, start_epoch=7, target_epoch=8)",
        "window",
    ),
    run_time("traj", "latest_high", "latest_high returns None", "def latest_high(self, num_epochs): ...", "number"),
    run_time(
        "traj",
        "stored_bytes",
        "stored_bytes raises",
        "def stored_bytes(self, trajectories):\n    return 1 / 0",
        "ZeroDivisionError",
    ),
    run_time("loss", "loss", "loss has another signature", "def loss(self):\n    return 1", "TypeError"),
    run_time("loss", "loss", "loss returns None", "def loss(self, path, segment): ...", "scalar"),
    run_time(
        "loss",
        "loss",
        "loss is detached",
        "def loss(self, path, segment):\n    return (path[-1] - segment.target).sum().detach()",
        "depend",
    ),
    run_time(
        "loss",
        "loss",
        "loss changes the segment",
        "def loss(self, path, segment):\n    segment.target.zero_()\n    return path[-1].square().sum()",
        "in place",
    ),
    run_time(
        "loss",
        "loss",
        "loss changes the path",
        "def loss(self, path, segment):\n    path[-1].detach().zero_()\n    return path[-1].square().sum()",
        "in place",
    ),
    run_time("data", "load", "load returns None", "def load(self, root): ...", "Splits"),
    run_time("data", "load", "load has another signature", "def load(self):\n    return 1", "TypeError"),
    run_time(
        "data",
        "load",
        "load opens a file that is not there",
        "def load(self, root):\n    return open('/nowhere/at/all')",
        "FileNotFoundError",
    ),
    run_time("model", "build", "build returns None", "def build(self, spec): ...", "Module"),
    run_time(
        "model",
        "init",
        "init returns too few parameters",
        "def init(self, module, rng):\n    return torch.zeros(3)",
        "[650]",
    ),
    run_time(
        "model",
        "forward",
        "forward returns other shapes",
        "def build(self, spec):\n    return Net(spec.floats_per_image, 7)",
        "7]",
    ),
    run_time(
        "model",
        "forward",
        "forward raises",
        "def build(self, spec):\n    return Net(3, spec.num_classes)",
        "RuntimeError",
    ),
    run_time("augment", "draw", "draw returns None", "def draw(self, shape, rng): ...", "Draws"),
    run_time(
        "augment",
        "apply",
        "apply changes the images",
        "def apply(self, images, draws):\n    return images.detach().add_(1)",
        "in place",
    ),
    run_time(
        "augment",
        "apply",
        "apply detaches",
        "def apply(self, images, draws):\n    return images.detach() + 1",
        "depend",
    ),
    run_time(
        "augment",
        "apply",
        "apply crops",
        "def apply(self, images, draws):\n    return images[:, :, 1:]",
        "1, 7, 8]",
    ),
    run_time("executor", "open", "open returns None", "def open(self, context): ...", "context manager"),
    run_time("executor", "open", "open raises", "def open(self, context):\n    raise MemoryError", "MemoryError"),
    session("trains no experts", "train_experts", "def train_experts(self, *all):\n    return None\n", "iterator"),
    session(
        "fails while it trains",
        "train_experts",
        "def train_experts(self, *all):\n    yield from self.inner.train_experts(*all)\n    sys.exit(0)\n",
        "SystemExit",
    ),
    session(
        "gives a gradient of another shape",
        "meta_gradient",
        "def meta_gradient(self, problem, segments):\n    g = self.inner.meta_gradient(problem, segments)\n"
        "    return MetaGradient(loss=g.loss, images=g.images[1:], targets=g.targets, step_size=g.step_size, "
        "held_steps=0)\n",
        "images",
    ),
    session(
        "changes the problem",
        "meta_gradient",
        "def meta_gradient(self, problem, segments):\n    problem.images.mul_(2)\n"
        "    return self.inner.meta_gradient(problem, segments)\n",
        "in place",
    ),
    session(
        "gives too few accuracies",
        "evaluate",
        "def evaluate(self, *all):\n    return ()\ndef evaluate_classes(self, *all):\n    raise ValueError('no')\n",
        "evaluate",
    ),
    observing("raises", "def step_finished(self, report):\n    raise ValueError('no disk')\n", "no disk"),
    observing("calls sys.exit", "def step_finished(self, report):\n    sys.exit(0)\n", "SystemExit"),
)
