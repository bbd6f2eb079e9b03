"""The conformance check of label strategies."""

from __future__ import annotations

from typing import ClassVar

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.labels import AbstractLabels, ask_targets
from ddfw.contracts.parameterization import Layout
from ddfw.contracts.settings import Budget
from ddfw.testing._common import generator
from ddfw.testing._component import checking
from ddfw.testing._fakes import LinearTeachers, class_levels
from ddfw.testing._stored import StoredCase
from ddfw.testing._tensors import Tensors, normal

SPECS = (
    ImageSpec(channels=1, height=6, width=6, num_classes=3),
    ImageSpec(channels=3, height=5, width=4, num_classes=4),
)
IMAGES_PER_CLASS = 3


def check_labels(labels: AbstractLabels, *, spec: ImageSpec | None = None, seed: int = 0) -> None:
    """Checks the methods `floats_per_image`, `init`, `targets` and `param_groups` of a label strategy.

    The teachers are three experts of four epochs that classify every image correctly.

    Args:
        labels: the label strategy, with the options to check.
        spec: the only image shape to try; None: several small ones.
        seed: seed of the images and of the generators.

    Raises:
        ConformanceError: the label strategy breaks its contract; the text tells the first fault found.
    """
    with checking("labels", labels, AbstractLabels) as subject:
        for shape in SPECS if spec is None else (spec,):
            price = subject.call("floats_per_image", labels.floats_per_image, shape)
            wrong = f"floats_per_image has to be an integer >= 0, got {price!r}"
            subject.require(isinstance(price, int) and price >= 0, wrong)
            count = shape.num_classes * IMAGES_PER_CLASS
            layout = Layout(
                spec=shape,
                budget=Budget(ipc=IMAGES_PER_CLASS),
                images_per_class=IMAGES_PER_CLASS,
                samples_per_class=IMAGES_PER_CLASS,
                parameter_floats=count * shape.floats_per_image,
                label_floats=count * price,
            )
            case = _Case(subject=subject, component=labels, layout=layout, row=(shape.num_classes,), seed=seed)
            params = case.check_init()
            case.check_floats(params, "floats_per_image", layout.label_floats, 0, "")
            targets = case.check_rows(params, torch.float32)
            case.check_state(params, targets)
            case.check_class_order(targets)
            case.check_index(params, targets)
            wide = evolve(case, dtype=torch.float64)
            params = wide.check_init(torch.float64)
            wide.check_rows(params, torch.float64)
            learned = wide.check_groups(params)
            if learned:
                wide.check_learning(params, learned)
            case.check_devices()


@frozen(kw_only=True)
class _Case(StoredCase):
    """The checks of one label strategy on one image shape."""

    method: ClassVar[str] = "targets"
    gives: ClassVar[str] = "rows"
    given: ClassVar[str] = "images"

    component: AbstractLabels
    #: The images' dtype, which `targets` is asked for.
    dtype: torch.dtype = torch.float32

    def inputs(self, dtype: torch.dtype, shift: int = 0) -> Tensor:
        """Images [n, C, H, W] in class order, as a parameterisation would decode them."""
        levels = class_levels(self.layout.spec)[self.layout.labels()][:, :, None, None]
        noise = normal((self.layout.num_images, *self.layout.spec.shape), generator(self.seed + shift))
        return (levels + 0.1 * noise).to(dtype)

    def start(self, inputs: Tensor) -> Tensors:
        return self.component.init(self.layout, inputs, LinearTeachers(self.layout.spec), generator(self.seed))

    def read(self, params: Tensors, index: Tensor) -> Tensor:
        return ask_targets(self.component, params, index, self.dtype)

    def check_rows(self, params: dict[str, Tensor], dtype: torch.dtype | None) -> Tensor:
        """Checks that targets are probabilities, which may be integers, and returns those of all images."""
        targets = super().check_rows(params, None)
        wrong = f"targets hard-codes a dtype: it gives {targets.dtype} for images in {dtype}"
        self.subject.require(targets.dtype == dtype or not (targets.is_floating_point() or targets.is_complex()), wrong)
        rows = targets.to(torch.float64)
        wrong = "targets are not probabilities: each row has to be >= 0 and to sum to 1; take a softmax"
        self.subject.require((rows >= 0).all() and ((rows.sum(dim=1) - 1).abs() < 1e-5).all(), wrong)
        return targets

    def check_class_order(self, targets: Tensor) -> None:
        """Checks that targets which clearly name a class name that of their image."""
        probability, found = targets.to(torch.float64).max(dim=1)
        free = self.layout.label_floats == 0
        self.check_order("target", found, (probability > 0.6) | free, 0 if free else len(found))
