"""`cuda`: all work on one NVIDIA GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from attrs import evolve, frozen
from attrs.validators import ge, in_, matches_re

from ddfw import AbstractExecutor, OptionError, option
from ddfw.engine.inner import EagerSteps, Network, Steps
from ddfw_plugins.executors._session import LocalSession
from ddfw_plugins.executors.compiled import CompiledSteps
from ddfw_plugins.executors.graphed import GraphedSteps

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorContext, LabelledImages

Training = Literal["float32", "tf32", "bf16"]


@final
@frozen(kw_only=True)
class Cuda(AbstractExecutor):
    """One NVIDIA GPU, with compiled training steps.

    Data stay on the GPU; the student's step is compiled and replayed as a CUDA graph.
    Meta-gradients are computed in the run's precision, without TF32. The option `training` sets the precision
    of experts and evaluation networks alone.
    """

    name: ClassVar[str] = "cuda"

    device: str = option(
        "cuda", validator=matches_re(r"cuda(:(0|[1-9][0-9]*))?"), help="which GPU: cuda, or cuda:1, cuda:2, …"
    )
    compile: bool = option(True, help="compile the student's step; no step graphs are held then")
    graphs: bool = option(True, help="replay the student's step as a CUDA graph; no step graphs are held then")
    training: Training = option(
        "tf32",
        validator=in_(("float32", "tf32", "bf16")),
        help="arithmetic of experts and evaluation networks where run.precision is float32; parameters stay float32",
    )
    channels_last: bool = option(True, help="images of experts and evaluation networks lie channel by channel last")
    together: int = option(
        1, validator=ge(1), help="experts and evaluation networks that are trained at a time, vectorised"
    )

    @property
    def experts_at_once(self) -> int:
        """The option `together`."""
        return self.together

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[CudaSession]:
        """A session. Afterwards PyTorch's precision settings are as before.

        Raises:
            OptionError: PyTorch sees no GPU, or none of this number.
        """
        require_gpu(self.device)
        device = torch.device(self.device)
        with arithmetic("ieee"):
            yield CudaSession(context, self, device)


class CudaSession(LocalSession):
    """Does all work on one GPU.

    Args:
        context: the model, augmentation, matching loss and settings of the run.
        options: the executor, whose fields are its options.
        device: where tensors are.
    """

    def __init__(self, context: ExecutorContext, options: Cuda, device: torch.device) -> None:
        network = Network(copy.deepcopy(context.module).to(device))
        self._compiled = CompiledSteps(network) if options.compile else None
        inner: Steps = self._compiled or EagerSteps(network)
        self._graphed = GraphedSteps(inner) if options.graphs else None
        self._options = options

        def prepare(data: LabelledImages) -> LabelledImages:
            if not options.channels_last:
                return data
            return evolve(data, images=data.images.contiguous(memory_format=torch.channels_last))

        @contextmanager
        def training() -> Iterator[None]:
            lower = context.dtype == torch.float32
            with (
                arithmetic("tf32" if lower and options.training == "tf32" else "ieee"),
                torch.autocast(device.type, torch.bfloat16, enabled=lower and options.training == "bf16"),
            ):
                yield

        super().__init__(
            context,
            network,
            device,
            steps=self._graphed or self._compiled,
            together=options.together,
            training=training,
            prepare=prepare,
        )

    def describe(self) -> dict[str, object]:
        """The GPU's name and memory, the precision, and whether steps are compiled and replayed."""
        options, properties = self._options, torch.cuda.get_device_properties(self.device)
        return {
            "type": "cuda",
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "training": options.training if self._context.dtype == torch.float32 else "float64",
            "together": options.together,
            "compiled": self._compiled is not None and self._compiled.compiled,
            "graphs": self._graphed is not None and self._graphed.captured,
            **super().describe(),
        }


def require_gpu(device: str) -> None:
    """Checks that a GPU is there.

    Args:
        device: cuda, or cuda:1, cuda:2, …

    Raises:
        OptionError: PyTorch sees no GPU, or none of this number.
    """
    if not torch.cuda.is_available():
        apple = torch.backends.mps.is_available()
        why = "this machine has an Apple GPU, which ddfw does not use" if apple else "PyTorch sees no NVIDIA GPU here"
        raise OptionError(f"{why}; take executor cpu (--executor cpu)", "device")
    count, number = torch.cuda.device_count(), int(device.partition(":")[2] or 0)
    if number >= count:
        raise OptionError(
            f"there {'is 1 GPU' if count == 1 else f'are {count} GPUs'}, cuda:0 on; got {device}", "device"
        )


@contextmanager
def arithmetic(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """Sets how a GPU computes float32 products and convolutions inside the block: in full float32 or in TF32."""
    kinds: Any = torch.backends.cudnn
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, kinds.conv, kinds.rnn)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = precision
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value
