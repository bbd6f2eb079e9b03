"""Networks: built for an image shape, initialised from an explicit generator, used on one flat parameter vector.

Shapes: B images in a batch, m classes, P parameters in all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from attrs import frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ddfw.contracts.dataset import ImageSpec


class ParameterTable(Protocol):
    """What a flat θ [P] consists of: T tensors in flat order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def num_parameters(self) -> int:
        """P."""
        ...


@frozen(kw_only=True)
class AbstractModel(ABC):
    """A network architecture. Subclasses are `@final @frozen(kw_only=True)` and set `name`."""

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def build(self, spec: ImageSpec) -> nn.Module:
        """The module: images [B, C, H, W] → logits [B, m]; its own parameter values are never used.

        No running statistics and no active dropout: inner steps are replayed and have to give the same result.

        Raises:
            OptionError: the options do not fit the image shape.
        """

    def init(self, module: nn.Module, rng: torch.Generator) -> Tensor:
        """Initial parameters θ [P], float32, in `module.parameters()` order.

        The default draws PyTorch's own initialisation for convolutions and linear layers (uniform in
        ±1/√fan_in, weights and biases), and ones and zeros for normalisation layers.

        Raises:
            TypeError: a layer that the default does not know; the model then has to override `init`.
        """
        import torch
        from torch import nn

        known: dict[int, Tensor] = {}
        for layer in module.modules():
            own = dict(layer.named_parameters(recurse=False))
            if not own:
                continue
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for p in own.values():
                    known[id(p)] = torch.empty(p.shape).uniform_(-bound, bound, generator=rng)
            elif "weight" in own and "bias" in own and len(own) == 2 and own["weight"].ndim == 1:
                known[id(own["weight"])], known[id(own["bias"])] = (
                    torch.ones(own["weight"].shape),
                    torch.zeros(own["bias"].shape),
                )
            else:
                raise TypeError(
                    f"{type(self).__name__} has a {type(layer).__name__} layer whose initialisation is not known; "
                    "override init(module, rng)"
                )
        return torch.cat([known[id(p)].flatten() for p in module.parameters()])
