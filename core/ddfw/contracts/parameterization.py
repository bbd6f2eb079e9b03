"""Parameterisations: how synthetic images are stored as parameters, and how parameters decode to images.

Shapes: m classes, n decoded images in class order, C channels, H rows, W columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from attrs import frozen

from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.settings import Budget
from ddfw.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddfw.contracts.dataset import RealImages

    #: Named tensors. The elements of floating-point tensors count as stored floats. Integer tensors hold tables that
    #: decoding needs (counts, an order) and are not counted.
    Params: TypeAlias = Mapping[str, Tensor]


@frozen(kw_only=True)
class ParamGroup:
    """Tensors that are learned with the same optimiser settings; a floating-point tensor in no group stays fixed.

    Args:
        keys: names of the tensors in the Params.
        lr: learning rate that multiplies the gradient. The options of built-in parameterisations are rates per image;
            they give n times the option here, for n learned images.
        momentum: momentum of SGD, or first-moment decay of Adam.
        optimiser: `sgd` or `adam`.
    """

    keys: tuple[str, ...]
    lr: float
    momentum: float = 0.5
    optimiser: Literal["sgd", "adam"] = "sgd"


@frozen(kw_only=True)
class Layout:
    """How many images a parameterisation stores within a budget, and how many floats they take.

    Decoded images are in class order: image i has class i // images_per_class.

    Args:
        spec: image shape and number of classes.
        budget: the budget that the layout was made for.
        images_per_class: number of decoded images of each class.
        samples_per_class: number of stored samples of each class; a sample may decode to several images.
        parameter_floats: number of floats stored for images.
        label_floats: number of floats stored for labels.
    """

    spec: ImageSpec
    budget: Budget
    images_per_class: int
    samples_per_class: int
    parameter_floats: int
    label_floats: int

    @classmethod
    def largest(
        cls,
        spec: ImageSpec,
        budget: Budget,
        sample_floats: int,
        label_floats_per_image: int,
        *,
        shared_floats: int = 0,
        images_per_sample: int = 1,
    ) -> Layout:
        """The layout with the largest number of samples, equal for all classes, that fits the budget.

        Args:
            spec: image shape and number of classes.
            budget: how many floats may be stored, and whether labels count.
            sample_floats: number of floats that one sample stores.
            label_floats_per_image: number of floats stored for the label of one decoded image.
            shared_floats: number of floats that are stored once for all samples.
            images_per_sample: number of images that one sample decodes to.

        Raises:
            OptionError: not even one sample of each class fits.
        """
        price = sample_floats + images_per_sample * budget.label_price(label_floats_per_image)
        per_class = (budget.floats(spec) - shared_floats) // (spec.num_classes * price)
        if per_class < 1:
            need = shared_floats + spec.num_classes * price
            raise OptionError(
                f"one sample per class needs {need} floats, but ipc {budget.ipc} is {budget.floats(spec)}; "
                f"budget.ipc >= {-(-need // (spec.num_classes * spec.floats_per_image))} would fit"
            )
        count = spec.num_classes * per_class
        return cls(
            spec=spec,
            budget=budget,
            images_per_class=per_class * images_per_sample,
            samples_per_class=per_class,
            parameter_floats=shared_floats + count * sample_floats,
            label_floats=count * images_per_sample * label_floats_per_image,
        )

    @property
    def num_images(self) -> int:
        """Number n = m · images_per_class of decoded images."""
        return self.spec.num_classes * self.images_per_class

    @property
    def strict_floats(self) -> int:
        """Number of stored floats, labels included."""
        return self.parameter_floats + self.label_floats

    @property
    def over_budget(self) -> bool:
        """Whether the stored floats, labels included, exceed the budget."""
        return self.strict_floats > self.budget.floats(self.spec)

    def labels(self) -> Tensor:
        """The class [n] (int64) of every decoded image."""
        import torch

        return torch.arange(self.spec.num_classes).repeat_interleave(self.images_per_class)


@frozen(kw_only=True)
class AbstractParameterization(ABC):
    """How synthetic images are stored and decoded.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX.

    All images are in training space. A run calls `layout`, then `init`, and in every outer step `decode` once, through
    which it backpropagates once.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def layout(self, spec: ImageSpec, budget: Budget, label_floats_per_image: int) -> Layout:
        """The layout of the largest set, with equally many images of each class, that fits the budget.

        Args:
            spec: image shape and number of classes.
            budget: how many floats may be stored, and whether labels count.
            label_floats_per_image: number of floats stored for the label of one decoded image.

        Raises:
            OptionError: not even one image of each class fits; the text says which options would.
        """

    @abstractmethod
    def init(self, layout: Layout, real: RealImages, rng: torch.Generator) -> Params:
        """Computes initial parameters from real images.

        Args:
            layout: what `layout` returned.
            real: the training images in training space.
            rng: CPU generator; the only source of randomness.

        Returns:
            Named tensors, in the dtype and on the device of `real.images`.
        """

    @abstractmethod
    def decode(self, params: Params, index: Tensor) -> Tensor:
        """Decodes the images whose numbers are `index` [B] (int64) to [B, C, H, W]; differentiable in `params`."""

    @abstractmethod
    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """The learned tensors with their learning rates."""

    def direction(self, params: Params, gradients: Params) -> Params:
        """Replaces gradients by other directions, to which the optimisers apply learning rate and momentum.

        The default replaces none. A parameterisation that stores images as products of factors may return the change of
        its factors that moves the decoded images as gradient descent on their pixels would.

        Args:
            params: the parameters before the step.
            gradients: ∂L/∂φ for each floating-point tensor of `params` that has a gradient, same keys and shapes.

        Returns:
            Directions for some or all keys of `gradients`, same shapes; other keys keep their gradient.
        """
        return gradients

    def stored_floats(self, params: Params) -> int:
        """Number of floats that have to be stored to decode the images: the size of all floating-point tensors."""
        return sum(t.numel() for t in params.values() if t.is_floating_point())

    def penalty(self, params: Params) -> Tensor | None:
        """A scalar tensor that is added to the matching loss, differentiable once in `params`; None: no penalty."""
        return None
