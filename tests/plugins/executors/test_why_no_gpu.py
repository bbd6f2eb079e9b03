"""Why a GPU cannot be used is said at the start, with what to do."""

from __future__ import annotations

import warnings

import pytest
import torch

from ddfw import OptionError
from ddfw_plugins.executors._gpu import require_gpu

OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12080)"


@pytest.mark.parametrize(
    ("built", "driver", "said", "words"),
    [
        (None, 0, "", "built without CUDA"),
        (None, 13000, "", "built without CUDA"),
        ("13.0", 12080, OLD, "driver is too old: it knows CUDA 12.8, this PyTorch needs 13.0"),
        ("13.0", 12080, "", "driver is too old: it knows CUDA 12.8"),
        ("13.0", 0, "", "sees no NVIDIA GPU here, nor a driver"),
        ("13.0", 13010, "no CUDA-capable device is detected", "no CUDA-capable device is detected"),
        ("13.0", 13010, "", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_why_there_is_no_gpu_is_said(monkeypatch, built, driver, said, words):
    """Broken: somebody with a GPU is told that there is none, where a driver or another PyTorch would help."""

    def available():
        if said:
            warnings.warn(said, UserWarning, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: driver, raising=False)
    with pytest.raises(OptionError) as caught:
        require_gpu("cuda")
    assert words in str(caught.value) and "\n" not in str(caught.value) and "--executor cpu" in str(caught.value)


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (["sm_80", "sm_90"], (9, 0), True),
        (["sm_80"], (8, 6), True),
        (["sm_86"], (8, 0), False),
        (["sm_80", "sm_90a"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),
        (["sm_75", "compute_120"], (7, 0), False),
        (["sm_100", "sm_120"], (10, 3), True),
        ([], (7, 0), True),
        (["gfx90a", "gfx942"], (9, 4), True),  # a build for AMD GPUs
    ],
)
def test_a_gpu_without_code_in_this_pytorch_is_refused_at_the_start(monkeypatch, built, capability, runs):
    """Broken: an old or very new GPU fails at the first operation, with "no kernel image is available"."""
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_arch_list": lambda: built,
        "get_device_capability": lambda number: capability,
        "get_device_name": lambda number: "Pretended",
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    if runs:
        return require_gpu("cuda:0")
    with pytest.raises(OptionError, match="no code for Pretended") as caught:
        require_gpu("cuda:0")
    assert ", ".join(built) in str(caught.value) and "\n" not in str(caught.value)
    return None
