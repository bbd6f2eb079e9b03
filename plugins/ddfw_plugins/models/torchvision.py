"""`torchvision`: any classification network of torchvision, chosen by name.

Shapes: B images in a batch, m classes, P parameters.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, final

import torch
from attrs import frozen
from attrs.validators import ge, in_
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import relu6

from ddfw import AbstractModel, ImageSpec, OptionError, did_you_mean, option, required_option
from ddfw_plugins.models._layers import GROUPS_HELP, norm_layers, require_divides

WHERE = "torchvision.models.list_models(module=torchvision.models)"


@final
@frozen(kw_only=True)
class Torchvision(AbstractModel):
    """An untrained classification network of torchvision, named by an option.

    It is changed so that training steps can be repeated exactly.
    Every BatchNorm2d is replaced, dropout and stochastic depth are off, there are no auxiliary outputs, and the channel
    of a one-channel image is repeated three times. Vision transformers are built for the image's size. Most of these
    networks halve the image five times, so that an image of 32 pixels ends with a single value per channel; instance
    normalisation is then impossible, so `group` is the default.
    """

    name: ClassVar[str] = "torchvision"
    citation: ClassVar[str] = """@misc{torchvision2016,
  title = {TorchVision: PyTorch's Computer Vision library},
  author = {{TorchVision maintainers and contributors}},
  howpublished = {GitHub repository},
  year = {2016}
}"""

    arch: str = required_option(help=f"torchvision's name, such as mobilenet_v3_small; the list is {WHERE}")
    norm: Literal["instance", "group", "batch"] = option(
        "group",
        validator=in_(("instance", "group", "batch")),
        help="replacement of every BatchNorm2d. instance: normalisation of each channel; group: of each of `groups` "
        "groups of channels; batch: of each channel over the current batch, also when the network is evaluated",
    )
    groups: int = option(4, validator=ge(1), help=GROUPS_HELP)

    def build(self, spec: ImageSpec) -> nn.Module:
        """Builds the module for an image shape.

        Raises:
            OptionError: torchvision has no such network, or the network cannot take images of this shape.
        """
        if spec.channels not in (1, 3):
            raise OptionError(
                f"torchvision's networks take images of 3 channels (one is repeated), not {spec.channels}; take "
                "another model"
            )
        module = _Net(self._network(spec), spec)
        self._require_fit(module)
        return module

    def init(self, module: nn.Module, rng: torch.Generator) -> Tensor:
        """Initial parameters θ [P] (float32) by torchvision's own initialisation, whose seed is drawn from `rng`.

        Raises:
            TypeError: the module was not made by `build`.
        """
        if not isinstance(module, _Net):
            raise TypeError(f"init takes the module that build gives, not a {type(module).__name__}")
        seed = int(torch.randint(2**63 - 1, (), generator=rng))
        # torchvision draws initial values from the global generator, which is seeded for this and restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
            network = self._network(module.spec)
        return torch.cat([p.detach().flatten() for p in network.parameters()]).float()

    def _network(self, spec: ImageSpec) -> nn.Module:
        """Builds the network, without running statistics, dropout and auxiliary outputs."""
        import torchvision  # type: ignore[import-untyped]

        known = torchvision.models.list_models(module=torchvision.models)
        if self.arch not in known:
            hint = did_you_mean(self.arch, known)
            raise OptionError(f"torchvision has no classification network {self.arch!r}.{hint} See {WHERE}", "arch")
        try:
            network: nn.Module = torchvision.models.get_model(
                self.arch, weights=None, num_classes=spec.num_classes, **self._extra(spec)
            )
        except (AssertionError, RuntimeError, ValueError) as error:
            raise self._misfit(spec, error) from error
        for layer in list(network.modules()):
            if isinstance(layer, nn.modules.dropout._DropoutNd | torchvision.ops.StochasticDepth):
                layer.p = 0.0
            if getattr(layer, "inplace", False):
                layer.inplace = False  # type: ignore[assignment]
            for name, child in layer.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(layer, name, self._norm(child))
                elif isinstance(child, nn.Hardsigmoid):
                    setattr(layer, name, _HardSigmoid())
                elif name == "cpb_mlp":
                    # The input of this layer in swin_v2 is a float32 constant, also when θ is float64.
                    child.register_forward_pre_hook(_in_the_dtype_of_its_weights)
        return network

    def _extra(self, spec: ImageSpec) -> dict[str, Any]:
        """Further arguments that some families of networks need."""
        if self.arch in ("googlenet", "inception_v3"):
            return {"aux_logits": False, "init_weights": True}
        if self.arch.startswith("maxvit"):
            return {"input_size": (spec.height, spec.width)}
        if self.arch.startswith("swin_v2") and (spec.height % 256 or spec.width % 256):
            raise OptionError(
                f"{self.arch} pads {spec.height}×{spec.width} images with zeros, where its cosine attention has no "
                "second derivative; take images of a multiple of 256 pixels a side, or swin_t",
                "arch",
            )
        if self.arch.startswith("vit_"):
            if spec.height != spec.width:
                raise OptionError(f"{self.arch} takes square images, not {spec.height}×{spec.width}", "arch")
            return {"image_size": spec.height}
        return {}

    def _norm(self, old: nn.BatchNorm2d) -> nn.Module:
        """The replacement of a BatchNorm2d, with the same ε, scale and shift."""
        if self.norm == "group":
            require_divides(self.groups, old.num_features)
        # The size of the maps is not known here, so a size is passed that every normalisation accepts.
        (new,) = norm_layers(self.norm, old.num_features, 2, 2, self.groups)
        assert isinstance(new, nn.GroupNorm | nn.BatchNorm2d)
        new.eps, new.weight, new.bias = old.eps, old.weight, old.bias
        return new

    def _require_fit(self, module: _Net) -> None:
        """Checks the image size by sending two images through the network on the `meta` device, without values."""
        spec, single = module.spec, []

        def look(layer: nn.GroupNorm, inputs: tuple[Tensor, ...]) -> None:
            maps = inputs[0]
            if math.prod(maps.shape[1:]) == layer.num_groups:
                single.append(tuple(maps.shape[2:]))

        hooks = [layer.register_forward_pre_hook(look) for layer in module.modules() if isinstance(layer, nn.GroupNorm)]
        try:
            tensors = (*module.named_parameters(), *module.named_buffers())
            state = {name: torch.empty_like(t, device="meta") for name, t in tensors}
            logits = functional_call(module, state, (torch.empty(2, *spec.shape, device="meta"),))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise self._misfit(spec, error) from error
        finally:
            for hook in hooks:
                hook.remove()
        if single:
            raise OptionError(
                f"norm {self.norm} would normalise single values, since {self.arch} shrinks {spec.height}×{spec.width} "
                f"images to maps of {'×'.join(map(str, single[0]))}, and give zeros; take larger images, or norm group "
                "with fewer groups, or norm batch",
                "norm",
            )
        if tuple(logits.shape) != (2, spec.num_classes):
            raise OptionError(f"{self.arch} gives {tuple(logits.shape)} for 2 images, not logits", "arch")

    def _misfit(self, spec: ImageSpec, error: Exception) -> OptionError:
        shape = "×".join(map(str, spec.shape))
        said = str(error).strip().split("\n")[0].rstrip(".!")
        return OptionError(
            f"{self.arch} cannot take {shape} images ({said}); most of torchvision's networks are for 224×224, so take "
            "larger images or another arch",
            "arch",
        )


class _Net(nn.Module):
    """Wraps a network for three channels so that it takes images of one or three channels."""

    def __init__(self, network: nn.Module, spec: ImageSpec) -> None:
        super().__init__()
        self.network, self.spec = network, spec

    def forward(self, images: Tensor) -> Tensor:
        """Takes images [B, 1 or 3, H, W] to logits [B, m]."""
        # The plain attention kernel is used, since fused ones have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            return self.network(images.expand(-1, 3, -1, -1))  # type: ignore[no-any-return]


class _HardSigmoid(nn.Module):
    """The same function as nn.Hardsigmoid, but with a second derivative."""

    def forward(self, values: Tensor) -> Tensor:
        """Takes values of any shape to values in [0, 1] of the same shape."""
        return relu6(values + 3) / 6


def _in_the_dtype_of_its_weights(layers: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].to(next(layers.parameters()).dtype),)
