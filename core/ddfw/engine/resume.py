"""The state between two outer steps as named tensors, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from attrs import evolve
from torch import Tensor

from ddfw.engine.distill import Learned, OuterState
from ddfw.errors import DataError

if TYPE_CHECKING:
    from ddfw.contracts.parameterization import Params

#: Memory that PyTorch's optimisers keep on the CPU whatever the parameters' device.
_ON_CPU = ("step",)


def learned_tensors(prefix: str, learned: Learned) -> dict[str, Tensor]:
    """φ, ψ and a by name: `<prefix>.params.<key>`, `<prefix>.labels.<key>`, `<prefix>.step_size`."""
    return {
        **{f"{prefix}.params.{key}": tensor for key, tensor in learned.params.items()},
        **{f"{prefix}.labels.{key}": tensor for key, tensor in learned.label_params.items()},
        f"{prefix}.step_size": learned.step_size,
    }


def learned_from(prefix: str, tensors: Mapping[str, Tensor], like: Learned) -> Learned:
    """The inverse of `learned_tensors`.

    Args:
        prefix: see there.
        tensors: named tensors, among them these.
        like: says keys, shapes, dtypes and device.

    Raises:
        DataError: other tensors than `like` has.
    """
    found = _require_alike(prefix, tensors, learned_tensors(prefix, like))

    def part(name: str, keys: Params) -> Params:
        return {key: found[f"{prefix}.{name}.{key}"] for key in keys}

    return Learned(
        params=part("params", like.params),
        label_params=part("labels", like.label_params),
        step_size=found[f"{prefix}.step_size"],
    )


def moving_tensors(state: OuterState) -> dict[str, Tensor]:
    """What outer steps move, by name: φ, ψ, a, and the running mean of φ."""
    mean = {} if state.mean is None else {f"mean.{key}": tensor for key, tensor in state.mean.items()}
    return {**learned_tensors("learned", state.learned), **mean}


def state_tensors(state: OuterState) -> dict[str, Tensor]:
    """All tensors of a state by name; an optimiser's memory that is not there yet is not there."""
    memory = {}
    for number, optimiser in enumerate(state.optimisers):
        for place, parameter in enumerate(_parameters(optimiser)):
            for key, value in optimiser.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    memory[f"optimiser.{number}.{place}.{key}"] = value
    return {**moving_tensors(state), **memory}


def restored(state: OuterState, tensors: Mapping[str, Tensor], step: int, skipped: int) -> OuterState:
    """The state after `step` steps.

    Args:
        state: before the first step; its tensors are written over.
        tensors: what `state_tensors` gave.
        step: outer steps that are done.
        skipped: how many of them changed nothing.

    Raises:
        DataError: tensors of another run.
    """
    mine = moving_tensors(state)
    for prefix in ("learned", "mean"):
        part = {name: tensor for name, tensor in mine.items() if name.startswith(f"{prefix}.")}
        found = _require_alike(prefix, tensors, part)
        with torch.no_grad():
            for name, tensor in part.items():
                tensor.copy_(found[name])
    for name, value in tensors.items():
        if not name.startswith("optimiser."):
            continue
        _, number, place, key = name.split(".", 3)
        optimiser = state.optimisers[int(number)]
        parameter = _parameters(optimiser)[int(place)]
        optimiser.state[parameter][key] = value if key in _ON_CPU else value.to(parameter.device)
    return evolve(state, step=step, skipped=skipped)


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def _require_alike(prefix: str, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, on the device of those that they have to be like."""
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
    if {k: (t.shape, t.dtype) for k, t in found.items()} != {k: (t.shape, t.dtype) for k, t in like.items()}:
        raise DataError(f"the checkpoint's tensors {prefix}.* are not those of this run")
    return {name: tensor.to(like[name].device) for name, tensor in found.items()}
