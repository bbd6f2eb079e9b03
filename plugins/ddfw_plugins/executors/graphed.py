"""Student steps replayed as CUDA graphs: the CPU launches a whole step at once instead of every kernel by itself.

A CUDA graph reads and writes tensors of its own. Inputs are copied into them and outputs are copied out of them on the
device, so a tensor that a step returns is never overwritten. The first use of each batch shape captures one graph.

Shapes: B images in a batch, C channels, H rows, W columns, m classes, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddfw.engine.inner import StepPullback, Steps
from ddfw_plugins.executors.compiled import Say, warn

Function = Callable[..., tuple[Tensor, ...]]
#: Takes a function of tensors and example inputs, and returns a function that replays what was captured from it.
Capture = Callable[[Function, Sequence[Tensor]], Function]
#: Number of plain runs before a capture: CUDA libraries choose their algorithms and compilers compile during them.
WARM_UPS = 3


class GraphedSteps:
    """Steps that are replayed from CUDA graphs; if capturing fails, `say` is called once and steps run uncaptured.

    Args:
        steps: the steps to capture; they must not synchronise the GPU with the CPU.
        say: called with one sentence that tells why nothing is captured.
        capture: turns a function of tensors into its replay; None: capture in a CUDA graph.
    """

    def __init__(self, steps: Steps, say: Say = warn, capture: Capture | None = None) -> None:
        self._steps = steps
        self._say = say
        self._capture = capture or CudaCapture()
        self._replays: dict[tuple[object, ...], Function] = {}
        self._failed = False

    @property
    def captured(self) -> bool:
        """Whether steps are replayed: True until capturing has failed once."""
        return not self._failed

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """Replays a graph for the inner loss's gradient [P] at θ [P], for images [B, C, H, W], probabilities [B, m]."""

        def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
            return (self._steps.gradient(*inputs),)

        return self._run("gradient", gradient, theta, images, targets)[0]

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
        """Replays the captured derivatives of s = g·λ, for the step's gradient g [P] and λ = `cotangent` [P].

        The derivative with respect to the parameters θ is computed only if `through_theta` is true.
        """

        def pull(*inputs: Tensor) -> tuple[Tensor, ...]:
            found = self._steps.pull(*inputs, through_theta=through_theta)
            assert found.targets is not None  # computed for every caller, so that one captured graph serves them all
            point = () if found.theta is None else (found.theta,)
            return found.s, found.images, found.targets, *point

        s, x, y, *point = self._run(f"pull {through_theta}", pull, theta, images, targets, cotangent)
        return StepPullback(s=s, theta=point[0] if point else None, images=x, targets=y)

    def _run(self, name: str, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self._failed:
            return function(*inputs)
        key = (name, *((tuple(t.shape), t.dtype) for t in inputs))
        if key not in self._replays:
            try:
                self._replays[key] = self._capture(function, inputs)
            except Exception as error:
                if cause := _no_fault_of_the_capture(error):
                    raise cause from None
                self._failed = True
                self._replays.clear()
                text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                self._say(f"the student's step could not be captured in a CUDA graph and runs without ({text})")
                return function(*inputs)
        return self._replays[key](*inputs)


def _no_fault_of_the_capture(error: BaseException | None) -> BaseException | None:
    """Full memory or Ctrl-C, if the error is it or came while it was handled; None for other errors.

    A capture in which either comes ends with an error of its own, which only knows that the capture is broken.
    """
    while isinstance(error, Exception) and not isinstance(error, torch.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error


class CudaCapture:
    """Captures functions in CUDA graphs that share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Function:
        """Captures the function for inputs of these shapes and returns its replay."""
        # A new stream belongs to the current GPU, so the inputs' GPU is made current first.
        with torch.cuda.device(inputs[0].device):
            return self._captured(function, inputs)

    def _captured(self, function: Function, inputs: Sequence[Tensor]) -> Function:
        # With strides of their own: those of the first batch would decide on the kernels of all that follow.
        own = [tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in inputs]
        # PyTorch's own stream for captures would belong to the GPU of the process's first capture.
        before, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(before)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(*own)
        before.wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as one that copies data, may use the GPU meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                outputs = function(*own)
        except BaseException:
            # Where ending a capture fails, torch.cuda.graph does not get to leaving its stream.
            torch.cuda.set_stream(before)
            raise

        def replay(*given: Tensor) -> tuple[Tensor, ...]:
            for mine, theirs in zip(own, given, strict=True):
                mine.copy_(theirs)
            graph.replay()
            return tuple(tensor.clone() for tensor in outputs)

        return replay
