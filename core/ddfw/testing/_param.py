"""The conformance check of parameterisations."""

from __future__ import annotations

from itertools import product
from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor

from ddfw.contracts.dataset import ImageSpec, RealImages
from ddfw.contracts.parameterization import AbstractParameterization, Layout
from ddfw.contracts.settings import Budget
from ddfw.errors import OptionError
from ddfw.testing._common import Checked, clones, generator, same
from ddfw.testing._component import checking
from ddfw.testing._devices import require_there
from ddfw.testing._fakes import class_levels, real_images
from ddfw.testing._stored import StoredCase, floats_in
from ddfw.testing._tensors import (
    Tensors,
    check_gradients,
    floating,
    gradients_of,
    leaves_of,
    normal,
    require_scalar,
)

#: Image shapes to try if none is given; the last two are for parameterisations that need larger images.
SPECS = (
    ImageSpec(channels=1, height=8, width=8, num_classes=3),
    ImageSpec(channels=3, height=8, width=8, num_classes=3),
    ImageSpec(channels=3, height=9, width=7, num_classes=2),
    ImageSpec(channels=1, height=28, width=28, num_classes=2),
    ImageSpec(channels=3, height=32, width=32, num_classes=2),
)
SMALL_SPECS = 3
BUDGETS = tuple(Budget(ipc=ipc, accounting=a) for ipc in (1, 2, 10) for a in ("strict", "pixels"))
LABEL_FLOATS = (0, 10)
REAL_PER_CLASS = 12


def check_param(
    param: AbstractParameterization, *, spec: ImageSpec | None = None, budget: Budget | None = None, seed: int = 0
) -> None:
    """Checks all methods of a parameterisation: `layout`, `init`, `decode`, `param_groups`, `penalty` and the others.

    Args:
        param: the parameterisation, with the options to check.
        spec: the only image shape to try; None: several small ones, and larger ones if none of those fits.
        budget: the only budget to try; None: 1, 2 and 10 images per class in both accountings.
        seed: seed of the real images and of the generators.

    Raises:
        ConformanceError: the parameterisation breaks its contract; the text tells the first fault found.
    """
    with checking("param", param, AbstractParameterization) as subject:
        layouts = _layouts(subject, param, SPECS if spec is None else (spec,), BUDGETS if budget is None else (budget,))
        seen: set[ImageSpec] = set()
        for layout in layouts:
            case = _Case(subject=subject, component=param, layout=layout, row=layout.spec.shape, seed=seed)
            params = case.check_init()
            case.check_count(params)
            images = case.check_rows(params, torch.float32)
            if layout.spec not in seen:
                case.check_state(params, images)
            case.check_class_order(images)
            case.check_index(params, images)
            if layout.spec not in seen:
                seen.add(layout.spec)
                case.check_float64()
                case.check_devices()


def _layouts(
    subject: Checked, param: AbstractParameterization, specs: tuple[ImageSpec, ...], budgets: tuple[Budget, ...]
) -> list[Layout]:
    """All layouts that fit their budget; larger shapes are tried only if no smaller one fits."""
    found: list[Layout] = []
    refusal, hint = "", "what does not fit is an OptionError"
    for spec, budget, floats in product(specs, budgets, LABEL_FLOATS):
        if spec in specs[SMALL_SPECS:] and any(layout.spec != spec for layout in found):
            break
        layout = subject.call("layout", _layout, param, spec, budget, floats, hint=hint)
        if isinstance(layout, str):
            refusal = layout
            continue
        _check_layout(subject, layout, spec, budget, floats)
        found.append(layout)
    wrong = "layout fits none of the shapes and budgets tried; pass spec and budget that fit"
    subject.require(found, f"{wrong} ({refusal})")
    # Labels that take the whole budget lead to an OptionError or to a layout over budget.
    impossible = found[0].spec, Budget(ipc=1), 10**9
    layout = subject.once("layout", _layout, param, *impossible, hint=hint)
    subject.require(layout != "", "layout's OptionError has no text; say what would fit")
    if not isinstance(layout, str):
        _check_layout(subject, layout, *impossible)
    return found


def _layout(param: AbstractParameterization, spec: ImageSpec, budget: Budget, label_floats: int) -> Layout | str:
    """A layout, or the text of the OptionError by which the parameterisation refuses the budget."""
    try:
        return param.layout(spec, budget, label_floats)
    except OptionError as error:
        return str(error)


def _check_layout(subject: Checked, layout: Layout, spec: ImageSpec, budget: Budget, label_floats: int) -> None:
    where = f"for {spec.channels}×{spec.height}×{spec.width}, ipc {budget.ipc}, {budget.accounting}"
    kept = isinstance(layout, Layout) and layout.spec == spec and layout.budget == budget
    subject.require(kept, "layout has to return a Layout with the spec and the budget that it was given")
    subject.require(
        layout.images_per_class >= 1 and layout.samples_per_class >= 1,
        f"layout announces {layout.images_per_class} images of each class {where}; raise OptionError where none fits",
    )
    available = budget.floats(spec)
    subject.require(
        layout.parameter_floats <= available,
        f"layout spends {layout.parameter_floats} floats {where}, but the budget buys {available}; "
        "comparisons between methods rest on this",
    )
    wrong = f"layout announces {layout.label_floats} label floats for {layout.num_images} images of {label_floats} each"
    subject.require(layout.label_floats == layout.num_images * label_floats, wrong)


@frozen(kw_only=True)
class _Case(StoredCase):
    """The checks of one parameterisation on one layout."""

    method: ClassVar[str] = "decode"
    gives: ClassVar[str] = "images"
    given: ClassVar[str] = "real images"

    component: AbstractParameterization

    def inputs(self, dtype: torch.dtype, shift: int = 0) -> RealImages:
        return real_images(self.layout.spec, REAL_PER_CLASS, dtype, self.seed + shift)

    def start(self, inputs: RealImages) -> Tensors:
        return self.component.init(self.layout, inputs, generator(self.seed))

    def read(self, params: Tensors, index: Tensor) -> Tensor:
        return self.component.decode(params, index)

    def check_count(self, params: dict[str, Tensor]) -> None:
        """Checks that `layout` and `stored_floats` count the floats that `init` stores."""
        spec, held, said = self.layout.spec, floats_in(params), self.component.stored_floats(params)
        rule = ", plus as many as there are floats but at most one per pixel of one image of each class"
        tables = min(held, spec.num_classes * spec.floats_per_image)
        self.check_floats(params, "layout", self.layout.parameter_floats, tables, rule)
        self.subject.require(
            said == held,
            f"{'understates' if said < held else 'overstates'} its floats: stored_floats says {said}, but there are "
            f"{held} in floating tensors; leave stored_floats as it is inherited",
        )

    def check_class_order(self, images: Tensor) -> None:
        """Checks that decoded initial images are sorted by class, as the class order says."""
        levels = class_levels(self.layout.spec).to(images)
        distance = torch.cdist(images.mean(dim=(2, 3)), levels)
        clear = distance.min(dim=1).values < 0.25 * float(torch.pdist(levels).min())
        self.check_order("class", distance.argmin(dim=1), clear, int(clear.sum()))

    def check_float64(self) -> None:
        """Checks float64 tensors and images, the parameter groups, the gradients of `decode`, and the penalty."""
        subject, param = self.subject, self.component
        params = self.check_init(torch.float64)
        self.check_rows(params, torch.float64)
        moved = self.check_learning(params, self.check_groups(params))
        self.check_direction(moved)
        penalty = subject.call("penalty", lambda: param.penalty(leaves_of(moved)))
        if penalty is None:
            return
        require_scalar(subject, "penalty", penalty, torch.float64)

        def value(tensors: Tensors) -> Tensor:
            found = param.penalty(tensors)
            assert found is not None
            return found

        check_gradients(subject, "penalty", value, moved, ())

    def check_direction(self, params: Tensors) -> None:
        """Checks that directions have the gradients' shapes and dtype, are finite, and do not point against them."""
        subject, param = self.subject, self.component
        leaves = leaves_of(params)
        images = param.decode(leaves, self.everything)
        gradients = gradients_of(images, floating(leaves), normal(images.shape, generator(self.seed + 3)))
        direction = subject.call("direction", lambda: param.direction(clones(params), clones(gradients)))
        with subject.unchanged("direction changes what it is given; work on a copy", lambda: (params, gradients)):
            again = param.direction(params, gradients)
        for key, value in direction.items():
            alike = key in gradients and (value.shape, value.dtype) == (gradients[key].shape, gradients[key].dtype)
            wrong = f"direction answers for {key!r} with something else than the gradient's shape and dtype"
            subject.require(alike, wrong)
            subject.require(value.isfinite().all(), f"direction is not finite for {key!r}")
        subject.require(same(dict(again), dict(direction)), "direction gives another answer for the same gradients")
        downhill = sum(float((direction.get(key, g) * g).sum()) for key, g in gradients.items())
        subject.require(downhill >= 0, "direction points uphill: optimisers subtract it, as they do a gradient")

    def check_read_device(self, device: torch.device) -> dict[str, Tensor]:
        """Checks the device of the penalty, too."""
        leaves = super().check_read_device(device)
        penalty = self.component.penalty(leaves)
        if penalty is not None:
            require_there(self.subject, "penalty", penalty, device)
        return leaves
