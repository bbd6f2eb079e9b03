"""Student steps replayed as CUDA graphs: one launch for a whole step, where each kernel alone would cost one.

A graph reads and writes tensors of its own. Inputs are copied into them and outputs out of them, on the device; what a
step returns is therefore the caller's. One graph is captured for each shape of batch, at its first use.

Shapes: B images in a batch, C channels, H rows, W columns, m classes, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddfw.engine.compiled import Say, warn
from ddfw.engine.inner import StepPullback, Steps

Function = Callable[..., tuple[Tensor, ...]]
#: (function of tensors, example inputs) → a function that does the same by replaying.
Capture = Callable[[Function, Sequence[Tensor]], Function]
#: Runs before a capture, in which libraries choose their algorithms and compilers compile.
WARM_UPS = 3


class GraphedSteps:
    """Steps whose every call is a replay; where capturing fails, `say` is told once and steps run as they are.

    Args:
        steps: what is captured; has to be free of synchronisation with the processor.
        say: told why nothing is captured.
        capture: makes a function into its replay; a CUDA graph's unless a test has its own.
    """

    def __init__(self, steps: Steps, say: Say = warn, capture: Capture | None = None) -> None:
        self._steps = steps
        self._say = say
        self._capture = capture or CudaCapture()
        self._replays: dict[tuple[object, ...], Function] = {}
        self._failed = False

    @property
    def captured(self) -> bool:
        """Whether steps are replayed; False once capturing has failed."""
        return not self._failed

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """See `ddfw.engine.inner.Steps`."""

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
        """See `ddfw.engine.inner.Steps`."""

        def pull(*inputs: Tensor) -> tuple[Tensor, ...]:
            found = self._steps.pull(*inputs, through_theta=through_theta)
            assert found.targets is not None  # always asked for, so that one capture serves every caller
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
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._failed = True
                self._replays.clear()
                text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                self._say(f"the student's step could not be captured in a CUDA graph and runs without ({text})")
                return function(*inputs)
        return self._replays[key](*inputs)


class CudaCapture:
    """Captures functions in CUDA graphs that share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Function:
        """The function's replay, for inputs of these shapes."""
        # Streams are the current GPU's, which need not be where the inputs are.
        with torch.cuda.device(inputs[0].device):
            return self._captured(function, inputs)

    def _captured(self, function: Function, inputs: Sequence[Tensor]) -> Function:
        own = [tensor.detach().clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(*own)
        torch.cuda.current_stream().wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = function(*own)

        def replay(*given: Tensor) -> tuple[Tensor, ...]:
            for mine, theirs in zip(own, given, strict=True):
                mine.copy_(theirs)
            graph.replay()
            return tuple(tensor.clone() for tensor in outputs)

        return replay
