"""The conformance check of parameterisations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.contracts.dataset import ImageSpec, RealImages
from ddfw.contracts.parameterization import AbstractParameterization, Layout
from ddfw.contracts.settings import Budget
from ddfw.errors import OptionError
from ddfw.testing._common import Checked, checking, clones, generator, same
from ddfw.testing._devices import elsewhere, require_there
from ddfw.testing._fakes import class_levels, real_images
from ddfw.testing._tensors import (
    Tensors,
    check_gradients,
    check_index,
    check_stored,
    floats_in,
    integers_in,
    learned_keys,
    leaves_of,
    perturbed,
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
    subject = Checked("param", param)
    with checking(subject, AbstractParameterization):
        layouts = _layouts(subject, param, SPECS if spec is None else (spec,), BUDGETS if budget is None else (budget,))
        seen: set[ImageSpec] = set()
        for layout in layouts:
            case = _Case(subject=subject, param=param, layout=layout, seed=seed)
            params = case.check_init()
            images = case.check_decode(params)
            if layout.spec not in seen:
                case.check_state(params, images)
            case.check_class_order(images)
            check_index(subject, "decode", lambda index, c=case, p=params: c.decode(p, index), images)  # type: ignore[misc]
            if layout.spec not in seen:
                seen.add(layout.spec)
                case.check_float64()
                case.check_learning()
                elsewhere(subject, "decode", case.check_device)
                elsewhere(subject, "init", case.check_init_device)


def _layouts(
    subject: Checked, param: AbstractParameterization, specs: tuple[ImageSpec, ...], budgets: tuple[Budget, ...]
) -> list[Layout]:
    """All layouts that fit their budget; larger shapes are tried only if no smaller one fits."""
    found: list[Layout] = []
    refusal = ""
    for number, spec in enumerate(specs):
        if number >= SMALL_SPECS and found:
            break
        for budget in budgets:
            for floats in LABEL_FLOATS:
                try:
                    layout = subject.call(
                        "layout",
                        lambda s=spec, b=budget, f=floats: param.layout(s, b, f),  # type: ignore[misc]
                        allow=(OptionError,),
                        hint="what does not fit is an OptionError",
                    )
                except OptionError as error:
                    refusal = str(error)
                    continue
                _check_layout(subject, layout, spec, budget, floats)
                found.append(layout)
    if not found:
        subject.fail(f"layout fits none of the shapes and budgets tried; pass spec and budget that fit ({refusal})")
    _check_impossible(subject, param, found[0].spec)
    return found


def _check_layout(subject: Checked, layout: Layout, spec: ImageSpec, budget: Budget, label_floats: int) -> None:
    where = f"for {spec.channels}×{spec.height}×{spec.width}, ipc {budget.ipc}, {budget.accounting}"
    if not isinstance(layout, Layout) or layout.spec != spec or layout.budget != budget:
        subject.fail("layout has to return a Layout with the spec and the budget that it was given")
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
    subject.require(
        layout.label_floats == layout.num_images * label_floats,
        f"layout announces {layout.label_floats} label floats for {layout.num_images} images of {label_floats} each",
    )


def _check_impossible(subject: Checked, param: AbstractParameterization, spec: ImageSpec) -> None:
    """Checks that labels that take the whole budget lead to an OptionError or to a layout over budget."""
    try:
        layout = subject.once(
            "layout",
            lambda: param.layout(spec, Budget(ipc=1), 10**9),
            allow=(OptionError,),
            hint="a budget in which nothing fits is an OptionError",
        )
    except OptionError as error:
        subject.require(bool(str(error)), "layout's OptionError has no text; say what would fit")
    else:
        _check_layout(subject, layout, spec, Budget(ipc=1), 10**9)


@frozen(kw_only=True)
class _Case:
    """The checks of one parameterisation on one layout."""

    subject: Checked
    param: AbstractParameterization
    layout: Layout
    seed: int

    def real(self, dtype: torch.dtype, shift: int = 0) -> RealImages:
        return real_images(self.layout.spec, REAL_PER_CLASS, dtype, self.seed + shift)

    def init(self, real: RealImages, layout: Layout | None = None) -> dict[str, Tensor]:
        found = self.param.init(layout or self.layout, real, generator(self.seed))
        return dict(found) if isinstance(found, Mapping) else found

    def decode(self, params: Tensors, index: Tensor) -> Tensor:
        with torch.no_grad():
            return self.param.decode(clones(params), index)

    @property
    def everything(self) -> Tensor:
        return torch.arange(self.layout.num_images)

    def check_init(self) -> dict[str, Tensor]:
        """Checks that `init` gives new tensors of the announced size and does not change the real images."""
        subject, layout = self.subject, self.layout
        real = self.real(torch.float32)
        before = real.images.clone(), real.labels.clone()
        params = subject.call("init", lambda: self.init(real))
        subject.require(same((real.images, real.labels), before), "init changes the real images; work on a copy")
        check_stored(subject, params, torch.float32, real.images)
        held, said = floats_in(params), self.param.stored_floats(params)
        subject.require(
            held == layout.parameter_floats,
            f"{'understates' if held > layout.parameter_floats else 'overstates'} its floats: layout announces "
            f"{layout.parameter_floats}, but init stores {held} in floating tensors; every float is paid for",
        )
        subject.require(
            said == held,
            f"{'understates' if said < held else 'overstates'} its floats: stored_floats says {said}, but there are "
            f"{held} in floating tensors; leave stored_floats as it is inherited",
        )
        most = 64 + 2 * layout.num_images + min(held, layout.spec.num_classes * layout.spec.floats_per_image)
        integers = integers_in(params)
        subject.require(
            integers <= most,
            f"understates its floats: it stores {integers} integers beside {held} floats; tables are free up to 64, "
            f"plus two per decoded image, plus as many as there are floats but at most one per pixel of one image of "
            f"each class ({most} here); images in integers are not a table",
        )
        return params

    def check_decode(self, params: dict[str, Tensor]) -> Tensor:
        """Checks that `decode` gives images of the right shape and does not change the parameters."""
        subject, spec = self.subject, self.layout.spec
        before = clones(params)
        images = subject.call("decode", lambda: self.decode(params, self.everything))
        with torch.no_grad():
            self.param.decode(params, self.everything)
        subject.require(same(params, before), "decode changes its parameters; work on a copy")
        expected = (self.layout.num_images, *spec.shape)
        if not isinstance(images, Tensor) or tuple(images.shape) != expected:
            subject.fail(f"decode gives {tuple(getattr(images, 'shape', ()))} for all images, expected {expected}")
        subject.require(
            images.dtype == torch.float32,
            f"decode hard-codes a dtype: it gives {images.dtype} for parameters in torch.float32",
        )
        subject.require(bool(images.isfinite().all()), "decode gives images that are not finite, right after init")
        return images

    def check_state(self, params: dict[str, Tensor], images: Tensor) -> None:
        """Checks that images depend only on the tensors that are passed in."""
        subject = self.subject
        others = perturbed(params, self.seed + 1)
        decoded = subject.once("decode", lambda: self.decode(others, self.everything))
        if self.param.param_groups(params) and same(decoded, images):
            subject.fail(
                "decode gives the same images for other parameters: it keeps state between calls (a cache of an "
                "earlier decode?), or does not use them"
            )
        subject.once("init", lambda: self.init(self.real(torch.float32, shift=1)))
        subject.again("decode", images, lambda: self.decode(params, self.everything))
        subject.again("init", params, lambda: self.init(self.real(torch.float32)))
        fresh = evolve(self.param)
        subject.require(
            same(fresh.decode(clones(params), self.everything), images),
            "decode depends on the instance that made the tensors: an equal component gives other images; whatever "
            "decoding needs has to be among the tensors, or saved sets cannot be decoded",
        )

    def check_class_order(self, images: Tensor) -> None:
        """Checks that initial images which clearly look like a class stand in its place in the class order."""
        levels = class_levels(self.layout.spec).to(images)
        distance = torch.cdist(images.mean(dim=(2, 3)), levels)
        apart = float(torch.pdist(levels).min())
        clear = distance.min(dim=1).values < 0.25 * apart
        wrong = clear & (distance.argmin(dim=1) != self.layout.labels())
        if int(wrong.sum()) * 2 > int(clear.sum()):
            first = int(wrong.nonzero()[0])
            self.subject.fail(
                f"decode scrambles rows: image {first} has the class {int(distance.argmin(dim=1)[first])}, but images "
                f"stand in class order, image i in class i // images_per_class, here "
                f"{first // self.layout.images_per_class}; labels would go to other images"
            )

    def check_float64(self) -> None:
        """Checks that float64 real images give float64 parameters and images."""
        real = self.real(torch.float64)
        hint = "is a dtype hard-coded? these are float64; runs can be either"
        params = self.subject.once("init", lambda: self.init(real), hint=hint)
        check_stored(self.subject, params, torch.float64, real.images)
        images = self.subject.once("decode", lambda: self.decode(params, self.everything), hint=hint)
        self.subject.require(
            images.dtype == torch.float64,
            f"decode hard-codes a dtype: it gives {images.dtype} for parameters in torch.float64",
        )

    def check_learning(self) -> None:
        """Checks the parameter groups, the gradients of `decode`, and the penalty."""
        subject, param = self.subject, self.param
        params = self.init(self.real(torch.float64))
        groups = subject.call("param_groups", lambda: param.param_groups(clones(params)))
        learned = learned_keys(subject, groups, params)
        moved = perturbed(params, self.seed + 2)
        check_gradients(subject, "decode", lambda p: param.decode(p, self.everything), moved, learned)
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
        subject, param = self.subject, self.param
        leaves = leaves_of(params)
        images = param.decode(leaves, self.everything)
        floating = [key for key, value in leaves.items() if value.is_floating_point()]
        seen = torch.randn(images.shape, generator=generator(self.seed + 3), dtype=images.dtype)
        found = torch.autograd.grad(images, [leaves[key] for key in floating], seen, allow_unused=True)
        gradients = {key: g for key, g in zip(floating, found, strict=True) if g is not None}
        before = clones(params), clones(gradients)
        direction = subject.call("direction", lambda: param.direction(clones(params), clones(gradients)))
        again = param.direction(params, gradients)
        subject.require(same((params, gradients), before), "direction changes what it is given; work on a copy")
        for key, value in direction.items():
            if key not in gradients or value.shape != gradients[key].shape or value.dtype != gradients[key].dtype:
                subject.fail(f"direction answers for {key!r} with something else than the gradient's shape and dtype")
            subject.require(bool(value.isfinite().all()), f"direction is not finite for {key!r}")
        subject.require(same(dict(again), dict(direction)), "direction gives another answer for the same gradients")
        downhill = sum(float((direction.get(key, g) * g).sum()) for key, g in gradients.items())
        subject.require(downhill >= 0, "direction points uphill: optimisers subtract it, as they do a gradient")

    def check_device(self, device: torch.device) -> None:
        """Checks that images, penalty and their gradients are on the device of the parameters."""
        params = {k: v.to(device) for k, v in self.init(self.real(torch.float32)).items()}
        leaves = {k: v.detach().requires_grad_() if v.is_floating_point() else v for k, v in params.items()}
        images = self.param.decode(leaves, self.everything.to(device))
        require_there(self.subject, "decode", images, device)
        floating = [v for v in leaves.values() if v.is_floating_point()]
        if images.requires_grad:
            torch.autograd.grad(images, floating, torch.ones_like(images), allow_unused=True)
        penalty = self.param.penalty(leaves)
        if penalty is not None:
            require_there(self.subject, "penalty", penalty, device)

    def check_init_device(self, device: torch.device) -> None:
        """Checks that initial tensors are on the device of the real images."""
        real = self.real(torch.float32)
        there = RealImages(images=real.images.to(device), labels=real.labels.to(device), num_classes=real.num_classes)
        for tensor in self.init(there).values():
            if tensor.is_floating_point():
                require_there(self.subject, "init", tensor, device)
