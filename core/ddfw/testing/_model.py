"""The conformance check of networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.model import AbstractModel
from ddfw.engine.inner import Network, build_module, inner_loss
from ddfw.errors import OptionError
from ddfw.testing._common import Checked, generator, same, undisturbed
from ddfw.testing._component import checking
from ddfw.testing._devices import elsewhere, require_there
from ddfw.testing._tensors import normal, require_tensor, slopes

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
    with checking("model", model, AbstractModel) as subject:
        fitting, refusal = 0, ""
        for shape in SPECS if spec is None else (spec,):
            if shape is SPECS[-1] and fitting:
                break
            try:
                module = _build(subject, model, shape)
            except OptionError as error:
                refusal = str(error)
                continue
            fitting += 1
            theta = _check_init(subject, model, shape, module, seed)
            _check_logits(subject, shape, module, theta, seed)
            _check_second_order(subject, shape, module, theta.double(), seed)
            _check_device(subject, shape, module, theta, seed)
        subject.require(fitting, f"build fits none of the image shapes tried; pass a spec that fits ({refusal})")


def _build(subject: Checked, model: AbstractModel, spec: ImageSpec) -> nn.Module:
    """Builds the module and checks that inner steps on it can be repeated.

    Raises:
        OptionError: the model refuses the image shape.
    """
    # Constructors of torch.nn draw from torch's global generator, whose state build_module restores.
    with undisturbed(subject, "build", ignore=("Python's",)):
        with (
            torch.random.fork_rng(devices=[]),
            subject.reporting("build", allow=(OptionError,), hint="what does not fit is an OptionError"),
        ):
            model.build(spec)
        try:
            return build_module(model, spec)
        except OptionError as error:
            subject.fail(f"build gives a network that cannot be replayed: {error}")


def _check_init(subject: Checked, model: AbstractModel, spec: ImageSpec, module: nn.Module, seed: int) -> Tensor:
    """Checks that the initial θ depends only on the generator, and returns it."""
    network = Network(module)

    def init(built: nn.Module, shift: int = 0) -> Tensor:
        return model.init(built, generator(seed + shift))

    with subject.unchanged("init changes the module; it only reads its shapes", module.state_dict):
        theta = subject.call("init", init, module)
    hint = ", every parameter of the module in the order of module.parameters()"
    require_tensor(subject, "init", theta, (network.num_parameters,), None, hint=hint)
    subject.require(theta.dtype == torch.float32, f"init gives {theta.dtype}, expected float32; the engine converts it")
    other = subject.once("init", init, module, 1)
    wrong = "init gives the same θ for another seed; all networks of a run would be one"
    subject.require(not same(theta, other), wrong)
    with undisturbed(subject, "build", seed=5):
        fresh = build_module(model, spec)
    wrong = "build gives other parameters when it is called again; θ would not fit"
    subject.require(Network(fresh).names == network.names and Network(fresh).shapes == network.shapes, wrong)
    subject.require(
        same(theta, subject.once("init", init, fresh)),
        "init depends on the module's own values, which come from a global generator; draw every parameter from the "
        "generator that is passed in, or runs are not reproducible",
    )
    return theta


def _images(spec: ImageSpec, dtype: torch.dtype, seed: int) -> Tensor:
    return normal((BATCH, *spec.shape), generator(seed + 2), dtype)


def _check_logits(subject: Checked, spec: ImageSpec, module: nn.Module, theta: Tensor, seed: int) -> None:
    """Checks that logits have the right shape in float32 and float64 and are deterministic."""
    logits = Network(module).logits
    wrong = (
        "the network keeps state between calls: a buffer or parameter changed; steps are replayed and have to repeat"
    )
    with subject.unchanged(wrong, module.state_dict):
        for dtype in (torch.float32, torch.float64):
            images, point = _images(spec, dtype, seed), theta.to(dtype)
            hint = f"is a dtype hard-coded? images and θ are {dtype}"
            found = subject.call("the network", logits, point, images, hint=hint)
            require_tensor(subject, "the network", found, (BATCH, spec.num_classes), dtype, given="images")
            subject.once("the network", logits, point, images * 2)
            subject.again("the network", found, logits, point, images)


def _check_second_order(subject: Checked, spec: ImageSpec, module: nn.Module, theta: Tensor, seed: int) -> None:
    """Checks in float64 that the gradient of g·v is finite and matches differences of g, the inner loss's gradient."""
    network, rng = Network(module), generator(seed + 3)
    images = _images(spec, torch.float64, seed)
    targets = normal((BATCH, spec.num_classes), rng).softmax(dim=1)
    cotangent = normal(theta.shape, rng)

    def dot(point: Tensor, pixels: Tensor) -> Tensor:
        loss = inner_loss(network, point.requires_grad_(), pixels, targets)
        (gradient,) = torch.autograd.grad(loss, point, create_graph=True)
        return (gradient * cotangent).sum()

    what, detached = "the second derivative of the network", "the network returns a detached result: its gradient"
    leaves = theta.clone().requires_grad_(), images.clone().requires_grad_()
    value = subject.once(what, dot, *leaves)
    subject.require(value.requires_grad, f"{detached} cannot be differentiated again")
    found = subject.once(what, lambda: torch.autograd.grad(value, leaves, allow_unused=True))
    subject.require(
        found[1] is not None and found[1].any(),
        f"{detached} does not depend on the images, so no image could be learned; compute without detach, no_grad or "
        "rounding",
    )
    second = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)]
    subject.require(all(g.isfinite().all() for g in second), f"{what} is not finite")
    size = float(second[0].norm() + second[1].norm())
    pairs = []
    for _ in range(DIRECTIONS):
        exact, numeric = slopes(dot, leaves, second, STEP, rng)
        if abs(numeric - exact) <= 0.02 * (abs(exact) + abs(numeric)) + 1e-3 * size:
            return
        pairs.append(f"{exact:.6g} and {numeric:.6g}")
    subject.fail(
        f"{what} is wrong: along random directions autograd and finite differences say {', '.join(pairs)}; every layer "
        "has to be twice differentiable"
    )


def _check_device(subject: Checked, spec: ImageSpec, module: nn.Module, theta: Tensor, seed: int) -> None:
    """Checks that logits are on the device of θ and the images."""

    def on_device(device: torch.device) -> None:
        logits = Network(module).logits(theta.to(device), _images(spec, torch.float32, seed).to(device))
        require_there(subject, "the network", logits, device)

    elsewhere(subject, "the network", on_device)
