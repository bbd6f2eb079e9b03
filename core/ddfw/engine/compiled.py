"""Student steps that torch.compile makes into two functions: the gradient, and its pullback.

Nothing ever differentiates *through* a compiled step: `gradient` and `pull` are plain functions of tensors, so each is
compiled whole. A compiled step holds no graph, so its pullback computes the gradient once more; what PyTorch fuses pays
for that.

Shapes: B images in a batch, C channels, H rows, W columns, m classes, P parameters.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vjp
from torch.nn.functional import unfold

from ddfw.engine.inner import EagerSteps, Network, StepPullback, inner_loss

#: Convolutions whose unfolded input has at most so many elements become one matrix product on a CPU, where a call of
#: the convolution library costs more than the arithmetic of such a small one.
UNFOLD_ELEMENTS = 2**18

Say = Callable[[str], None]


logger = logging.getLogger(__name__)


def warn(text: str) -> None:
    """Logs a warning."""
    logger.warning(text)


class CompiledSteps:
    """A network's steps, compiled at their first use for each shape of batch.

    Where this machine cannot compile (no C++ compiler, say) or the network cannot be compiled, `say` is told once, and
    steps run uncompiled.

    Args:
        network: the student.
        say: told why nothing is compiled.
        compile: makes one function of tensors into another; torch.compile unless a test has its own.
    """

    def __init__(self, network: Network, say: Say = warn, compile: Callable[[Any], Any] | None = None) -> None:
        self._eager = EagerSteps(network)
        self._say = say
        self._failed: str | None = None
        self._begun = False
        student = Network(with_products(copy.deepcopy(network.module)))

        def gradient(theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
            return grad(lambda point: inner_loss(student, point, images, targets))(theta)  # type: ignore[no-any-return]

        def pull(theta: Tensor, images: Tensor, targets: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
            found, back, *_ = vjp(gradient, theta, images, targets)
            return torch.dot(found, cotangent), *back(cotangent)

        def pull_data(theta: Tensor, images: Tensor, targets: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
            found, back, *_ = vjp(lambda x, y: gradient(theta, x, y), images, targets)
            return torch.dot(found, cotangent), *back(cotangent)

        make = compile or _compile
        self._gradient, self._pull, self._pull_data = make(gradient), make(pull), make(pull_data)

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled; False once compiling has failed."""
        return self._failed is None

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """See `ddfw.engine.inner.Steps`."""
        found: Tensor = self._try(
            lambda: self._gradient(theta, images, targets), lambda: self._eager.gradient(theta, images, targets)
        )
        return found

    def pull(
        self,
        theta: Tensor,
        images: Tensor,
        targets: Tensor,
        cotangent: Tensor,
        *,
        through_theta: bool,
        learn_targets: bool = True,
    ) -> StepPullback:
        """See `ddfw.engine.inner.Steps`."""

        def compiled() -> StepPullback:
            if not through_theta:
                s, x, y = self._pull_data(theta, images, targets, cotangent)
                return StepPullback(s=s, theta=None, images=x, targets=y)
            s, point, x, y = self._pull(theta, images, targets, cotangent)
            return StepPullback(s=s, theta=point, images=x, targets=y)

        found: StepPullback = self._try(
            compiled, lambda: self._eager.pull(theta, images, targets, cotangent, through_theta=through_theta)
        )
        return found

    def _try(self, compiled: Callable[[], Any], eager: Callable[[], Any]) -> Any:
        if self._failed is not None:
            return eager()
        if not self._begun and sys.stderr.isatty():
            sys.stderr.write("compiling the student's step, which takes up to a minute …\n")
        self._begun = True
        try:
            with _without_chatter():
                return compiled()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Whatever a compiler trips over, the same step can be had without it; a real fault shows there again.
            self._failed = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._say(f"the student's step could not be compiled and runs uncompiled ({self._failed})")
            return eager()


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Torch's extension builder says on every machine without a GPU that there is none."""
    log = logging.getLogger("torch.utils.cpp_extension")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile of a function that has its code for itself, since recompilations are counted by code object."""
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)


def with_products(module: nn.Module) -> nn.Module:
    """The module with its plain convolutions exchanged for `ProductConv2d`, in place; names and parameters stay."""
    for layer in module.children():
        if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
            if not isinstance(layer.padding, str):
                layer.__class__ = ProductConv2d
        else:
            with_products(layer)
    return module


class ProductConv2d(nn.Conv2d):
    """A convolution that is one matrix product where it is small and on a CPU; the same values up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B, C, H, W] to [B, O, H', W']."""
        b, _, *sides = input.shape
        assert not isinstance(self.padding, str)
        rows, columns = (
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, padding, dilation, kernel, stride in zip(
                sides, self.padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        )
        weight = self.weight.flatten(1)
        if input.device.type != "cpu" or b * rows * columns * weight.shape[1] > UNFOLD_ELEMENTS:
            return super().forward(input)
        patches = unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)  # [B, C·k·k, H'·W']
        values = patches.transpose(1, 2).reshape(b * rows * columns, -1) @ weight.t()
        if self.bias is not None:
            values = values + self.bias
        return values.view(b, rows * columns, -1).transpose(1, 2).reshape(b, -1, rows, columns)
