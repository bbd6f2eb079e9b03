"""Label strategies on teachers whose logits are known."""

from __future__ import annotations

import pytest
import torch

from ddfw import Budget, ImageSpec, OptionError
from ddfw_plugins.labels.hard import Hard
from ddfw_plugins.labels.soft import Soft, mean_of_correct
from ddfw_plugins.labels.teacher import Teacher
from ddfw_plugins.parameterizations.pixel import Pixel

SPEC = ImageSpec(channels=1, height=2, width=2, num_classes=3)
LAYOUT = Pixel().layout(SPEC, Budget(ipc=2), 0)
IMAGES = torch.rand(6, 1, 2, 2)


class FixedTeachers:
    """Two experts with given logits, which depend on the epoch."""

    num_experts, num_epochs = 2, 4

    def __init__(self, logits):
        self._logits = logits

    def logits(self, images, epoch=None):
        return self._logits * (1.0 if epoch is None else epoch / 4)


def one_hot_logits(classes, height):
    return height * torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_hard_labels_are_the_classes_in_order_and_cost_nothing():
    """Broken: hard labels would be learned, counted, or out of class order."""
    params = Hard().init(LAYOUT, IMAGES, FixedTeachers(None), torch.Generator())
    assert Hard().floats_per_image(SPEC) == 0
    assert not any(t.is_floating_point() for t in params.values())
    assert Hard().param_groups(params) == ()
    assert Hard().targets(params, torch.tensor([0, 1, 2, 5])).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_soft_labels_start_from_the_experts_that_are_right():
    """Broken: wrong experts would vote, or an image that none recognises would become 0/0."""
    classes = [0, 0, 1, 1, 2, 2]
    right = one_hot_logits(classes, 2.0)
    mixed = one_hot_logits([0, 1, 1, 1, 0, 2], 4.0)  # wrong about images 1 and 4
    right[4] = one_hot_logits([1], 3.0)[0]  # so nobody is right about image 4
    params = Soft(confidence=7.0).init(LAYOUT, IMAGES, FixedTeachers(torch.stack([right, mixed])), torch.Generator())
    logits = params["logits"]
    assert logits[0].tolist() == [3.0, 0.0, 0.0]  # mean of 2 and 4
    assert logits[1].tolist() == [2.0, 0.0, 0.0]  # only the first is right
    assert logits[4].tolist() == [0.0, 0.0, 7.0]  # the fall-back
    assert Soft().floats_per_image(SPEC) == 3
    targets = Soft().targets(params, torch.tensor([4, 0]))
    assert torch.allclose(targets.sum(dim=1), torch.ones(2))
    assert torch.allclose(targets[1], torch.tensor([3.0, 0.0, 0.0]).softmax(0))


def test_the_mean_over_right_experts_is_finite_and_keeps_its_dtype():
    """Broken: float64 runs would lose precision, or NaN would appear."""
    logits = torch.zeros(2, 1, 3, dtype=torch.float64)
    logits[:, 0, 1] = 1.0
    found = mean_of_correct(logits, torch.tensor([0]), 10.0)
    assert found.dtype == torch.float64 and found.tolist() == [[10.0, 0.0, 0.0]]


def test_teacher_labels_are_fixed_probabilities_of_an_epoch():
    """Broken: epoch, temperature or the choice of experts is ignored, or the labels would be learned."""
    logits = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    teachers = FixedTeachers(logits)
    params = Teacher().init(LAYOUT, IMAGES, teachers, torch.Generator())
    assert torch.allclose(params["probabilities"], logits.softmax(dim=2).mean(dim=0))
    half = Teacher(epoch=2, experts=1, temperature=2.0).init(LAYOUT, IMAGES, teachers, torch.Generator())
    assert torch.allclose(half["probabilities"], (logits[0] * 0.5 / 2.0).softmax(dim=1))
    assert Teacher().param_groups(params) == ()
    assert Teacher().floats_per_image(SPEC) == 3
    for bad, path in ((Teacher(epoch=5), "epoch"), (Teacher(experts=3), "experts")):
        with pytest.raises(OptionError) as error:
            bad.init(LAYOUT, IMAGES, teachers, torch.Generator())
        assert error.value.option == path
