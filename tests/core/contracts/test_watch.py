"""Components of third parties are watched: every method of every kind, and what it is given."""

from __future__ import annotations

import copy
import errno
import inspect
import pkgutil
from contextlib import contextmanager
from typing import ClassVar, final

import pytest
import torch
from attrs import frozen
from torch import nn

from ddfw import (
    AbstractAugmentation,
    AbstractExecutor,
    AbstractMatchingLoss,
    AbstractModel,
    AbstractObserver,
    Draws,
    ImageSpec,
    ObserverSession,
    OptionError,
    PluginError,
)
from ddfw.contracts.promises import PROMISES, SESSION_PROMISES
from ddfw.contracts.watch import watch, watched_function
from ddfw.errors import DivergedError, Interrupted
from ddfw.kinds import KINDS
from ddfw.testing import check_observer

BASES = {kind.id: pkgutil.resolve_name(kind.base) for kind in KINDS}


def loss_of(function):
    """A watched loss whose method is a function of the test."""

    @final
    @frozen(kw_only=True)
    class Mine(AbstractMatchingLoss):
        name: ClassVar[str] = "mine"

        def loss(self, path, segment):
            return function(path, segment)

    watch(Mine, "loss", "theirs:loss")
    return Mine()


def raising(error):
    def function(*_):
        raise error

    return function


def test_a_stop_in_the_middle_of_a_plugins_computation_is_no_fault_of_the_plugin():
    """Broken: SIGTERM or a time limit would end a run on somebody's executor with 3 instead of 75 or 143."""
    with pytest.raises(Interrupted):
        loss_of(raising(Interrupted())).loss(None, None)


def test_every_promise_belongs_to_a_method_of_a_contract():
    """Broken: a method that was renamed would no longer be looked at."""
    from ddfw.contracts.executor import ExecutorSession

    for kind, method in PROMISES:
        assert inspect.isfunction(inspect.getattr_static(BASES[kind], method)), (kind, method)
    for method in SESSION_PROMISES:
        assert inspect.getattr_static(ExecutorSession, method) is not None
    abstract = {(kind, m) for kind, base in BASES.items() for m in base.__abstractmethods__}
    assert abstract - set(PROMISES) == {("traj", "prepare")}, "what prepare returns is the source's own affair"


@pytest.mark.parametrize(
    "error", [SystemExit(0), GeneratorExit(), StopIteration(), ZeroDivisionError("x"), OSError(2, "")]
)
def test_whatever_a_method_raises_names_plugin_and_method(error):
    """Broken: a plugin could end the run with exit code 0, or pass for a bug of ours or a fault of the disk."""
    with pytest.raises(PluginError, match=rf"plugin theirs:loss \(loss mine\) failed in loss: {type(error).__name__}"):
        loss_of(raising(error)).loss([], None)


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), OptionError("no", "p"), DivergedError("no"), OSError(errno.ENOSPC, "full"), PluginError("x")],
)
def test_interrupts_a_full_disk_and_errors_of_the_contract_stay_what_they_are(error):
    """Broken: Ctrl-C or a full disk would be called a plugin's fault."""
    with pytest.raises(type(error)) as caught:
        loss_of(raising(error)).loss([], None)
    assert caught.value is error


def test_a_class_that_is_watched_twice_is_watched_once_and_keeps_its_signature():
    """Broken: every command in one process would add a layer, and `describe` or a label strategy's dtype be lost."""
    component = loss_of(lambda path, segment: path[0].sum())
    before = type(component).loss
    watch(type(component), "loss", "theirs:loss")
    assert type(component).loss is before
    assert list(inspect.signature(before).parameters) == ["self", "path", "segment"]


def test_a_tensor_that_was_lent_may_not_be_changed_later():
    """Broken: a plugin that keeps the training images could change them for everybody, unseen."""
    kept = []

    @final
    @frozen(kw_only=True)
    class Shift(AbstractAugmentation):
        name: ClassVar[str] = "shift"

        def draw(self, shape, rng):
            return Draws()

        def apply(self, images, draws):
            kept.append(images)
            images.detach().add_(1)
            return images + 0

    watch(Shift, "augment", "theirs:shift")
    with pytest.raises(PluginError, match=r"breaks its word in apply: it changes images in place"):
        Shift().apply(torch.zeros(1, 1, 2, 2), Draws())


class Session:
    """A session of which one method yields, one prints, and one is missing."""

    device = torch.device("cpu")

    def train_experts(self, *_):
        yield 3

    def describe(self):
        print("noise")  # noqa: T201 - it is what the test is about
        return {"device": "cpu"}

    def meta_gradient(self, problem, segments):
        return None


def test_a_session_is_watched_while_it_is_read_and_never_swallows_an_error(capsys):
    """Broken: an executor's generator, or the end of its block, would run outside of any check."""

    @final
    @frozen(kw_only=True)
    class Mine(AbstractExecutor):
        name: ClassVar[str] = "mine"

        @contextmanager
        def open(self, context):
            try:
                yield Session()
            except ZeroDivisionError:
                return

    watch(Mine, "executor", "theirs:executor")
    with pytest.raises(ZeroDivisionError), Mine().open(None) as session:
        assert session.device == torch.device("cpu")
        assert session.describe() == {"device": "cpu"}
        assert capsys.readouterr() == ("", "noise\n")
        with pytest.raises(PluginError, match="train_experts: it yields a int, expected a TrainedExpert"):
            list(session.train_experts())
        with pytest.raises(PluginError, match="in meta_gradient: it returns nothing, expected a MetaGradient"):
            session.meta_gradient(None, [])
        assert not hasattr(session, "evaluate_classes")
        raise ZeroDivisionError


def test_a_watched_component_still_passes_the_check_of_its_kind():
    """Broken: authors whose plugin is installed could not test it, since what is watched looks like another thing."""

    @final
    @frozen(kw_only=True)
    class Mine(AbstractObserver):
        """Hears nothing."""

        name: ClassVar[str] = "mine"

        @contextmanager
        def open(self, run):
            yield ObserverSession()

    watch(Mine, "observer", "theirs:observer")
    check_observer(Mine())


def test_a_network_of_plain_layers_is_watched_and_can_be_copied():
    """Broken: a layer that ends the process would end the run with its exit code; or a copy would use other weights."""

    class Layer(nn.Linear):
        def forward(self, images):
            if len(images) == 3:
                raise SystemExit(0)
            return super().forward(images)

    @final
    @frozen(kw_only=True)
    class Mine(AbstractModel):
        name: ClassVar[str] = "mine"

        def build(self, spec):
            return nn.Sequential(nn.Flatten(), Layer(spec.floats_per_image, spec.num_classes))

    watch(Mine, "model", "theirs:model")
    module = Mine().build(ImageSpec(channels=1, height=2, width=2, num_classes=5))
    again = copy.deepcopy(module)
    torch.nn.init.zeros_(again[1].weight)
    images = torch.ones(2, 1, 2, 2)
    assert not torch.equal(module(images), again(images)) and isinstance(again, nn.Sequential)
    with pytest.raises(PluginError, match=r"plugin theirs:model \(model mine\) failed in forward: SystemExit: 0"):
        again(torch.ones(3, 1, 2, 2))


def test_a_function_of_a_format_names_its_plugin():
    """Broken: an export would fail as if it were ours."""
    function = watched_function(raising(SystemExit(0)), "theirs:format", "theirs:write")
    with pytest.raises(PluginError, match="plugin theirs:format failed in theirs:write: SystemExit: 0"):
        function()
