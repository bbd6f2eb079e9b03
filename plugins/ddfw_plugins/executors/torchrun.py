"""`torchrun`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar, final

from attrs import frozen

from ddfw import AbstractExecutor, ExecutorContext, OptionError
from ddfw.contracts.executor import ExecutorSession


@final
@frozen(kw_only=True)
class Torchrun(AbstractExecutor):
    """Not there yet."""

    name: ClassVar[str] = "torchrun"

    def open(self, context: ExecutorContext) -> AbstractContextManager[ExecutorSession]:
        """Refuses."""
        raise OptionError("not there yet")
