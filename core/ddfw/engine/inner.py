"""The student's step: a network used functionally on one flat parameter vector.

Shapes: B images in a batch, m classes, P parameters in T tensors.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, log_softmax

from ddfw.engine.chain import Chain, ChainStep, chain_of, joined
from ddfw.engine.norms import twice_differentiable
from ddfw.engine.sizes import require_room_for, sizes_named
from ddfw.errors import OptionError

if TYPE_CHECKING:
    from ddfw.contracts.dataset import ImageSpec
    from ddfw.contracts.model import AbstractModel

#: The global generator is put back by one thread at a time, or one would put back what another has drawn from.
_building = threading.RLock()


def build_module(model: AbstractModel, spec: ImageSpec) -> nn.Module:
    """Builds the model's module and checks that repeating an inner step on it gives the same result.

    Raises:
        OptionError: the module has running statistics or active dropout, or is too large for this machine.
    """
    require_room_for(model, spec)
    # Constructors of torch.nn draw initial values from PyTorch's global generator. The values are not used, and the
    # generator's state is restored.
    with _building, torch.random.fork_rng(devices=[]), sizes_named(model):
        module = model.build(spec)
    for name, layer in module.named_modules():
        if getattr(layer, "track_running_stats", False) and getattr(layer, "running_mean", None) is not None:
            raise OptionError(
                f"layer {name} ({type(layer).__name__}) keeps running statistics, which an unrolled student cannot; "
                "take group or instance normalisation"
            )
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise OptionError(
                f"layer {name} ({type(layer).__name__}, p = {layer.p}) draws random numbers inside the unroll; "
                "set its probability to 0"
            )
    return twice_differentiable(module).train()


class Network:
    """A module whose parameters are given as one flat vector θ [P], in `module.parameters()` order.

    Attributes:
        module: the module itself; its own parameter values are never used.
        names: the names of the T parameter tensors.
        shapes: their shapes.
        sizes: their numbers of elements.
        num_parameters: number P of parameters.
    """

    def __init__(self, module: nn.Module) -> None:
        named = list(module.named_parameters())
        self.module = module
        self.names = tuple(name for name, _ in named)
        self.shapes = tuple(tuple(p.shape) for _, p in named)
        self.sizes = tuple(p.numel() for _, p in named)
        self.num_parameters = sum(self.sizes)
        # The tables in which each parameter is registered; a parameter shared by several layers has several.
        self._places = tuple(
            tuple(
                (layer._parameters, name)
                for layer in module.modules()
                for name, other in layer._parameters.items()
                if other is parameter
            )
            for _, parameter in named
        )
        self._chains: dict[tuple[int, ...], Chain | None] = {}

    def chain(self, theta: Tensor, images: Tensor) -> Chain | None:
        """The network as a chain of blocks whose derivatives are written down; None if PyTorch has to find them."""
        sides = tuple(images.shape[2:])
        if type(self).logits is not Network.logits:
            return None  # a subclass computes something else than the module alone
        if images.device.type != "cpu" or images.dtype != theta.dtype or len(sides) != 2 or not len(images):
            return None
        if sides not in self._chains:
            self._chains[sides] = chain_of(self.module, *sides)
        return self._chains[sides]

    def to(self, device: torch.device) -> Network:
        """This network with its buffers on a device: itself where they are there, else a copy.

        Parameters come with every call, but buffers, such as a table of coordinates, are the module's own.
        """
        if all(buffer.device == device for buffer in self.module.buffers()):
            return self
        return type(self)(copy.deepcopy(self.module).to(device))

    def logits(self, theta: Tensor, images: Tensor) -> Tensor:
        """Logits [B, m] for parameters θ [P] and images [B, C, H, W]; differentiable in both as often as the layers."""
        # The backward pass of `split` is one concatenation; that of a slice would write P zeros for each tensor.
        pieces = theta.split(self.sizes)
        views = [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        if torch.compiler.is_compiling():
            return functional_call(self.module, dict(zip(self.names, views, strict=True)), (images,))  # type: ignore[no-any-return]
        with self._exchanged(views):
            return self.module(images)  # type: ignore[no-any-return]

    def features(self, theta: Tensor, images: Tensor) -> Tensor:
        """Features [B, d] for parameters θ [P] and images [B, C, H, W]: what the network's last linear layer is given.

        That is the `nn.Linear` which is called last, if it gives a row of m values for each image, as the network does.
        A network that ends otherwise, in a convolution and a mean for example, has its logits [B, m] as features.
        """
        last: list[tuple[Tensor, Tensor]] = []

        def look(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            (given,) = (*args, *kwargs.values())
            last[:] = [(given, output)]

        linear = [layer for layer in self.module.modules() if isinstance(layer, nn.Linear)]
        hooks = [layer.register_forward_hook(look, with_kwargs=True) for layer in linear]
        try:
            logits = self.logits(theta, images)
        finally:
            for hook in hooks:
                hook.remove()
        return next((given for given, output in last if output.shape == logits.shape), logits)

    @contextmanager
    def _exchanged(self, views: Sequence[Tensor]) -> Iterator[None]:
        """Puts these tensors in place of the module's parameters inside a `with` block, as functional_call does.

        On a small network functional_call adds 0.12 ms to a forward pass of 0.31 ms; this adds 0.02 ms.
        """
        own = [table[name] for (table, name), *_ in self._places]
        try:
            for places, view in zip(self._places, views, strict=True):
                for table, name in places:
                    table[name] = view  # type: ignore[assignment]
            yield
        finally:
            for places, parameter in zip(self._places, own, strict=True):
                for table, name in places:
                    table[name] = parameter


def inner_loss(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy between probabilities [B, m] and the network's logits, a scalar; twice differentiable."""
    # The factor −1/B multiplies the targets, which leaves three operations to differentiate twice instead of five.
    weights = targets * (-1 / len(targets))
    return (weights * log_softmax(network.logits(theta, images), dim=1)).sum()


def inner_gradient(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """The gradient [P] of the inner loss with respect to θ [P]; it cannot be differentiated further."""
    leaf = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(inner_loss(network, leaf, images.detach(), targets.detach()), leaf)
    return gradient


@frozen
class StepPullback:
    """Result of pulling a vector λ [P] back through one inner gradient g(θ, X, Y) [P].

    Args:
        s: g·λ, a scalar.
        theta: ∂s/∂θ [P]; None if it was not asked for.
        images: ∂s/∂X [b, C, H, W].
        targets: ∂s/∂Y [b, m]; None if it was not asked for.
    """

    s: Tensor
    theta: Tensor | None
    images: Tensor
    targets: Tensor | None


class StepGraph:
    """One inner gradient g(θ, X, Y) together with its autograd graph, which can be pulled back once.

    Args:
        network: the student.
        theta: [P] parameters.
        images: [b, C, H, W], one batch X.
        targets: [b, m] probabilities Y of the batch.
        learn_targets: whether the pullback computes ∂s/∂Y.
        leaf: the tensor that `images` were computed from, by an augmentation for example; the pullback then gives
            ∂s/∂leaf instead of ∂s/∂X. None: `images` itself.
    """

    def __init__(
        self,
        network: Network,
        theta: Tensor,
        images: Tensor,
        targets: Tensor,
        *,
        learn_targets: bool = True,
        leaf: Tensor | None = None,
    ) -> None:
        self._theta = theta.detach().requires_grad_()
        if leaf is None:
            images = images.detach().requires_grad_()
        self._images = images if leaf is None else leaf
        self._augmented = None if leaf is None else images
        self._targets = targets.detach().requires_grad_(learn_targets)
        self._steps: list[ChainStep] | None = None
        chain = network.chain(theta, images)
        if chain is not None:
            self._steps = list(chain.steps(theta, images, targets))
            self._gradient = added([step.gradient for step in self._steps])
            for step in self._steps:
                step.release()
            return
        loss = inner_loss(network, self._theta, images, self._targets)
        (self._gradient,) = torch.autograd.grad(loss, self._theta, create_graph=True)

    @property
    def gradient(self) -> Tensor:
        """The gradient g [P], without its graph."""
        return self._gradient.detach()

    def tensors(self) -> list[Tensor]:
        """The tensors that are held outside of autograd's graph, its own argument θ among them."""
        return [tensor for step in self._steps or () for tensor in step.tensors()]

    def pull(self, cotangent: Tensor, *, through_theta: bool) -> StepPullback:
        """Computes the derivatives of s = g·λ for λ = `cotangent` and frees the graph.

        Args:
            cotangent: the vector λ [P].
            through_theta: whether to compute ∂s/∂θ (the Hessian-vector product).

        Returns:
            s and its derivatives.
        """
        if self._steps is not None:
            s, theta, images, targets = joined(step.along(cotangent, parameters=through_theta) for step in self._steps)
            self._steps = None
            if self._augmented is not None:
                (images,) = torch.autograd.grad(self._augmented, self._images, images)
            return StepPullback(s=s, theta=theta, images=images, targets=targets)
        wanted = {"images": self._images}
        if self._targets.requires_grad:
            wanted["targets"] = self._targets
        if through_theta:
            wanted["theta"] = self._theta
        found = dict(zip(wanted, torch.autograd.grad(self._gradient, [*wanted.values()], cotangent), strict=True))
        return StepPullback(
            s=torch.dot(self.gradient, cotangent),
            theta=found.get("theta"),
            images=found["images"],
            targets=found.get("targets"),
        )


class Steps(Protocol):
    """Computes an inner step, and later its vector-Jacobian products, without keeping its autograd graph in between."""

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss's gradient [P] at θ [P], for images [B, C, H, W] and probabilities [B, m], without a graph."""

    def pull(
        self,
        theta: Tensor,
        images: Tensor,
        targets: Tensor,
        cotangent: Tensor,
        *,
        through_theta: bool,
        learn_targets: bool = True,
    ) -> StepPullback:
        """Computes the derivatives of s = g·λ for λ = `cotangent`, where g [P] is the inner loss's gradient.

        Args:
            theta: [P] parameters.
            images: [B, C, H, W], one batch.
            targets: [B, m] probabilities of the batch.
            cotangent: the vector λ [P].
            through_theta: whether ∂s/∂θ is needed.
            learn_targets: whether ∂s/∂targets is needed.

        Returns:
            s and its derivatives; a derivative that is not needed may be None or computed all the same.
        """


@frozen
class EagerSteps:
    """Steps computed by PyTorch operation by operation, neither compiled nor captured."""

    network: Network

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss's gradient [P] at θ [P], for images [B, C, H, W] and probabilities [B, m], without a graph."""
        chain = self.network.chain(theta, images)
        if chain is None:
            return inner_gradient(self.network, theta, images, targets)
        return added([step.gradient for step in chain.steps(theta, images, targets)])

    def pull(
        self,
        theta: Tensor,
        images: Tensor,
        targets: Tensor,
        cotangent: Tensor,
        *,
        through_theta: bool,
        learn_targets: bool = True,
    ) -> StepPullback:
        """Derivatives of s = g·λ for λ = `cotangent` [P]; ∂s/∂θ only if `through_theta`."""
        chain = self.network.chain(theta, images)
        if chain is not None:
            steps = chain.steps(theta, images, targets, gradient=False)
            return StepPullback(*joined(step.along(cotangent, parameters=through_theta) for step in steps))
        graph = StepGraph(self.network, theta, images, targets, learn_targets=learn_targets)
        return graph.pull(cotangent, through_theta=through_theta)


def added(parts: Sequence[Tensor]) -> Tensor:
    """The sum of the gradients [P] of the parts of a batch."""
    return parts[0] if len(parts) == 1 else torch.stack([*parts]).sum(dim=0)


def supervised_gradient(network: Network, theta: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (a scalar) and its gradient [P]; targets are classes [B] (int64) or probabilities [B, m]."""
    leaf = theta.detach().requires_grad_()
    loss = cross_entropy(network.logits(leaf, images), targets)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient
