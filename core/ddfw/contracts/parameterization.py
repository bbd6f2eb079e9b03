"""Parameterisations: how synthetic images are stored, and decoded for use.

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

    #: Named tensors. Floating ones are what is stored and counted; integer ones are exempt tables (a count table, an
    #: order) that decoding needs.
    Params: TypeAlias = Mapping[str, Tensor]


@frozen(kw_only=True)
class ParamGroup:
    """Tensors that share one optimiser setting; floating tensors in no group stay fixed.

    Args:
        keys: names of tensors in the Params.
        lr: learning rate of the outer loop, of the gradient itself. Built-in parameterisations state their rates per
            image and give n times them here, for n learned images.
        momentum: of SGD; the first-moment decay of Adam.
        optimiser: `sgd` or `adam`.
    """

    keys: tuple[str, ...]
    lr: float
    momentum: float = 0.5
    optimiser: Literal["sgd", "adam"] = "sgd"


@frozen(kw_only=True)
class Layout:
    """How many images a parameterisation makes of a budget, and what they cost.

    Decoded images are in class order: image i has class i // images_per_class.

    Args:
        spec: the image shape and the number of classes.
        budget: what was asked for.
        images_per_class: decoded images of each class.
        samples_per_class: stored samples of each class (fewer than images where one sample decodes to several).
        parameter_floats: floats that the parameterisation stores, labels not counted.
        label_floats: floats that the labels store.
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
        """The largest class-balanced number of samples that fits the budget.

        Args:
            spec: image shape and number of classes.
            budget: how many floats there are, and whether labels are paid from them.
            sample_floats: floats that one sample stores.
            label_floats_per_image: what the label strategy stores for one decoded image.
            shared_floats: floats that all samples share, stored once.
            images_per_sample: images that one sample decodes to.

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
        """N = m · images_per_class."""
        return self.spec.num_classes * self.images_per_class

    @property
    def strict_floats(self) -> int:
        """Stored floats, labels included."""
        return self.parameter_floats + self.label_floats

    @property
    def over_budget(self) -> bool:
        """Whether the strict count exceeds the budget."""
        return self.strict_floats > self.budget.floats(self.spec)

    def labels(self) -> Tensor:
        """The class [n] (int64) of every decoded image."""
        import torch

        return torch.arange(self.spec.num_classes).repeat_interleave(self.images_per_class)


@frozen(kw_only=True)
class AbstractParameterization(ABC):
    """How images are stored. Subclasses are `@final @frozen(kw_only=True)` and set `name`.

    All images live in training space. The four methods are called in the order in which they stand here; `decode` is
    called once per outer step and its gradient is pulled back once.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    @abstractmethod
    def layout(self, spec: ImageSpec, budget: Budget, label_floats_per_image: int) -> Layout:
        """The largest class-balanced set that fits the budget.

        Args:
            spec: image shape and number of classes.
            budget: how many floats there are, and whether labels are paid from them.
            label_floats_per_image: what the label strategy stores for one decoded image.

        Raises:
            OptionError: nothing fits; the text says what would.
        """

    @abstractmethod
    def init(self, layout: Layout, real: RealImages, rng: torch.Generator) -> Params:
        """Initial parameters, in `real.images`' dtype and on its device, from real images and a CPU generator."""

    @abstractmethod
    def decode(self, params: Params, index: Tensor) -> Tensor:
        """Images [B, C, H, W] of the decoded-image numbers `index` [B] (int64); differentiable in the parameters."""

    @abstractmethod
    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """Which tensors are learned, and how."""

    def direction(self, params: Params, gradients: Params) -> Params:
        """What the optimisers take in place of the gradient, before learning rate and momentum.

        The default is the gradient. A parameterisation whose factors determine an image only together may answer with
        the change of its factors that moves the decoded images as the pixels' own gradient would.

        Args:
            params: as they are before the step.
            gradients: ∂L/∂φ for the floating tensors of `params` that have one, same keys and shapes.

        Returns:
            The same keys and shapes; what is left out keeps its gradient.
        """
        return gradients

    def stored_floats(self, params: Params) -> int:
        """Number of floats that have to be stored to decode again: every floating tensor's size."""
        return sum(t.numel() for t in params.values() if t.is_floating_point())

    def penalty(self, params: Params) -> Tensor | None:
        """A scalar added to the matching loss (first-order in the parameters), or None."""
        return None
