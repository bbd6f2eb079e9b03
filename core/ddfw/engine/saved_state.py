"""Converts the state between two outer steps to named tensors for a checkpoint, and back, bit for bit."""

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

#: Names of optimiser state that PyTorch keeps on the CPU, whatever the device of the parameters.
_ON_CPU = ("step",)


def learned_tensors(prefix: str, learned: Learned) -> dict[str, Tensor]:
    """The learned tensors by name: `<prefix>.params.<key>`, `<prefix>.labels.<key>` and `<prefix>.step_size`."""
    return {
        **{f"{prefix}.params.{key}": tensor for key, tensor in learned.params.items()},
        **{f"{prefix}.labels.{key}": tensor for key, tensor in learned.label_params.items()},
        f"{prefix}.step_size": learned.step_size,
    }


def learned_from(prefix: str, tensors: Mapping[str, Tensor], like: Learned) -> Learned:
    """Reads learned tensors from what `learned_tensors` returned.

    Args:
        prefix: first part of the tensors' names, without its dot.
        tensors: named tensors; those with another prefix are ignored.
        like: learned tensors of the same keys, shapes and dtypes, on the device where the result shall be.

    Returns:
        The learned tensors.

    Raises:
        DataError: keys, shapes or dtypes differ from those of `like`.
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
    """The tensors that outer steps change, by name: the learned tensors and, if there is one, the running mean of φ."""
    mean = {} if state.mean is None else {f"mean.{key}": tensor for key, tensor in state.mean.items()}
    return {**learned_tensors("learned", state.learned), **mean}


def state_tensors(state: OuterState) -> dict[str, Tensor]:
    """All tensors of a state by name, momentum buffers included; an optimiser has none before its first step."""
    memory = {}
    for number, optimiser in enumerate(state.optimisers):
        for place, parameter in enumerate(_parameters(optimiser)):
            for key, value in optimiser.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    memory[f"optimiser.{number}.{place}.{key}"] = value
    return {**moving_tensors(state), **memory}


def restored(state: OuterState, tensors: Mapping[str, Tensor], step: int, skipped: int) -> OuterState:
    """Rebuilds the state after `step` outer steps from a checkpoint's tensors.

    Args:
        state: the run's state before the first step; its tensors are overwritten.
        tensors: what `state_tensors` returned when the checkpoint was written.
        step: number of outer steps that were done.
        skipped: number of those steps that changed nothing because of `outer.skip_above`.

    Returns:
        The rebuilt state.

    Raises:
        DataError: keys, shapes or dtypes of the tensors are not those of this run.
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
    """The tensors of a prefix, checked against the names, shapes and dtypes of `like` and moved to its devices."""
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
    if {k: (t.shape, t.dtype) for k, t in found.items()} != {k: (t.shape, t.dtype) for k, t in like.items()}:
        raise DataError(f"the checkpoint's tensors {prefix}.* are not those of this run")
    return {name: tensor.to(like[name].device) for name, tensor in found.items()}
