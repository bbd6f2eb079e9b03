"""Differentiable siamese augmentation against the original's numbers, and its own properties."""

from __future__ import annotations

import time

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ddfw import Draws
from ddfw_plugins.augmentations.dsa import FAMILIES, Siamese, _gathered
from ddfw_plugins.augmentations.none import NoAugmentation

BATCHES = ("c3", "c1", "odd")
EXACT, COLOUR, WARP = 0.0, 2e-6, 2e-5


def values_of(family, d, prefix):
    """A golden file's draws under our names."""
    names = {
        "color": {"brightness": "u_brightness", "saturation": "u_saturation", "contrast": "u_contrast"},
        "crop": {"rows": "shift_rows", "columns": "shift_cols"},
        "cutout": {"rows": "offset_rows", "columns": "offset_cols"},
        "flip": {"u": "u"},
        "scale": {"x": "u_sx", "y": "u_sy"},
        "rotate": {"u": "u"},
    }
    return {ours: torch.from_numpy(d[f"{prefix}_{theirs}"]) for ours, theirs in names[family].items()}


def check(d, prefix, apply, tolerance):
    """Values and vector-Jacobian products of one batch."""
    images = torch.from_numpy(d[f"{prefix}_input"]).requires_grad_()
    out = apply(images)
    assert float((out.detach() - torch.from_numpy(d[f"{prefix}_output"])).abs().max()) <= tolerance
    (pulled,) = torch.autograd.grad(out, images, torch.from_numpy(d[f"{prefix}_cotangent"]))
    assert float((pulled - torch.from_numpy(d[f"{prefix}_input_vjp"])).abs().max()) <= tolerance


@pytest.mark.parametrize("family", ["scale", "rotate"])
def test_a_sampler_that_repeats_is_the_same_sampler(monkeypatch, family):
    """Broken: with executor.deterministic another image is learned, or the backward pass still has random order."""
    augmentation, rng = Siamese(families=(family,), scale=2.5, rotate=120.0), torch.Generator().manual_seed(0)
    for shape in ((4, 3, 8, 8), (3, 1, 7, 10), (2, 2, 1, 6)):
        draws = augmentation.draw(shape, rng)
        found = []
        for gathered in (False, True):
            images = torch.randn(
                shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
            ).requires_grad_()
            with monkeypatch.context() as patch, Operations() as seen:
                if gathered:
                    patch.setattr(
                        torch, "grid_sampler_2d", lambda images, grid, *how: _gathered(images, grid.movedim(3, 1))
                    )
                value = augmentation.apply(images, draws)
                (pulled,) = torch.autograd.grad(value, images, value.detach().sin())
            assert any("grid_sampler" in name for name in seen.names) != gathered
            found.append((value.detach(), pulled))
        for one, other in zip(*found, strict=True):
            assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


class Operations(TorchDispatchMode):
    """The names of PyTorch's operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_on_a_gpu_images_are_not_sampled_by_cudnn(repeats, form):
    """Broken: cuDNN's sampler refuses channels-last images, and sums its gradient in random order."""
    augmentation, rng = Siamese(families=("rotate",)), torch.Generator().manual_seed(0)
    draws = augmentation.draw((4, 3, 8, 8), rng)
    before = torch.are_deterministic_algorithms_enabled()
    # Tensors without numbers, which PyTorch dispatches as it would on a GPU.
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(4, 3, 8, 8, device="cuda").contiguous(memory_format=form)
        there = Draws(family="rotate", values={"u": torch.empty(4, device="cuda")})
        assert draws.values["u"].shape == there.values["u"].shape
        torch.use_deterministic_algorithms(repeats)
        try:
            with Operations() as seen:
                found = augmentation.apply(images, there)
        finally:
            torch.use_deterministic_algorithms(before)
    assert found.shape == images.shape and found.device.type == "cuda"
    sampled = {name for name in seen.names if "grid_sampler" in name}
    assert sampled == (set() if repeats else {"aten::grid_sampler_2d"})


@pytest.mark.parametrize("prefix", BATCHES)
@pytest.mark.parametrize(
    ("family", "tolerance"),
    [("color", COLOUR), ("crop", EXACT), ("cutout", EXACT), ("flip", EXACT), ("scale", WARP), ("rotate", WARP)],
)
def test_each_family_equals_the_original(golden, family, tolerance, prefix):
    """Broken: a family's values or its derivative differ from the public code."""
    d = golden(f"dsa_{family}")
    draws = Draws(family=family, values=values_of(family, d, prefix))
    check(d, prefix, lambda images: Siamese().apply(images, draws), tolerance)


@pytest.mark.parametrize("prefix", BATCHES)
@pytest.mark.parametrize("part", ["brightness", "saturation", "contrast"])
def test_each_part_of_the_colour_family_equals_the_original(golden, part, prefix):
    """Broken: one of the three colour operations is wrong (the others are neutral at u = 1/2)."""
    d = golden(f"dsa_{part}")
    u = torch.from_numpy(d[f"{prefix}_u"])
    values = {name: u if name == part else torch.full_like(u, 0.5) for name in ("brightness", "saturation", "contrast")}
    check(d, prefix, lambda images: Siamese().apply(images, Draws(family="color", values=values)), COLOUR)


@pytest.mark.parametrize("prefix", BATCHES)
def test_one_of_six_equals_the_original(golden, prefix):
    """Broken: the order of families, or of a family's draws, is not the field's."""
    d = golden("dsa_one_of_six")
    family = FAMILIES[int(d[f"{prefix}_family_index"].item())]
    order = {
        "color": ("brightness", "saturation", "contrast"),
        "crop": ("rows", "columns"),
        "cutout": ("rows", "columns"),
        "flip": ("u",),
        "scale": ("x", "y"),
        "rotate": ("u",),
    }[family]
    values = {name: torch.from_numpy(d[f"{prefix}_draw{i}"]) for i, name in enumerate(order)}
    check(d, prefix, lambda images: Siamese().apply(images, Draws(family=family, values=values)), WARP)


@pytest.mark.parametrize("prefix", BATCHES)
def test_all_six_in_order_equal_the_original(golden, prefix):
    """Broken: families do not compose as in the public code."""
    d = golden("dsa_all_six_in_order")
    d |= {
        f"{prefix}_{ours}": d[f"{prefix}_{theirs}"]
        for ours, theirs in (
            ("shift_rows", "crop_shift_rows"),
            ("shift_cols", "crop_shift_cols"),
            ("offset_rows", "cutout_offset_rows"),
            ("offset_cols", "cutout_offset_cols"),
            ("u_sx", "u_scale_sx"),
            ("u_sy", "u_scale_sy"),
        )
    }

    def apply(images):
        for family in FAMILIES:
            d[f"{prefix}_u"] = d.get(f"{prefix}_u_{family}")
            images = Siamese().apply(images, Draws(family=family, values=values_of(family, d, prefix)))
        return images

    check(d, prefix, apply, WARP)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [8, 15, 16])
def test_draws_stay_in_their_ranges_and_come_from_the_given_generator(family, side):
    """Broken: ranges differ from the field's, or global random state is used."""
    before = torch.get_rng_state()
    values = Siamese().draw_family(family, (4000, 3, side, side + 2), torch.Generator().manual_seed(0))
    again = Siamese().draw_family(family, (4000, 3, side, side + 2), torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(values[k], again[k]) for k in values)
    for name, size in (("rows", side), ("columns", side + 2)):
        if family == "crop":
            shift = int(0.125 * size + 0.5)
            assert (int(values[name].min()), int(values[name].max())) == (-shift, shift)
        if family == "cutout":
            hole = int(0.5 * size + 0.5)
            assert (int(values[name].min()), int(values[name].max())) == (0, size if hole % 2 == 0 else size - 1)
    if family in ("color", "flip", "scale", "rotate"):
        assert all(0 <= float(v.min()) < 0.01 and 0.99 < float(v.max()) < 1 for v in values.values())


def test_one_family_is_drawn_for_a_batch_and_all_of_them_over_many():
    """Broken: families would be mixed within a batch, or some never used."""
    siamese = Siamese(families=("flip", "rotate", "crop"))
    seen = {siamese.draw((2, 1, 8, 8), torch.Generator().manual_seed(i)).family for i in range(60)}
    assert seen == {"flip", "rotate", "crop"}
    with pytest.raises(ValueError, match="mirror"):
        Siamese(families=("mirror",))


def test_scale_and_rotate_are_far_faster_than_a_loop_over_samples():
    """Broken: warping is no longer vectorised over the batch."""
    images, siamese = torch.rand(500, 3, 32, 32), Siamese()
    for family in ("scale", "rotate"):
        values = siamese.draw_family(family, tuple(images.shape), torch.Generator().manual_seed(0))

        def whole(family=family, values=values):
            return siamese.apply(images, Draws(family=family, values=values))

        def loop(family=family, values=values):
            rows = []
            for i in range(len(images)):
                one = Draws(family=family, values={k: v[i : i + 1] for k, v in values.items()})
                rows.append(siamese.apply(images[i : i + 1], one))
            return torch.cat(rows)

        assert torch.allclose(whole(), loop(), atol=1e-6)
        times = []
        for function in (whole, loop):
            began = time.perf_counter()
            function()
            times.append(time.perf_counter() - began)
        assert times[0] * 3 < times[1]


def test_no_augmentation_changes_nothing():
    """Broken: `none` would copy or change images."""
    images, none = torch.rand(2, 1, 4, 4), NoAugmentation()
    assert none.apply(images, none.draw((2, 1, 4, 4), torch.Generator())) is images
