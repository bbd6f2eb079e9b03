"""Whether PyTorch can use a GPU of this machine, and why not."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from ddfw import OptionError


def require_gpu(device: str) -> None:
    """Checks that a GPU is there which this build of PyTorch can use.

    Args:
        device: cuda, or cuda:1, cuda:2, …

    Raises:
        OptionError: PyTorch is built without CUDA, finds no driver, no GPU or none of this number, a driver that is too
            old, or a GPU that it has no code for.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if not there:
        raise OptionError(
            f"{_why_not([str(w.message) for w in said])}; or take executor cpu (--executor cpu)", "device"
        )
    count, number = torch.cuda.device_count(), int(device.partition(":")[2] or 0)
    if number >= count:
        raise OptionError(
            f"there {'is 1 GPU' if count == 1 else f'are {count} GPUs'}, cuda:0 on; got {device}", "device"
        )
    _require_code_for(number)


def _why_not(said: list[str]) -> str:
    """Why PyTorch has no GPU, and what to do; `said` are the warnings that it gave."""
    if torch.backends.mps.is_available():
        return "this machine has an Apple GPU, which ddfw does not use"
    if torch.version.hip is not None:
        return "this PyTorch is built for AMD GPUs and finds none"
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA; install one with it (https://pytorch.org)"
    core: Any = torch._C
    version = core._cuda_getDriverVersion() if hasattr(core, "_cuda_getDriverVersion") else 0
    driver = f"{version // 1000}.{version % 1000 // 10}"
    if version and (any("too old" in text for text in said) or _older(driver, torch.version.cuda)):
        return (
            f"the NVIDIA driver is too old: it knows CUDA {driver}, this PyTorch needs {torch.version.cuda}; update it"
        )
    if version:
        more = "".join(f" ({' '.join(text.split())[:120]})" for text in said[:1])
        return f"there is an NVIDIA driver, but PyTorch sees no NVIDIA GPU here{more}; is CUDA_VISIBLE_DEVICES empty?"
    return "PyTorch sees no NVIDIA GPU here, nor a driver for one; install the driver if there is one"


def _older(driver: str, wanted: str) -> bool:
    """Whether a driver's CUDA is of an earlier major version; within one, drivers work with all versions."""
    return int(driver.partition(".")[0]) < int(wanted.partition(".")[0])


def _require_code_for(number: int) -> None:
    """Checks that this build of PyTorch has machine code for a GPU, or code that its driver can translate."""
    major, minor = torch.cuda.get_device_capability(number)
    # A build for AMD GPUs names their architectures otherwise (gfx90a), and says itself what it cannot run.
    built = [name for name in torch.cuda.get_arch_list() if name.startswith(("sm_", "compute_"))]
    for name in built:
        kind, _, version = name.partition("_")
        known = divmod(int("".join(filter(str.isdigit, version))), 10)
        # Machine code (sm) runs on later GPUs of its generation, intermediate code (compute) on all later ones.
        if known <= (major, minor) and (kind == "compute" or known[0] == major):
            return
    if built:
        raise OptionError(
            f"this PyTorch has no code for {torch.cuda.get_device_name(number)} (sm_{major}{minor}), only "
            f"{', '.join(built)}; install a build that has, or take executor cpu (--executor cpu)",
            "device",
        )
