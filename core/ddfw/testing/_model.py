"""The conformance check of networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.model import AbstractModel
from ddfw.engine.inner import Network, build_module, inner_loss
from ddfw.errors import OptionError
from ddfw.testing._common import Checked, checking, generator, same, undisturbed
from ddfw.testing._devices import elsewhere, require_there

#: Image shapes to try if none is given; a network may refuse small images with an OptionError.
SPECS = (
    ImageSpec(channels=1, height=8, width=8, num_classes=3),
    ImageSpec(channels=3, height=9, width=8, num_classes=2),
    ImageSpec(channels=3, height=32, width=32, num_classes=2),
)
BATCH = 3
#: Step length, and number of random directions, for differences of gradients. If a rectifier has its kink between the
#: two points, the difference is wrong; a tiny step makes that rare, and one direction without a kink is enough.
STEP, DIRECTIONS = 1e-8, 3


def check_model(model: AbstractModel, spec: ImageSpec | None = None, *, seed: int = 0) -> None:
    """Checks a network's `build` and `init`.

    Args:
        model: the network's component, with the options to check.
        spec: the only image shape to try; None: two small ones, and a larger one if neither fits.
        seed: seed of the images and of the generators.

    Raises:
        ConformanceError: the network breaks its contract; the text tells the first fault found.
    """
    subject = Checked("model", model)
    with checking(subject, AbstractModel):
        fitting, refusal = 0, ""
        for shape in SPECS if spec is None else (spec,):
            if shape is SPECS[-1] and fitting:
                break
            try:
                module = _build(subject, model, shape)
            except _DoesNotFit as error:
                refusal = str(error)
                continue
            fitting += 1
            theta = _check_init(subject, model, shape, module, seed)
            _check_logits(subject, shape, module, theta, seed)
            _check_second_order(subject, shape, module, theta.double(), seed)
            _check_device(subject, shape, module, theta, seed)
        if not fitting:
            subject.fail(f"build fits none of the image shapes tried; pass a spec that fits ({refusal})")


class _DoesNotFit(Exception):
    """The model refuses an image shape."""


def _build(subject: Checked, model: AbstractModel, spec: ImageSpec) -> nn.Module:
    """Builds the module and checks that inner steps on it can be repeated."""
    # Constructors of torch.nn draw from torch's global generator, whose state build_module restores.
    with undisturbed(subject, "build", ignore=("Python's",)):
        try:
            with torch.random.fork_rng(devices=[]):
                model.build(spec)
        except OptionError as error:
            raise _DoesNotFit(str(error)) from error
        except Exception as error:
            subject.fail(f"build raised {type(error).__name__}: {error}; what does not fit is an OptionError")
        try:
            return build_module(model, spec)
        except OptionError as error:
            subject.fail(f"build gives a network that cannot be replayed: {error}")


def _check_init(subject: Checked, model: AbstractModel, spec: ImageSpec, module: nn.Module, seed: int) -> Tensor:
    """Checks that the initial θ depends only on the generator, and returns it."""
    before = {k: v.clone() for k, v in module.state_dict().items()}
    theta = subject.call("init", lambda: model.init(module, generator(seed)))
    network = Network(module)
    expected = (network.num_parameters,)
    if not isinstance(theta, Tensor) or tuple(theta.shape) != expected:
        subject.fail(
            f"init gives {tuple(getattr(theta, 'shape', ()))}, expected [P] = {expected}, every parameter of the "
            "module in the order of module.parameters()"
        )
    subject.require(theta.dtype == torch.float32, f"init gives {theta.dtype}, expected float32; the engine converts it")
    subject.require(not theta.requires_grad, "init's θ requires a gradient; return a plain tensor")
    subject.require(bool(theta.isfinite().all()), "init gives parameters that are not finite")
    subject.require(same(before, dict(module.state_dict())), "init changes the module; it only reads its shapes")
    other = subject.once("init", lambda: model.init(module, generator(seed + 1)))
    subject.require(
        not same(theta, other), "init gives the same θ for another seed; all networks of a run would be one"
    )
    with undisturbed(subject, "build", seed=5):
        fresh = build_module(model, spec)
    subject.require(
        Network(fresh).names == network.names and Network(fresh).shapes == network.shapes,
        "build gives other parameters when it is called again; θ would not fit",
    )
    subject.require(
        same(theta, subject.once("init", lambda: model.init(fresh, generator(seed)))),
        "init depends on the module's own values, which come from a global generator; draw every parameter from the "
        "generator that is passed in, or runs are not reproducible",
    )
    return theta


def _images(spec: ImageSpec, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(BATCH, *spec.shape, generator=generator(seed + 2), dtype=torch.float64).to(dtype)


def _check_logits(subject: Checked, spec: ImageSpec, module: nn.Module, theta: Tensor, seed: int) -> None:
    """Checks that logits have the right shape in float32 and float64 and are deterministic."""
    network = Network(module)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    for dtype in (torch.float32, torch.float64):
        images, point = _images(spec, dtype, seed), theta.to(dtype)
        hint = f"is a dtype hard-coded? images and θ are {dtype}"
        logits = subject.call("the network", lambda x=images, t=point: network.logits(t, x), hint=hint)  # type: ignore[misc]
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (BATCH, spec.num_classes):
            subject.fail(
                f"the network gives {tuple(getattr(logits, 'shape', ()))} for {BATCH} images of {spec.num_classes} "
                f"classes, expected {(BATCH, spec.num_classes)}"
            )
        subject.require(
            logits.dtype == dtype, f"the network hard-codes a dtype: it gives {logits.dtype} for images in {dtype}"
        )
        subject.require(bool(logits.isfinite().all()), "the network gives logits that are not finite, right after init")
        subject.once("the network", lambda x=images, t=point: network.logits(t, x * 2))  # type: ignore[misc]
        subject.again("the network", logits, lambda x=images, t=point: network.logits(t, x))  # type: ignore[misc]
    subject.require(
        same(before, dict(module.state_dict())),
        "the network keeps state between calls: a buffer or parameter changed; steps are replayed and have to give the "
        "same result",
    )


def _check_second_order(subject: Checked, spec: ImageSpec, module: nn.Module, theta: Tensor, seed: int) -> None:
    """Checks in float64 that the gradient of g·v is finite and matches differences of g, the inner loss's gradient."""
    network, rng = Network(module), generator(seed + 3)
    images = _images(spec, torch.float64, seed)
    targets = torch.randn(BATCH, spec.num_classes, generator=rng, dtype=torch.float64).softmax(dim=1)
    cotangent = torch.randn(theta.shape, generator=rng, dtype=torch.float64)

    def dot(point: Tensor, pixels: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(inner_loss(network, point, pixels, targets), point, create_graph=True)
        return (gradient * cotangent).sum()

    what = "the second derivative of the network"
    leaves = theta.clone().requires_grad_(), images.clone().requires_grad_()
    value = subject.once(what, lambda: dot(*leaves))
    if not value.requires_grad:
        subject.fail("the network returns a detached result: its gradient cannot be differentiated again")
    found = subject.once(what, lambda: torch.autograd.grad(value, leaves, allow_unused=True))
    if found[1] is None or not bool(found[1].any()):
        subject.fail(
            "the network returns a detached result: its gradient does not depend on the images, so no image could be "
            "learned; compute without detach, no_grad or rounding"
        )
    second = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)]
    subject.require(all(bool(g.isfinite().all()) for g in second), f"{what} is not finite")
    size = float(second[0].norm() + second[1].norm())
    pairs = []
    for _ in range(DIRECTIONS):
        ways = [torch.randn(t.shape, generator=rng, dtype=torch.float64) for t in leaves]
        ahead, behind = (
            dot(*((t.detach() + side * STEP * w).requires_grad_() for t, w in zip(leaves, ways, strict=True)))
            for side in (1, -1)
        )
        numeric = float((ahead - behind).detach()) / (2 * STEP)
        exact = sum(float((g * w).sum()) for g, w in zip(second, ways, strict=True))
        if abs(numeric - exact) <= 0.02 * (abs(exact) + abs(numeric)) + 1e-3 * size:
            return
        pairs.append(f"{exact:.6g} and {numeric:.6g}")
    subject.fail(
        f"{what} is wrong: along random directions autograd and finite differences say {', '.join(pairs)}; every layer "
        "has to be twice differentiable"
    )


def _check_device(subject: Checked, spec: ImageSpec, module: nn.Module, theta: Tensor, seed: int) -> None:
    """Checks that logits are on the device of θ and the images."""
    network = Network(module)

    def on_device(device: torch.device) -> None:
        logits = network.logits(theta.to(device), _images(spec, torch.float32, seed).to(device))
        require_there(subject, "the network", logits, device)

    elsewhere(subject, "the network", on_device)
