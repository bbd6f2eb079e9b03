"""The conformance check of label strategies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from attrs import evolve, frozen
from torch import Tensor

from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.labels import AbstractLabels, ask_targets
from ddfw.contracts.parameterization import Layout
from ddfw.contracts.settings import Budget
from ddfw.testing._common import Checked, checking, clones, generator, same
from ddfw.testing._devices import elsewhere, require_there
from ddfw.testing._fakes import LinearTeachers, class_levels
from ddfw.testing._tensors import (
    Tensors,
    check_gradients,
    check_index,
    check_stored,
    floats_in,
    integers_in,
    learned_keys,
    perturbed,
)

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
    subject = Checked("labels", labels)
    with checking(subject, AbstractLabels):
        for shape in SPECS if spec is None else (spec,):
            price = subject.call("floats_per_image", lambda s=shape: labels.floats_per_image(s))  # type: ignore[misc]
            subject.require(
                isinstance(price, int) and price >= 0, f"floats_per_image has to be an integer >= 0, got {price!r}"
            )
            count = shape.num_classes * IMAGES_PER_CLASS
            layout = Layout(
                spec=shape,
                budget=Budget(ipc=IMAGES_PER_CLASS),
                images_per_class=IMAGES_PER_CLASS,
                samples_per_class=IMAGES_PER_CLASS,
                parameter_floats=count * shape.floats_per_image,
                label_floats=count * price,
            )
            case = _Case(subject=subject, labels=labels, layout=layout, seed=seed)
            params = case.check_init()
            targets = case.check_targets(params, torch.float32)
            case.check_state(params, targets)
            case.check_class_order(targets)
            check_index(subject, "targets", lambda index, c=case, p=params: c.targets(p, index), targets)  # type: ignore[misc]
            case.check_float64()
            elsewhere(subject, "init", case.check_device)


@frozen(kw_only=True)
class _Case:
    """The checks of one label strategy on one image shape."""

    subject: Checked
    labels: AbstractLabels
    layout: Layout
    seed: int

    def images(self, dtype: torch.dtype, shift: int = 0) -> Tensor:
        """Images [n, C, H, W] in class order, as a parameterisation would decode them."""
        spec = self.layout.spec
        noise = torch.randn(
            self.layout.num_images, *spec.shape, generator=generator(self.seed + shift), dtype=torch.float64
        )
        return (class_levels(spec)[self.layout.labels()][:, :, None, None] + 0.1 * noise).to(dtype)

    def init(self, images: Tensor) -> dict[str, Tensor]:
        found = self.labels.init(self.layout, images, LinearTeachers(self.layout.spec), generator(self.seed))
        return dict(found) if isinstance(found, Mapping) else found

    def targets(self, params: Tensors, index: Tensor) -> Tensor:
        with torch.no_grad():
            return ask_targets(self.labels, clones(params), index)

    @property
    def everything(self) -> Tensor:
        return torch.arange(self.layout.num_images)

    def check_init(self) -> dict[str, Tensor]:
        """Checks that `init` gives tensors of the announced size and does not change the images."""
        subject = self.subject
        images = self.images(torch.float32)
        before = images.clone()
        params = subject.call("init", lambda: self.init(images))
        subject.require(same(images, before), "init changes the images; work on a copy")
        check_stored(subject, params, torch.float32, images)
        held, said = floats_in(params), self.layout.label_floats
        subject.require(
            held == said,
            f"{'understates' if held > said else 'overstates'} its floats: floats_per_image makes {said} for "
            f"{self.layout.num_images} images, but init stores {held}; label floats count as stored floats",
        )
        most = 64 + 2 * self.layout.num_images
        subject.require(
            integers_in(params) <= most,
            f"understates its floats: it stores {integers_in(params)} integers; tables are free up to 64 plus two per "
            f"image ({most} here)",
        )
        return params

    def check_targets(self, params: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Checks that targets are probabilities, and returns those of all images in class order."""
        subject = self.subject
        before = clones(params)
        targets = subject.call("targets", lambda: self.targets(params, self.everything))
        with torch.no_grad():
            ask_targets(self.labels, params, self.everything)
        subject.require(same(params, before), "targets changes its parameters; work on a copy")
        expected = (self.layout.num_images, self.layout.spec.num_classes)
        if not isinstance(targets, Tensor) or tuple(targets.shape) != expected:
            subject.fail(f"targets gives {tuple(getattr(targets, 'shape', ()))} for all images, expected {expected}")
        subject.require(
            targets.dtype == dtype or not (targets.is_floating_point() or targets.is_complex()),
            f"targets hard-codes a dtype: it gives {targets.dtype} for images in {dtype}",
        )
        rows = targets.to(torch.float64)
        subject.require(
            bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < 1e-5).all()),
            "targets are not probabilities: each row has to be >= 0 and to sum to 1; take a softmax",
        )
        return targets

    def check_state(self, params: dict[str, Tensor], targets: Tensor) -> None:
        """Checks that targets depend only on the tensors that are passed in."""
        subject = self.subject
        others = subject.once("init", lambda: self.init(self.images(torch.float32, shift=1)))
        moved = perturbed(others, self.seed + 2)
        found = subject.once("targets", lambda: self.targets(moved, self.everything))
        if self.labels.param_groups(params) and same(found, targets):
            subject.fail(
                "targets gives the same rows for other parameters: it keeps state between calls (a cache?), or does "
                "not use them"
            )
        subject.again("targets", targets, lambda: self.targets(params, self.everything))
        subject.again("init", params, lambda: self.init(self.images(torch.float32)))
        subject.require(
            same(ask_targets(evolve(self.labels), clones(params), self.everything), targets),
            "targets depends on the instance that made the tensors: an equal component gives other rows; whatever it "
            "needs has to be among the tensors, or saved sets cannot be read",
        )

    def check_class_order(self, targets: Tensor) -> None:
        """Checks that targets which clearly name a class name that of their image."""
        probability, found = targets.to(torch.float64).max(dim=1)
        classes = self.layout.labels()
        free = self.layout.label_floats == 0
        wrong = (found != classes) & ((probability > 0.6) | free)
        if int(wrong.sum()) * 2 > (0 if free else len(wrong)):
            first = int(wrong.nonzero()[0])
            self.subject.fail(
                f"targets scrambles rows: image {first} has the target {int(found[first])}, but images stand in class "
                f"order, so its class is {int(classes[first])}"
            )

    def check_float64(self) -> None:
        """Checks that float64 images give float64 tensors, and that learned tensors have correct gradients."""
        subject, labels = self.subject, self.labels
        images = self.images(torch.float64)
        params = subject.once(
            "init", lambda: self.init(images), hint="is a dtype hard-coded? these are float64; runs can be either"
        )
        check_stored(subject, params, torch.float64, images)
        self.check_targets(params, torch.float64)
        groups = subject.call("param_groups", lambda: labels.param_groups(clones(params)))
        learned = learned_keys(subject, groups, params)
        if learned:
            moved = perturbed(params, self.seed + 3)
            check_gradients(subject, "targets", lambda p: ask_targets(labels, p, self.everything), moved, learned)

    def check_device(self, device: torch.device) -> None:
        """Checks that initial tensors and targets are on the device of the images."""
        params = self.init(self.images(torch.float32).to(device))
        for tensor in params.values():
            if tensor.is_floating_point():
                require_there(self.subject, "init", tensor, device)
        targets = ask_targets(self.labels, {k: t.to(device) for k, t in params.items()}, self.everything.to(device))
        require_there(self.subject, "targets", targets, device)
