"""`cpu`: all work on this machine's processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, final

import torch
from attrs import frozen
from attrs.validators import ge, le, optional

from ddfw import AbstractExecutor, option
from ddfw.engine.inner import Network
from ddfw_plugins.executors._session import LocalSession
from ddfw_plugins.executors.compiled import CompiledSteps

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorContext


@final
@frozen(kw_only=True)
class Cpu(AbstractExecutor):
    """This machine's processor."""

    name: ClassVar[str] = "cpu"

    threads: int | None = option(
        None,
        validator=optional([ge(1), le(1024)]),
        help="threads of each operation; the default is PyTorch's own choice",
    )
    compile: bool = option(
        False,
        help="compile the student's step: about half a minute at the start, faster steps, no held graphs; needs a "
        "C++ compiler",
    )

    @contextmanager
    def open(self, context: ExecutorContext) -> Iterator[CpuSession]:
        """A session. Afterwards PyTorch uses as many threads as before."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield CpuSession(context, compile=self.compile)
        finally:
            torch.set_num_threads(before)


class CpuSession(LocalSession):
    """Does all work on the CPU, one network at a time.

    Args:
        context: the model, augmentation, matching loss and settings of the run.
        compile: whether the student's step is compiled.
    """

    def __init__(self, context: ExecutorContext, *, compile: bool = False) -> None:
        network = Network(context.module)
        self._compiled = CompiledSteps(network) if compile else None
        super().__init__(context, network, torch.device("cpu"), steps=self._compiled)

    def describe(self) -> dict[str, object]:
        """Device, threads, how many step graphs are held and why, and whether steps are compiled."""
        more = {} if self._compiled is None else {"compiled": self._compiled.compiled}
        return {"type": "cpu", "threads": torch.get_num_threads(), **super().describe(), **more}
