"""What the tests of the engine share."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the distinct storages that are alive, and their peak, while it is on."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self._known = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def _note(self, storage):
        # A storage object is made anew on each access; its C++ implementation is what lives and dies.
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self.live += size

        def gone(_, key=key, size=size):
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)


@pytest.fixture
def live_bytes():
    """The counter, as a context manager: `with live_bytes() as count: …; count.peak`."""
    return LiveBytes
