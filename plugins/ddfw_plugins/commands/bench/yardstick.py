"""The yardstick: plain trajectory matching, with autograd through all inner steps.

This code is written from the method's equations alone and shares none with the engine. So its results check those of
the engine, and its cost is that of a plain loop, in which every inner step keeps its graph until the backward pass.

Shapes: n images, b of them in a batch, C channels, H rows, W columns, m classes, N inner steps, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from attrs import frozen
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ddfw_plugins.executors.arithmetic import arithmetic

#: How the plain loop computes on a GPU: in a session's own arithmetic, in full float32, in that which PyTorch has if
#: nobody sets anything, or so and with convolutions chosen by timing them (`cudnn.benchmark`).
Plain = Literal["session", "ieee", "defaults", "benchmark"]


@contextmanager
def plain_settings(how: Plain) -> Iterator[None]:
    """Sets, inside a block, how the plain loop computes on a GPU; on a CPU it changes nothing.

    What is compared inside an executor's session runs in the session's arithmetic, full float32 for `cuda`. A loop as
    people write it does not: there convolutions take TF32, which is what a fair comparison has to be made with.

    Args:
        how: the settings; "session" leaves them as they are.
    """
    if how == "session":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = how == "benchmark"
    try:
        with arithmetic("ieee" if how == "ieee" else "pytorch"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


@frozen(kw_only=True)
class PlainGradient:
    """The matching loss of one outer step and its gradients, by autograd through all inner steps (the plain loop).

    Args:
        loss: L, the matching loss, a scalar.
        images: ∂L/∂images [n, C, H, W].
        step_size: ∂L/∂a, a scalar; a is the student's step size.
    """

    loss: Tensor
    images: Tensor
    step_size: Tensor


def plain_meta_gradient(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    step_size: Tensor,
    start: Tensor,
    target: Tensor,
    batches: Sequence[Tensor],
    augment: Callable[[Tensor, int], Tensor],
) -> PlainGradient:
    """Unrolls a student and differentiates the matching loss through all of its steps.

    Args:
        module: the network; its own parameter values are not used.
        images: [n, C, H, W], the synthetic images.
        labels: [n] class indices or [n, m] probabilities.
        step_size: the student's step size, a scalar.
        start: [P], the expert's parameters from which the student starts.
        target: [P], the expert's parameters that the student should reach.
        batches: for each inner step, the row numbers in `images` of its batch.
        augment: called with a batch and the number of the step (from 0); returns the augmented batch.
    """
    images = images.detach().requires_grad_()
    step_size = step_size.detach().requires_grad_()
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]
    student = start.detach().requires_grad_()
    for number, rows in enumerate(batches):
        pieces = student.split(sizes)
        parameters = {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}
        logits = functional_call(module, parameters, (augment(images[rows], number),))
        loss = cross_entropy(logits, labels[rows])
        (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
        student = student - step_size * gradient
    matching = (student - target).square().sum() / (start - target).square().sum()
    matching.backward()
    assert images.grad is not None and step_size.grad is not None
    return PlainGradient(loss=matching.detach(), images=images.grad, step_size=step_size.grad)


def plain_training(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    batch_size: int,
    augment: Callable[[Tensor], Tensor],
    rng: torch.Generator,
) -> list[float]:
    """A plain training loop with torch.optim.SGD; the module is trained in place.

    Args:
        module: the network to train.
        images: [n, C, H, W], the training images.
        labels: [n] class indices or [n, m] probabilities.
        epochs: passes over the images.
        lr: learning rate.
        batch_size: number of images in a step; the last batch of an epoch may be smaller.
        augment: called with a batch; returns the augmented batch.
        rng: random generator that shuffles the images.

    Returns:
        The mean loss of each epoch.
    """
    optimiser = torch.optim.SGD(module.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        total = torch.zeros((), device=images.device)
        for rows in torch.randperm(len(images), generator=rng).split(batch_size):
            loss = cross_entropy(module(augment(images[rows])), labels[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(rows)
        losses.append(float(total) / len(images))
    return losses
