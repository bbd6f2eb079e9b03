"""Networks: built for an image shape, initialised by a given generator, with all parameters in one flat vector.

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
    """The T parameter tensors that a flat vector θ [P] is made of, in their order in θ.

    Attributes:
        names: the T names, as in `module.named_parameters()`.
        shapes: the T shapes.
        sizes: the T numbers of elements; they sum to P.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def num_parameters(self) -> int:
        """Number P of parameters."""


@frozen(kw_only=True)
class AbstractModel(ABC):
    """A network architecture.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def build(self, spec: ImageSpec) -> nn.Module:
        """Builds a module that maps images [B, C, H, W] to logits [B, m]; its own parameter values are never used.

        The module must have no running statistics and no active dropout, since repeating an inner step has to give the
        same result.

        Args:
            spec: image shape and number of classes.

        Raises:
            OptionError: the options do not fit the image shape.
        """

    def init(self, module: nn.Module, rng: torch.Generator) -> Tensor:
        """Draws initial parameters.

        This default draws weights and biases of convolutions and linear layers uniformly in ±1/√fan_in, as PyTorch
        does, and sets the weights of normalisation layers to 1 and their biases to 0.

        Args:
            module: what `build` returned.
            rng: CPU generator; the only source of randomness.

        Returns:
            θ [P] float32, in `module.parameters()` order.

        Raises:
            TypeError: the module has a layer of another type; the model then has to override `init`.
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
                known[id(own["weight"])] = torch.ones(own["weight"].shape)
                known[id(own["bias"])] = torch.zeros(own["bias"].shape)
            else:
                raise TypeError(
                    f"{type(self).__name__} has a {type(layer).__name__} layer whose initialisation is not known; "
                    "override init(module, rng)"
                )
        return torch.cat([known[id(p)].flatten() for p in module.parameters()])
