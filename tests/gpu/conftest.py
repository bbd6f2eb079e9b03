"""Tests that need an NVIDIA GPU: `pytest -m gpu`. Without one they are skipped with the reason."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from ddfw import OptionError
from ddfw_plugins.executors._gpu import require_gpu
from ddfw_plugins.executors.arithmetic import SIZE, WORKSPACE

# PyTorch looks for it once in a process, at its first product on a GPU; tests of repeatable sessions follow others.
if torch.cuda.is_available():
    os.environ.setdefault(WORKSPACE, SIZE)


@pytest.fixture(autouse=True)
def gpu():
    """Skips where there is no GPU that PyTorch can use, and gives memory back between tests."""
    try:
        require_gpu("cuda")
    except OptionError as error:
        pytest.skip(f"needs an NVIDIA GPU: {error}")
    yield
    gc.collect()
    torch.cuda.empty_cache()
