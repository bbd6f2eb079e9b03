"""What a budget buys, and what a layout says about it."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.parameterization import Layout
from ddfw.contracts.settings import Budget
from ddfw.errors import OptionError

SIDES = st.integers(1, 64)


@settings(deadline=None)
@given(ipc=st.integers(1, 100), m=st.integers(1, 1000), c=st.sampled_from([1, 3]), h=SIDES, w=SIDES)
def test_one_image_per_class_buys_the_floats_of_that_many_plain_images(ipc, m, c, h, w):
    """Broken: methods would be compared at unequal cost."""
    spec = ImageSpec(channels=c, height=h, width=w, num_classes=m)
    assert Budget(ipc=ipc).floats(spec) == ipc * m * c * h * w
    assert spec.floats_per_image == c * h * w and spec.shape == (c, h, w)


@pytest.mark.parametrize(("accounting", "price"), [("strict", 10), ("pixels", 0)])
def test_labels_are_paid_for_under_strict_accounting_only(accounting, price):
    """Broken: soft labels would be free where they should cost, or the field's tables could not be reproduced."""
    assert Budget(accounting=accounting).label_price(10) == price


@pytest.mark.parametrize(("labels", "over"), [(0, False), (1, True)])
def test_a_layout_adds_up_its_floats_and_says_when_they_exceed_the_budget(labels, over):
    """Broken: a set over its budget would pass unnoticed, or one exactly on it would be blamed."""
    spec = ImageSpec(channels=1, height=2, width=2, num_classes=3)
    layout = Layout(
        spec=spec, budget=Budget(ipc=2), images_per_class=4, samples_per_class=2, parameter_floats=24,
        label_floats=labels,
    )  # fmt: skip
    assert layout.strict_floats == 24 + labels
    assert layout.over_budget is over
    assert layout.num_images == 12
    assert layout.labels().tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


@settings(deadline=None)
@given(
    accounting=st.sampled_from(["strict", "pixels"]),
    m=st.integers(1, 20),
    side=st.integers(1, 8),
    sample=st.integers(1, 400),
    label=st.integers(0, 200),
    shared=st.integers(0, 5000),
    images=st.integers(1, 9),
)
def test_a_budget_that_is_too_small_names_the_least_one_that_fits(accounting, m, side, sample, label, shared, images):
    """Broken: users would follow advice that fails too, or pay for a larger budget than they need."""
    spec = ImageSpec(channels=1, height=side, width=side, num_classes=m)

    def largest(ipc):
        budget = Budget(ipc=ipc, accounting=accounting)
        return Layout.largest(spec, budget, sample, label, shared_floats=shared, images_per_sample=images)

    try:
        largest(1)
        assume(False)
    except OptionError as error:
        named = int(re.search(r"budget\.ipc >= (\d+) would fit$", str(error))[1])
    assert largest(named).samples_per_class >= 1
    with pytest.raises(OptionError):
        largest(named - 1)
