"""What a process needs before its first product on a GPU; `tests/conftest.py` skips where there is none."""

from __future__ import annotations

import os

import torch

from ddfw_plugins.executors.arithmetic import SIZE, WORKSPACE

# PyTorch looks for it once in a process, at its first product; tests of repeatable sessions follow others.
if torch.cuda.is_available():
    os.environ.setdefault(WORKSPACE, SIZE)
