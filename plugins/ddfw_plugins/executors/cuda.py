"""`cuda`: all work on one NVIDIA GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from attrs import evolve, fields, frozen
from attrs.validators import ge, in_, matches_re
from torch import Tensor

from ddfw import AbstractExecutor, option
from ddfw.engine.inner import EagerSteps, Network, Steps
from ddfw_plugins.executors._gpu import require_gpu
from ddfw_plugins.executors._session import LocalSession
from ddfw_plugins.executors.arithmetic import arithmetic, deterministic, products_that_may_repeat
from ddfw_plugins.executors.compiled import CompiledSteps
from ddfw_plugins.executors.graphed import GraphedSteps

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorContext, LabelledImages

#: Arithmetic where the run's precision is float32.
Lower = Literal["float32", "tf32", "bf16"]
ARITHMETIC: tuple[Lower, ...] = ("float32", "tf32", "bf16")


@final
@frozen(kw_only=True)
class Cuda(AbstractExecutor):
    """One NVIDIA GPU, with compiled training steps.

    Data stay on the GPU; the student's step is compiled and replayed as a CUDA graph.
    Meta-gradients are computed in full float32 unless `gradient` says otherwise. The option `training` sets the
    precision of experts and evaluation networks. Two runs with one seed agree up to rounding; that files are the same
    byte for byte is promised on CPUs only.
    """

    name: ClassVar[str] = "cuda"

    device: str = option(
        "cuda", validator=matches_re(r"cuda(:(0|[1-9][0-9]*))?"), help="which GPU: cuda, or cuda:1, cuda:2, …"
    )
    compile: bool = option(True, help="compile the student's step; no step graphs are held then")
    graphs: bool = option(True, help="replay the student's step as a CUDA graph; no step graphs are held then")
    training: Lower = option(
        "tf32",
        validator=in_(ARITHMETIC),
        help="arithmetic of experts and evaluation networks where run.precision is float32; parameters stay float32",
    )
    gradient: Lower = option(
        "float32",
        validator=in_(ARITHMETIC),
        help="arithmetic of the student's network where run.precision is float32; its parameters, the losses and all "
        "sums of the meta-gradient stay float32",
    )
    deterministic: bool = option(
        False,
        help="take only operations that repeat to the bit, which is slower; where PyTorch has none, the run ends with "
        "an error",
    )
    channels_last: bool = option(True, help="images of experts and evaluation networks lie channel by channel last")
    together: int = option(
        1, validator=ge(1), help="experts and evaluation networks that are trained at a time, vectorised"
    )

    @property
    def experts_at_once(self) -> int:
        """The option `together`."""
        return self.together

    @property
    def expert_arithmetic(self) -> str:
        """The option `training`."""
        return self.training

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[CudaSession]:
        """A session. Afterwards PyTorch's settings of precision and of repeatability are as before.

        Raises:
            OptionError: PyTorch can use no GPU, or none of this number; or `deterministic` is on, and something in the
                session uses an operation that cannot be repeated to the bit.
        """
        require_gpu(self.device)
        device = torch.device(self.device)
        with arithmetic("ieee"), deterministic() if self.deterministic else products_that_may_repeat():
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
        lower = context.dtype == torch.float32
        student = HalfNetwork(network.module) if lower and options.gradient == "bf16" else network
        self._compiled = CompiledSteps(student) if options.compile else None
        inner: Steps = self._compiled or EagerSteps(student)
        self._graphed = GraphedSteps(inner) if options.graphs else None
        self._options = options

        def prepare(data: LabelledImages) -> LabelledImages:
            if not options.channels_last:
                return data
            return evolve(data, images=data.images.contiguous(memory_format=torch.channels_last))

        @contextmanager
        def training() -> Iterator[None]:
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
            student=student,
            gradient=lambda: arithmetic("tf32" if lower and options.gradient == "tf32" else "ieee"),
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
            "gradient": options.gradient if self._context.dtype == torch.float32 else "float64",
            "deterministic": options.deterministic,
            "together": options.together,
            "compiled": self._compiled is not None and self._compiled.compiled,
            "graphs": self._graphed is not None and self._graphed.captured,
            **super().describe(),
        }


class HalfNetwork(Network):
    """A network whose convolutions and products are computed in bfloat16, from and to float32."""

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """Logits [B, m] float32 for parameters θ [P] and images [B, C, H, W], both float32."""
        # Nothing is kept from one call to the next: what autocast keeps would be part of a captured graph.
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            logits = super().logits(theta, images)
        return logits.to(theta.dtype)


def cuda_with(options: AbstractExecutor, **more: Any) -> Cuda:
    """The executor `cuda` with those options of another executor that have its names and are not None.

    Args:
        options: an executor that computes on GPUs in its own way, such as `torchrun`.
        more: further options of `cuda`.
    """
    given = {field.name: getattr(options, field.name, None) for field in fields(Cuda)}
    return Cuda(**{**{name: value for name, value in given.items() if value is not None}, **more})
