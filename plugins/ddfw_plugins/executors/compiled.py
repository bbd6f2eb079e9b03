"""The student's step compiled by torch.compile, as two functions: the gradient, and the gradient's pullback.

Nothing differentiates *through* a compiled step: `gradient` and `pull` are plain functions of tensors, so each is
compiled whole. A compiled step holds no autograd graph, so its pullback computes the gradient a second time; the fused
kernels save more time than this costs.

Shapes: B images in a batch, C channels, H rows, W columns, m classes, P parameters.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vjp
from torch.nn.functional import unfold

from ddfw.engine.chain import Chain, ChainStep, joined
from ddfw.engine.inner import EagerSteps, Network, StepPullback, added, inner_loss

#: On a CPU a convolution becomes one matrix product if its unfolded input has at most this many elements: for small
#: convolutions the call of the convolution library costs more time than the arithmetic.
UNFOLD_ELEMENTS = 2**18

Say = Callable[[str], None]


logger = logging.getLogger(__name__)


def warn(text: str) -> None:
    """Logs a warning."""
    logger.warning(text)


class CompiledSteps:
    """The student's step, compiled at the first use of each batch shape.

    If this machine has no C++ compiler, or the network cannot be compiled, `say` is called once and all steps run
    uncompiled.

    Args:
        network: the student.
        say: called with one sentence that tells why nothing is compiled.
        compile: turns a function of tensors into a compiled one; None: torch.compile.
    """

    def __init__(self, network: Network, say: Say = warn, compile: Callable[[Any], Any] | None = None) -> None:
        self._eager = EagerSteps(network)
        self._say = say
        self._failed: str | None = None
        self._begun = False
        #: What was compiled, by function, shape and dtype; entering contexts at each step takes a tenth of a small one.
        self._done: set[tuple[object, ...]] = set()
        student = type(network)(with_products(copy.deepcopy(network.module)))

        # A network whose derivatives are written down is compiled as they are, a part of the batch at a time; `targets`
        # are then the part's weights. The chain of each image size is looked up before anything is compiled.
        self._chains: dict[tuple[int, ...], Chain | None] = {}
        chains = self._chains

        def gradient(theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
            chain = chains.get(tuple(images.shape[2:]))
            if chain is not None:
                return ChainStep(chain, theta, images, targets).gradient
            return grad(lambda point: inner_loss(student, point, images, targets))(theta)  # type: ignore[no-any-return]

        def pull(theta: Tensor, images: Tensor, targets: Tensor, cotangent: Tensor) -> tuple[Tensor | None, ...]:
            chain = chains.get(tuple(images.shape[2:]))
            if chain is not None:
                step = ChainStep(chain, theta, images, targets, gradient=False)
                return step.along(cotangent, parameters=True)
            found, back, *_ = vjp(gradient, theta, images, targets)
            return torch.dot(found, cotangent), *back(cotangent)

        def pull_data(theta: Tensor, images: Tensor, targets: Tensor, cotangent: Tensor) -> tuple[Tensor | None, ...]:
            chain = chains.get(tuple(images.shape[2:]))
            if chain is not None:
                step = ChainStep(chain, theta, images, targets, gradient=False)
                s, _, x, y = step.along(cotangent, parameters=False)
                return s, x, y
            found, back, *_ = vjp(lambda x, y: gradient(theta, x, y), images, targets)
            return torch.dot(found, cotangent), *back(cotangent)

        make = compile or _compile
        self._gradient, self._pull, self._pull_data = make(gradient), make(pull), make(pull_data)

    @property
    def compiled(self) -> bool:
        """Whether steps are compiled: True until compiling has failed once."""
        return self._failed is None

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss's gradient [P] at θ [P], for images [B, C, H, W] and probabilities [B, m], compiled."""
        images = _in_rows(images)
        chain = self._chain(theta, images)

        def compiled() -> Tensor:
            if chain is None:
                return self._gradient(theta, images, targets)  # type: ignore[no-any-return]
            return added([self._gradient(theta, *part) for part in chain.parts(images, targets)])

        found: Tensor = self._try(
            compiled, lambda: self._eager.gradient(theta, images, targets), ("gradient", images.shape, images.dtype)
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
        """Derivatives of s = g·λ for λ = `cotangent` [P], compiled; ∂s/∂θ only if `through_theta`."""
        images = _in_rows(images)

        chain = self._chain(theta, images)

        def compiled() -> StepPullback:
            if chain is not None:
                parts = chain.parts(images, targets)
                if through_theta:
                    return StepPullback(*joined(self._pull(theta, *part, cotangent) for part in parts))
                without = (self._pull_data(theta, *part, cotangent) for part in parts)
                return StepPullback(*joined((s, None, x, y) for s, x, y in without))
            if not through_theta:
                s, x, y = self._pull_data(theta, images, targets, cotangent)
                return StepPullback(s=s, theta=None, images=x, targets=y)
            s, point, x, y = self._pull(theta, images, targets, cotangent)
            return StepPullback(s=s, theta=point, images=x, targets=y)

        found: StepPullback = self._try(
            compiled,
            lambda: self._eager.pull(theta, images, targets, cotangent, through_theta=through_theta),
            (f"pull {through_theta}", images.shape, images.dtype),
        )
        return found

    def _chain(self, theta: Tensor, images: Tensor) -> Chain | None:
        """The network as a chain for images of this size; what is compiled looks it up by the size."""
        sides = tuple(images.shape[2:])
        if sides not in self._chains:
            self._chains[sides] = self._eager.network.chain(theta, images)
        return self._chains[sides]

    def _try(self, compiled: Callable[[], Any], eager: Callable[[], Any], kind: tuple[object, ...]) -> Any:
        if self._failed is not None:
            return eager()
        if not self._begun and sys.stderr.isatty():
            sys.stderr.write("compiling the student's step, which takes a minute or more …\n")
        self._begun = True
        try:
            if kind in self._done:
                return compiled()
            with _without_chatter():
                found = compiled()
            self._done.add(kind)
            return found
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # The step runs uncompiled after any failure of the compiler; an error of the step itself is raised there.
            self._failed = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self._say(f"the student's step could not be compiled and runs uncompiled ({self._failed})")
            return eager()


def _in_rows(images: Tensor) -> Tensor:
    """The images [B, C, H, W] with the strides of a fresh tensor, as the steps are compiled for one set of strides.

    Those that dsa has cropped lie channels last, and would be compiled to kernels of their own. An axis of one element
    may have any stride, which only the two views put right.
    """
    return images.contiguous().view(-1).view(images.shape)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Silences torch's extension builder, which logs on every machine without a GPU that there is none.

    Also ignores warnings: those of the compiler are about its own code or about TF32, and where warnings are errors
    (`python -W error`) one of them would end the compilation.
    """
    log = logging.getLogger("torch.utils.cpp_extension")
    # A change of the logger's level would clear the caches of all loggers, at each step: 0.8 ms of a step of 1.9.
    log.addFilter(_is_an_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.removeFilter(_is_an_error)


def _is_an_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a copy of the function with its own code object, since torch.compile limits recompilations per code."""
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)


def with_products(module: nn.Module) -> nn.Module:
    """Replaces the module's plain 2-d convolutions by `ProductConv2d` in place; parameters and their names stay."""
    for layer in module.children():
        if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
            if not isinstance(layer.padding, str):
                layer.__class__ = ProductConv2d
        else:
            with_products(layer)
    return module


class ProductConv2d(nn.Conv2d):
    """A 2-d convolution that small inputs on a CPU go through as one matrix product; equal to Conv2d up to rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolves maps [B, C, H, W] to [B, O, H', W'] with O output channels."""
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
